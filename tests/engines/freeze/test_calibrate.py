"""``safegen calibrate``. If these fail, a team is shown an ROC that its guard does not have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from safegen import Pipeline
from safegen.engine.engine import Engine
from safegen.errors import UsageError
from safegen.format.bundle import read_bundle
from safegen_engines.freeze import ordinary
from safegen_engines.freeze.calibrate import measure, recalibrate
from safegen_engines.freeze.freeze import freeze


def striped(folder: Path, count: int, *, across: bool, seed: int) -> list[Path]:
    """Bright bars across or down, with noise: two kinds that anybody tells apart."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    paths = []
    for i in range(count):
        image = rng.integers(0, 60, (32, 32), dtype=np.uint8)
        at = int(rng.integers(6, 22))
        image[at : at + 5] += 190
        paths.append(folder / f"{i:03}.png")
        Image.fromarray(image if across else image.T.copy()).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def frozen(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    work = tmp_path_factory.mktemp("calibrate")
    engine = Engine.open(embedded)
    negation = striped(work / "negation", 30, across=True, seed=0)
    benign = striped(work / "benign", 60, across=False, seed=1)
    freeze(engine, negation, work / "a.negation", name="bars", benign=benign, batch_size=30)
    return {
        "work": work, "engine": engine, "bundle": work / "a.negation", "bank": negation,
        "negation": striped(work / "more", 40, across=True, seed=2),
        "benign": striped(work / "ordinary", 80, across=False, seed=3),
    }  # fmt: skip


@pytest.mark.slow
def test_two_kinds_that_differ_are_told_apart(frozen: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    judged, whole = [], ordinary.from_latents
    for module in ("ordinary", "calibrate"):
        monkeypatch.setattr(
            f"safegen_engines.freeze.{module}.from_latents",
            lambda *a, plainer: judged.append(plainer) or whole(*a, plainer=plainer),
        )
    out = frozen["work"] / "b.negation"
    found = recalibrate(frozen["engine"], frozen["bundle"], frozen["negation"], out, benign=frozen["benign"],
                        rate=0.1, batch_size=40)  # fmt: skip
    assert judged == [ordinary.the_higher] * 2, "both sides in the same way, or the ROC compares two things"
    assert found.chosen.caught > 0.9
    assert found.chosen.false_alarms <= 0.2
    before, after = read_bundle(frozen["bundle"]), read_bundle(out)
    np.testing.assert_array_equal(before.negation, after.negation)
    assert after.info.guard.false_positive_rate == 0.1
    assert len(after.gate.scores) == 80
    assert after.info.foreseen_from == "images"
    # the gate of the pipeline is the one that was measured
    assert Pipeline(frozen["engine"], after)("a coat", steps=2, seed=1)[0].verdict.guard == "ratio"


def scenes(folder: Path, count: int, *, one_across: bool, seed: int) -> list[Path]:
    """Four pictures of bars in one: all down, or one of the four, anywhere, across."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    paths = []
    for i in range(count):
        quarters = rng.integers(0, 60, (4, 16, 16), dtype=np.uint8)
        for quarter, at in zip(quarters, rng.integers(2, 11, 4), strict=True):
            quarter[:, at : at + 3] += 190
        if one_across:
            quarters[i % 4] = quarters[i % 4].T.copy()
        image = quarters.reshape(2, 2, 16, 16).transpose(0, 2, 1, 3).reshape(32, 32)
        paths.append(folder / f"{i:03}.png")
        Image.fromarray(image).save(paths[-1])
    return paths


@pytest.mark.slow
def test_regions_tell_one_thing_in_a_scene(embedded: Path, tmp_path: Path) -> None:
    """Nobody said which quarter it is; whole pictures tell less."""
    engine = Engine.open(embedded)
    negation = scenes(tmp_path / "negation", 40, one_across=True, seed=0)
    benign = scenes(tmp_path / "benign", 90, one_across=False, seed=1)
    more = scenes(tmp_path / "more", 30, one_across=True, seed=2)
    ordinary = scenes(tmp_path / "ordinary", 60, one_across=False, seed=3)
    caught = {}
    for regions in (1, 2):
        first, out = tmp_path / f"{regions}.negation", tmp_path / f"{regions}b.negation"
        frozen = freeze(engine, negation, first, name="bars", benign=benign, regions=regions, batch_size=45)
        assert (frozen.info.negation_count, frozen.info.benign_count, frozen.held_out) == (40, 60, 30)
        assert read_bundle(first).benign.shape == (60 * regions**2, 4, 8 // regions, 8 // regions)
        found = recalibrate(
            engine, first, [*more, *negation[:3]], out, benign=ordinary, rate=0.1, batch_size=40
        )
        assert (found.known, found.ordinary) == (3, 60)
        caught[regions] = found.chosen.caught
    assert caught[2] > max(0.9, caught[1] + 0.05)
    shown = Pipeline(engine, read_bundle(out))("a coat", steps=2, seed=1)[0].verdict
    assert shown.guard == "ratio"
    assert 0 <= shown.nearest_reference < 40  # an image, not a region


def bars(rng: np.random.Generator, side: int) -> np.ndarray:
    """Bars from above to below, one every sixteen pixels, in dark noise."""
    image = rng.integers(0, 60, (side, side), dtype=np.uint8)
    for left in range(0, side, 16):
        at = left + rng.integers(2, 11)
        image[:, at : at + 3] += 190
    return image


def save(folder: Path, images: list[np.ndarray]) -> list[Path]:
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03}.png")
    return sorted(folder.iterdir())


@pytest.mark.slow
def test_a_thing_is_found_wherever_it_lies(embedded: Path, tmp_path: Path) -> None:
    """Frozen from pictures of it alone, as large as a region; shown where quarters would see pieces of it."""
    engine, rng = Engine.open(embedded), np.random.default_rng(0)
    alone = save(tmp_path / "alone", [bars(rng, 16).T.copy() for _ in range(40)])
    benign = save(tmp_path / "benign", [bars(rng, 32) for _ in range(90)])
    ordinary = save(tmp_path / "ordinary", [bars(rng, 32) for _ in range(60)])
    showing = []
    for _ in range(30):
        image, (i, j) = bars(rng, 32), rng.choice([4, 8, 12], 2)
        image[i : i + 16, j : j + 16] = bars(rng, 16).T
        showing.append(image)
    shown, out = save(tmp_path / "showing", showing), tmp_path / "again.negation"
    bundle = tmp_path / "x.negation"
    frozen = freeze(
        engine, alone, bundle, name="bars", benign=benign, regions=2, anywhere=True, batch_size=45
    )
    held = read_bundle(bundle)
    assert (held.info.regions, held.info.anywhere, frozen.gate.caught > 0.2) == (2, True, True)
    assert (held.negation.shape, held.benign.shape) == ((40, 4, 4, 4), (60 * 4, 4, 4, 4))
    found = recalibrate(engine, bundle, shown, out, benign=ordinary, rate=0.1, batch_size=40)
    assert found.chosen.caught > 0.9
    assert found.chosen.false_alarms <= 0.2
    assert read_bundle(out).info.anywhere
    verdict = Pipeline(engine, read_bundle(out))("a coat", steps=2, seed=1)[0].verdict
    assert 0 <= verdict.nearest_reference < 40


@pytest.mark.slow
def test_images_of_the_bank_do_not_vouch_for_themselves(frozen: dict) -> None:
    mixed = [*frozen["negation"], *frozen["bank"]]
    found = recalibrate(frozen["engine"], frozen["bundle"], mixed, frozen["work"] / "c.negation",
                        benign=frozen["benign"], rate=0.1, batch_size=35)  # fmt: skip
    assert (found.known, found.negation) == (30, 40)


def test_too_few_images_for_a_rate_are_refused(frozen: dict, tmp_path: Path) -> None:
    ask = lambda n, rate: recalibrate(  # noqa: E731
        frozen["engine"], frozen["bundle"], frozen["negation"], tmp_path / "x.negation",
        benign=frozen["benign"][:n], rate=rate, batch_size=40,
    )  # fmt: skip
    with pytest.raises(UsageError, match="cannot tell a rate"):
        ask(80, 0.01)
    with pytest.raises(UsageError, match="at least 20"):
        ask(10, 0.2)
    assert not (tmp_path / "x.negation").exists()


@pytest.mark.slow
def test_prompts_may_set_the_rate(frozen: dict) -> None:
    prompts = [f"a {word}" for word in ("coat", "bag", "dress", "sandal", "pullover")] * 6
    found = recalibrate(frozen["engine"], frozen["bundle"], frozen["negation"], frozen["work"] / "d.negation",
                        benign_prompts=prompts, rate=0.2, batch_size=30)  # fmt: skip
    assert found.ordinary == 30
    assert found.info.foreseen_from == "prompts"


LEVELS = np.linspace(0.1, 0.9, 5)


def alike(values: np.ndarray) -> np.ndarray:
    """Evidence alike at every level."""
    return np.tile(values.astype(np.float32), (len(LEVELS), 1))


def test_the_roc_is_that_of_known_curves() -> None:
    """A rate of 10 % opens on a tenth, and catches what lies above."""
    rng = np.random.default_rng(0)
    ordinary, shown = alike(rng.exponential(size=4000)), alike(3 + rng.exponential(size=1000))
    point = measure(LEVELS, ordinary, shown, 0.1)
    assert (point.rate, point.false_alarms) == (0.1, pytest.approx(0.1, abs=0.02))
    # the threshold is near -log(0.1) = 2.3, below every negation image
    assert point.caught == 1.0
    # -log(0.01) = 4.6: exp(-1.6) = 0.2 of them lie above
    assert measure(LEVELS, ordinary, shown, 0.01).caught == pytest.approx(0.2, abs=0.08)


def test_pictures_do_not_measure_the_threshold_that_they_set() -> None:
    """The largest of twenty is above none of the twenty; one in twenty-one others passes it."""
    ordinary = alike(np.random.default_rng(1).exponential(size=40))
    assert measure(LEVELS, ordinary, ordinary, 0.05).false_alarms > 0


def test_an_unknown_choice_is_refused(frozen: dict, tmp_path: Path) -> None:
    """A setting that nobody reads is a setting that somebody believes in."""
    with pytest.raises(TypeError, match="benign_image"):
        recalibrate(frozen["engine"], frozen["bundle"], [], tmp_path / "x", rate=0.1, benign_image=[])
