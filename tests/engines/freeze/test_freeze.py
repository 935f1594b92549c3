"""Freezing. If these fail, a negation set silently lacks images, or holds them turned or cut."""

import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from safegen import Pipeline
from safegen.engine.engine import Engine
from safegen.errors import ImageError
from safegen.format.bundle import read_bundle
from safegen.format.image import read_rgb
from safegen.guard.settings import Ratio
from safegen_engines.freeze.freeze import freeze
from safegen_engines.freeze.images import find_images


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
