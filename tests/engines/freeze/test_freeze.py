"""Freezing. If these fail, a negation set silently lacks images, or holds them turned or cut."""

import resource
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from safegen import Pipeline
from safegen.engine.engine import Engine
from safegen.errors import ImageError, UsageError
from safegen.files import file_sha256
from safegen.format.bundle import read_bundle
from safegen.format.image import read_rgb
from safegen.guard.bandwidth import bandwidth_of
from safegen.guard.bank import evidence_at
from safegen.guard.gate import fit_gate, thresholds
from safegen.guard.regions import Regions, at_random
from safegen.guard.settings import Paper, Ratio
from safegen_engines.freeze.axes import gate_axes
from safegen_engines.freeze.banks import make_banks
from safegen_engines.freeze.curves import density_of
from safegen_engines.freeze.freeze import _draw, _highest, freeze
from safegen_engines.freeze.images import find_images
from safegen_engines.freeze.ordinary import Setup
from safegen_engines.freeze.rate import Kind, caught_share, opened_by_others, rate_promised, warnings


@pytest.fixture(scope="module")
def engine(embedded: Path) -> Engine:
    return Engine.open(embedded)


def test_a_bundle_guards_the_engine_that_froze_it(
    engine: Engine, picture_folder: Path, tmp_path: Path
) -> None:
    paths = find_images([str(picture_folder)])
    out = tmp_path / "x.negation"
    frozen = freeze(engine, paths[:5], out, name="noise", benign=paths, batch_size=3,
                    guard=Ratio(false_positive_rate=0.2))  # fmt: skip
    bundle = read_bundle(out)
    assert (bundle.info.negation_count, bundle.info.benign_count, frozen.held_out) == (5, 8, 4)
    assert bundle.info.guard == Ratio(false_positive_rate=0.2)
    expected = engine.encode_images(np.stack([read_rgb(p, 32, 32) for p in paths[:5]]))
    # float16 keeps 11 bits
    assert np.abs(bundle.negation.astype(np.float32) - expected).max() < 4e-3
    assert Pipeline(engine, bundle)("a coat", steps=2)[0].settings["bundle"] == frozen.digest


def test_the_same_images_give_the_same_latents_at_any_batch_size(engine, picture_folder, tmp_path) -> None:
    paths = find_images([str(picture_folder)])
    bundles = []
    for size in (1, 5):
        freeze(engine, paths, tmp_path / f"{size}", name="x", benign=paths, batch_size=size)
        bundles.append(read_bundle(tmp_path / f"{size}"))
    assert np.abs(bundles[0].negation - bundles[1].negation).max() < 4e-3
    assert bundles[0].info.source_digest == bundles[1].info.source_digest


@pytest.fixture
def evidence(monkeypatch: pytest.MonkeyPatch):
    """Evidence of so many ordinary pictures at two levels, in place of what the model foresees."""

    def put(pictures: int, seen: np.ndarray | None = None) -> np.ndarray:
        curves = np.arange(2.0)[:, None] - np.arange(pictures)[None, ::-1] if seen is None else seen
        levels = np.array([0.1, 0.9])
        found = (levels, curves.astype(np.float32)), "prompts"
        monkeypatch.setattr("safegen_engines.freeze.freeze.measure_ordinary", lambda *_: found)
        monkeypatch.setattr("safegen_engines.freeze.freeze._beyond_unasked", lambda *_: 0.0)
        return found[0][1]

    return put


@pytest.mark.parametrize(
    ("prompts", "asked", "rate"),
    [(499, None, 0.005), (150, None, 1 / 151), (99, 0.01, 0.01), (250, 0.25, 0.25)],
)
def test_the_gate_and_its_rate_are_of_the_ordinary_pictures(
    engine, picture_folder, tmp_path, evidence, prompts: int, asked: float | None, rate: float
) -> None:
    """One in 200, or the lowest that so few can tell; a rate that is asked for is kept."""
    seen = evidence(prompts)
    images = find_images([str(picture_folder)])
    guard = None if asked is None else Ratio(false_positive_rate=asked)
    frozen = freeze(engine, images, tmp_path / "x.negation", name="x", benign=images, guard=guard,
                    benign_prompts=["a coat"] * prompts)  # fmt: skip
    bundle = read_bundle(tmp_path / "x.negation")
    assert bundle.info.guard == Ratio(false_positive_rate=rate)
    for ours, theirs in zip(bundle.gate, fit_gate([0.1, 0.9], seen), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert frozen.judged == prompts
    assert frozen.gate[:3] == (rate, *rate_promised(prompts, rate))
    halves = opened_by_others(np.array([0.1, 0.9]), seen, rate)
    assert frozen.gate.false_alarms == halves.mean()
    banks = make_banks(bundle.negation, bundle.benign, 1)
    [clean] = thresholds(bundle.gate, rate, [1.0])
    assert frozen.gate.caught == caught_share(banks.bank, banks.judged(), banks.bandwidth, clean)


def test_a_rate_that_they_cannot_tell_is_refused(engine, picture_folder, tmp_path, evidence) -> None:
    evidence(98)
    images = find_images([str(picture_folder)])
    with pytest.raises(UsageError, match=r"98 ordinary pictures cannot tell a rate of 0\.01; .* 99"):
        freeze(engine, images, tmp_path / "x", name="x", benign=images, guard=Ratio(false_positive_rate=0.01))
    assert not (tmp_path / "x").exists()
    frozen = freeze(engine, images, tmp_path / "x", name="x", benign=images, guard=Paper(quantile=0.1))
    assert (frozen.gate, frozen.info.guard) == (None, Paper(quantile=0.1))


def test_ordinary_pictures_beyond_every_benign_image_are_counted_by_their_kind(
    engine, picture_folder, tmp_path, evidence
) -> None:
    """Those of the held-out benign images set how far is far; labels come after the images beside them."""
    seen = np.full((2, 80), -1e6, np.float32)
    seen[1, 60:] = 1e6  # of the forty pictures of labels, which come last, the second twenty
    evidence(80, seen)
    images = find_images([str(picture_folder)])
    prompts = ["bag"] * 20 + ["boot"] * 20
    frozen = freeze(engine, images, tmp_path / "x", name="x", benign=images, benign_prompts=prompts)
    assert frozen.gate.beyond == 0.25
    assert frozen.gate.beyond_kind == Kind("boot", 1.0, 20)
    assert "most of all 'boot'" in "".join(warnings(frozen.gate))
    latents = engine.encode_images(np.stack([read_rgb(p, 32, 32) for p in images]))
    held_out = latents[np.sort(np.random.default_rng(0).permutation(12)[:4])]
    bundle = read_bundle(tmp_path / "x")
    limit = evidence_at(held_out, bundle.bank(), bundle.info.bandwidth).max()
    for offset, share in ((-0.1, 0.0), (0.1, 0.25)):
        seen[1, 60:] = limit + offset
        evidence(80, seen)
        frozen = freeze(engine, images, tmp_path / "x", name="x", benign=images, benign_prompts=prompts)
        assert frozen.gate.beyond == share


@pytest.mark.parametrize(("name", "nothing"), [("fashion", ""), ("pixels", None)])
def test_where_nobody_names_ordinary_prompts_sixty_pictures_of_nothing_are_looked_at(
    name: str, nothing: str | None, picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the bank lacks shows in what the engine draws of itself; with prompts nothing is drawn."""
    images, asked = find_images([str(picture_folder)]), []
    seen = np.full((2, 60), -1e6, np.float32)
    seen[1, :15] = 1e6
    ordinary = (np.array([0.1, 0.9]), np.full((2, 20), -1e6, np.float32))
    module = "safegen_engines.freeze.freeze"
    monkeypatch.setattr(f"{module}.measure_ordinary", lambda *_: (ordinary, "images"))
    monkeypatch.setattr(
        f"{module}.from_subjects", lambda setup, subjects, at: asked.append(subjects) or (None, seen)
    )
    frozen = freeze(Engine.open(name), images, tmp_path / "x", name="x", benign=images)
    assert asked == [[nothing] * 60]
    assert (frozen.gate.drawn, frozen.gate.beyond) == (0.25, 0.0)
    subjects = {"benign_prompts": ["a"] * 20} if nothing == "" else {"benign_labels": [1], "benign_count": 20}
    frozen = freeze(Engine.open(name), images, tmp_path / "x", name="x", benign=images, **subjects)
    assert (len(asked), frozen.gate.drawn) == (1, None)
    freeze(Engine.open(name), images, tmp_path / "x", name="x", benign=images, guard=Paper())
    assert len(asked) == 1


def test_a_third_of_the_benign_images_is_kept_out_of_the_bank_by_lot(
    engine, picture_folder, tmp_path, evidence
) -> None:
    evidence(20)
    images, said = find_images([str(picture_folder)]), []
    frozen = freeze(engine, images[:2], tmp_path / "x", name="x", benign=images, batch_size=5,
                    report=lambda *line: said.append(line))  # fmt: skip
    assert (frozen.held_out, frozen.info.benign_count, frozen.info.target_count) == (4, 8, 8)
    assert frozen.lookalikes == 0
    kept = np.sort(np.random.default_rng(0).permutation(12)[4:])
    expected = engine.encode_images(np.stack([read_rgb(images[i], 32, 32) for i in kept]))
    bank = read_bundle(tmp_path / "x").benign.astype(np.float32)
    gaps = np.abs(bank[:, None] - expected[None]).max(axis=(2, 3, 4))
    assert (gaps.min(axis=1) < 4e-3).all() and sorted(gaps.argmin(axis=1)) == list(range(8))
    assert said == [("negation images", 2, 2), *(("benign images", n, 12) for n in (5, 10, 12)),
                    ("calibration", 0, 1), ("calibration", 1, 1)]  # fmt: skip


def test_of_each_benign_image_some_regions_are_drawn_by_lot(
    engine, picture_folder, tmp_path, evidence
) -> None:
    """The same on every machine."""
    evidence(20)
    images = find_images([str(picture_folder)])
    freeze(engine, images, tmp_path / "x", name="x", benign=images, regions=2, anywhere=True)
    kept = np.sort(np.random.default_rng(0).permutation(12)[4:])
    latents = engine.encode_images(np.stack([read_rgb(images[i], 32, 32) for i in kept]))
    expected = at_random(latents, Regions(2, anywhere=True), np.random.default_rng(0))
    bank = read_bundle(tmp_path / "x").benign.astype(np.float32)
    gaps = np.abs(bank[:, None] - expected[None]).max(axis=(2, 3, 4))
    assert (gaps.min(axis=1) < 4e-3).all() and sorted(gaps.argmin(axis=1)) == list(range(32))


def test_the_highest_of_some_images_is_sought_among_all() -> None:
    latents = np.array([9, 1, 2, 3, 4], np.float16).reshape(5, 1, 1, 1)
    for batch_size in (1, 2, 5, 8):
        assert _highest(lambda x0: x0.sum(axis=(1, 2, 3)), latents, batch_size) == 9.0
        assert _highest(lambda x0: x0.sum(axis=(1, 2, 3)), latents[::-1], batch_size) == 9.0


def test_paper_is_calibrated_on_the_negation_images(engine, picture_folder, tmp_path, evidence) -> None:
    evidence(20)
    images = find_images([str(picture_folder)])
    freeze(engine, images, tmp_path / "x", name="x", benign=images)
    bundle = read_bundle(tmp_path / "x")
    expected = density_of(bundle.bank(), bundle.negation.astype(np.float32), np.arange(12))
    np.testing.assert_array_equal(bundle.density.quantiles, expected.quantiles)


@pytest.mark.parametrize("name", ["fashion", "pixels"])
def test_every_model_s_gate_has_axes(name: str, picture_folder: Path, tmp_path: Path, evidence) -> None:
    evidence(20)
    images = find_images([str(picture_folder)])
    freeze(Engine.open(name), images, tmp_path / "x", name="x", benign=images)
    bundle = read_bundle(tmp_path / "x")
    axes = gate_axes(bundle.negation, bundle.benign)
    np.testing.assert_array_equal(bundle.axes, axes)
    assert len(axes) > 1 and axes.any()
    assert bundle.info.bandwidth == pytest.approx(bandwidth_of(bundle.bank()), rel=1e-5)


def test_the_digest_is_over_the_images_that_went_in(engine, picture_folder, tmp_path, evidence) -> None:
    evidence(20)
    (picture_folder / "03.png").write_bytes(b"not an image")
    images = find_images([str(picture_folder)])
    frozen = freeze(engine, images[:5], tmp_path / "x", name="x", benign=images[5:], skip_bad=True)
    digests = [file_sha256(p) for p in images if p.name != "03.png"]
    assert frozen.info.source_digest == sha256("\n".join(digests).encode()).hexdigest()


def test_the_engine_draws_of_no_prompt_with_at_most_twenty_steps(engine, monkeypatch) -> None:
    """Enough for pictures that nobody looks at, and a quarter of the time of 80."""
    said, asked = [], []
    whole, plan = engine.uncondition, engine.plan
    monkeypatch.setattr(engine, "uncondition", lambda *told: asked.append(told) or whole(*told))
    monkeypatch.setattr(
        engine, "plan", lambda solver, steps, size: asked.append(steps) or plan(solver, 2, size)
    )
    setup = Setup(engine, (32, 32), 2, lambda *line: said.append(line))
    drawn = _draw(setup, 3)
    assert asked == [20, ("", 2, (32, 32), 1.0), ("", 1, (32, 32), 1.0)]
    assert said == [("drawing benign pictures", 2, 3), ("drawing benign pictures", 3, 3)]
    assert (drawn.shape, drawn.dtype) == ((3, 4, 8, 8), np.float16)
    alone = _draw(Setup(engine, (32, 32), 1, lambda *line: None), 3)  # seeds 0, 1, 2
    assert np.abs(drawn.astype(float) - alone).max() < 2e-2


def test_unreadable_images_are_named_and_stop_the_freeze(engine, picture_folder, tmp_path) -> None:
    (picture_folder / "03.png").write_bytes(b"not an image")
    whole = (picture_folder / "04.png").read_bytes()
    (picture_folder / "04.png").write_bytes(whole[: len(whole) // 2])
    paths, out = find_images([str(picture_folder)]), tmp_path / "x.negation"
    with pytest.raises(ImageError, match=r"2 of 12 images .*03\.png.*04\.png.*--skip-bad"):
        freeze(engine, paths, out, name="x", benign=paths[5:])
    assert not out.exists()
    frozen = freeze(engine, paths, out, name="x", benign=paths[5:], skip_bad=True)
    assert frozen.info.negation_count == 10
    assert [line.split(": ")[0][-6:] for line in frozen.bad] == ["03.png", "04.png"]


@pytest.mark.slow
def test_without_benign_images_the_engine_draws_them(engine, embedded, tmp_path) -> None:
    """And what it draws of the negated class must not vouch for itself on the benign side."""
    own = read_bundle(embedded / "default.negation")
    folder = tmp_path / "shoes"
    folder.mkdir()
    for i, image in enumerate(engine.decode(own.negation[:60].astype(np.float32))):
        Image.fromarray(image).save(folder / f"{i}.png")
    frozen = freeze(engine, find_images([str(folder)]), tmp_path / "x.negation", name="shoes",
                    benign_count=120, batch_size=40)  # fmt: skip
    assert frozen.info.benign_source == "drawn by the engine"
    assert 0 < frozen.lookalikes < 60
    pipeline = Pipeline(engine, read_bundle(tmp_path / "x.negation"))
    assert sum(p.verdict.opened > 0 for p in pipeline("a sneaker", n=4, seed=0)) >= 3


@pytest.mark.slow
def test_memory_does_not_grow_with_the_pixels(engine, picture_folder, tmp_path) -> None:
    """10,000 photographs would be 10 GB of pixels; only their latents may stay."""
    large = tmp_path / "large"
    large.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (1200, 1600, 3), np.uint8)).save(large / "000.jpg")
    for i in range(1, 60):
        shutil.copy(large / "000.jpg", large / f"{i:03}.jpg")
    paths = find_images([str(large)])
    freeze(engine, paths[:4], tmp_path / "warm", name="x", benign=paths[:8], batch_size=4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    freeze(engine, paths, tmp_path / "x", name="x", benign=paths[:8], batch_size=4)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 60, f"{grown:.0f} MiB for 60 images of 5.8 MB of pixels each"
