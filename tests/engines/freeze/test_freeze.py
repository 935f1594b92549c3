"""Freezing. If these fail, a negation set silently lacks images, or holds them turned or cut."""

import resource
import shutil
from itertools import product
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from safegen import Pipeline
from safegen.engine.engine import Engine
from safegen.errors import ImageError, UsageError
from safegen.format.bundle import read_bundle
from safegen.format.image import read_rgb
from safegen.guard.bandwidth import bandwidth_of
from safegen.guard.settings import Official, Ratio
from safegen_engines.freeze.calibrate import recalibrate
from safegen_engines.freeze.freeze import freeze
from safegen_engines.freeze.images import find_images, other_files
from safegen_engines.freeze.lookalikes import drop_lookalikes, targets_first
from safegen_engines.freeze.rate import RATES, STRICT


@pytest.fixture(scope="module")
def engine(embedded: Path) -> Engine:
    return Engine.open(embedded)


def test_images_are_read_as_people_see_them(tmp_path: Path) -> None:
    red, blue = (255, 0, 0), (0, 0, 255)
    upright = Image.new("RGB", (20, 10), red)
    upright.paste(blue, (0, 0, 10, 10))
    for name in ("a.png", "a.webp"):
        upright.save(tmp_path / name, lossless=True)
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    expected = np.asarray(upright)
    for name in ("a.png", "a.webp", "turned.jpg"):
        difference = np.abs(read_rgb(tmp_path / name, 20, 10).astype(int) - expected)
        assert np.median(difference) <= 2, name  # JPEG blurs along the edge


def test_transparency_lies_on_white_and_grey_becomes_rgb(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("LA", (8, 8), (0, 128)).save(tmp_path / "half.png")
    Image.new("L", (8, 8), 77).save(tmp_path / "grey.png")
    Image.fromarray(np.full((8, 8), 77 * 257, np.uint16)).save(tmp_path / "grey16.png")
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30] * 256)
    palette.save(tmp_path / "palette.png")
    wanted = {"clear": 255, "half": 127, "grey": 77, "grey16": 77}
    for name, value in wanted.items():
        assert np.abs(read_rgb(tmp_path / f"{name}.png", 8, 8).astype(int) - value).max() <= 1, name
    assert read_rgb(tmp_path / "palette.png", 8, 8)[0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    ("name", "kind"), [("moving.gif", "GIF"), ("moving.webp", "WEBP"), ("pages.tif", "TIFF")]
)
def test_a_file_of_several_pictures_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    """Read as its first picture, it would leave the others out of the bank and say nothing."""
    first, second = (Image.new("RGB", (8, 8), color) for color in ("red", "blue"))
    first.save(tmp_path / name, kind, save_all=True, append_images=[second])
    with pytest.raises(ImageError, match=f"{name}: holds 2 pictures; save each"):
        read_rgb(tmp_path / name, 8, 8)


def test_a_photograph_with_what_the_camera_adds_is_one_picture(tmp_path: Path) -> None:
    red, added = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8))
    red.save(tmp_path / "photo.jpg", "MPO", save_all=True, append_images=[added])
    assert np.abs(read_rgb(tmp_path / "photo.jpg", 8, 8)[0, 0].astype(int) - (255, 0, 0)).max() <= 2


def test_pixels_of_no_known_range_are_refused(tmp_path: Path) -> None:
    """Cut off at 255, a picture of 0 to 1 would be black, and stand for nothing in the bank."""
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "real.tiff")
    with pytest.raises(ImageError, match="no known range"):
        read_rgb(tmp_path / "real.tiff", 8, 8)


@pytest.mark.slow
def test_damaged_files_are_read_or_named(tmp_path: Path) -> None:
    """One among thousands must not end a freeze in a traceback; TIFF's reader raises more than it says."""
    path = tmp_path / "damaged.tif"
    Image.effect_noise((16, 16), 40).save(path)
    whole, refused = path.read_bytes(), 0
    for place, value in product(range(200), (0, 1, 255)):
        path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
        try:
            assert read_rgb(path, 8, 8).shape == (8, 8, 3)
        except ImageError as error:
            refused += str(error).startswith(f"{path}: not a readable image")
    assert refused > 50


def test_folders_globs_and_files_are_found_in_order(picture_folder: Path) -> None:
    (picture_folder / "sub").mkdir()
    Image.new("RGB", (4, 4)).save(picture_folder / "sub" / "x.JPG", "JPEG")
    (picture_folder / "notes.txt").write_text("no image")
    (picture_folder / ".DS_Store").write_bytes(b"hidden")
    Image.new("RGB", (4, 4)).save(picture_folder / "sub" / "y.avif", "PNG")
    assert len(find_images([str(picture_folder)])) == 13
    assert [f.name for f in other_files([str(picture_folder)])] == ["notes.txt", "y.avif"]
    assert other_files([str(picture_folder / "notes.txt")]) == []
    assert len(find_images([str(picture_folder / "0*.png")])) == 10
    assert len(find_images([str(picture_folder / "00.png"), str(picture_folder)])) == 13
    with pytest.raises(UsageError, match="no images"):
        find_images([str(picture_folder / "*.gif")])


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


def test_kernels_are_as_wide_as_the_distances_that_they_are_of(engine, picture_folder, tmp_path) -> None:
    """The gate counts by the bundle's axes, and the weighing of targets plainly; mixed up, thresholds are
    of another gate than the one that draws."""
    paths = find_images([str(picture_folder)])
    freeze(engine, paths, tmp_path / "x", name="x", benign=paths)
    bundle = read_bundle(tmp_path / "x")
    bank = bundle.bank()
    assert bundle.info.bandwidth == pytest.approx(bandwidth_of(bank), rel=1e-4)
    plain = bank._replace(measure=None)
    assert bundle.info.aim_bandwidth == pytest.approx(bandwidth_of(plain), rel=1e-4)
    assert bundle.info.bandwidth < 0.9 * bundle.info.aim_bandwidth


def test_for_a_model_without_text_every_direction_counts_alike(picture_folder, tmp_path) -> None:
    """With axes half as many again get through of those drawn of no class (research/tried.md)."""
    paths = find_images([str(picture_folder)])
    freeze(Engine.open("pixels"), paths, tmp_path / "x", name="x", benign=paths)
    bundle = read_bundle(tmp_path / "x")
    assert bundle.axes.shape == (1, 32 * 32) and not bundle.axes.any()
    assert bundle.info.bandwidth == bundle.info.aim_bandwidth


@pytest.mark.parametrize(("prompts", "rate"), [(499, STRICT), (498, RATES[0]), (0, RATES[0])])
def test_the_strict_rate_is_for_many_prompts(
    engine, picture_folder, tmp_path, monkeypatch, prompts, rate
) -> None:
    """Else prompts that say so are lost as ordinary pictures, or images that cannot say so shut the gate."""
    seen = np.full((2, 600), -1e6, np.float32) + np.arange(600, dtype=np.float32)
    levels = np.array([-5, 5], np.float32)
    monkeypatch.setattr(
        "safegen_engines.freeze.freeze.measure_ordinary", lambda *_: ((levels, seen), "prompts")
    )
    images = find_images([str(picture_folder)])
    frozen = freeze(engine, images, tmp_path / "x.negation", name="x", benign=images,
                    benign_prompts=["a coat"] * prompts)  # fmt: skip
    assert frozen.gate == (rate, 1.0)
    assert frozen.info.guard == Ratio(false_positive_rate=rate)


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


def test_a_place_that_takes_no_bundle_is_refused_before_the_work(engine, picture_folder, tmp_path) -> None:
    """Encoding some thousand images takes hours on a small device."""
    paths = find_images([str(picture_folder)])

    def worked(what: str, done: int, total: int) -> None:
        pytest.fail(f"{what}: began before it was known where to write")

    (tmp_path / "file").touch()
    for out, word in [
        (tmp_path, "is a folder"),
        (tmp_path / "file" / "x.negation", "no file can be written"),
    ]:
        with pytest.raises(UsageError, match=word):
            freeze(engine, paths, out, name="x", benign=paths, report=worked)
    made = tmp_path / "new" / "folder" / "x.negation"
    freeze(engine, paths, made, name="x", benign=paths)
    assert read_bundle(made).info.name == "x"
    with pytest.raises(UsageError, match="is a folder"):
        recalibrate(engine, made, paths, tmp_path, benign=paths, rate=0.1, report=worked)


def test_too_few_images_are_refused(engine, picture_folder, tmp_path) -> None:
    paths = find_images([str(picture_folder)])
    with pytest.raises(UsageError, match="too few"):
        freeze(engine, paths[:1], tmp_path / "x", name="x", benign=paths)


@pytest.mark.parametrize(
    ("options", "word"),
    [({"regions": 3}, "3 regions a side do not fit latents of 8x8"), ({"regions": 2}, "Give --benign"),
     ({"anywhere": True}, "name --regions, too"), ({"regions": 2, "anywhere": True}, "Give --benign"),
     ({"regions": 2, "guard": Official()}, "the guard official does not know")],
)  # fmt: skip
def test_regions_that_cannot_be_are_refused(engine, picture_folder, tmp_path, options, word) -> None:
    paths = find_images([str(picture_folder)])
    with pytest.raises(UsageError, match=word):
        freeze(engine, paths, tmp_path / "x", name="x", **options)
    assert not (tmp_path / "x").exists()


def test_an_encoder_of_one_size_cannot_take_a_thing_alone(engine, picture_folder, tmp_path) -> None:
    """Refused before it runs, and not with the words of a graph that is fed another size."""
    manifest = engine.manifest
    encoder = manifest.components["vae_encoder"]
    inputs = {name: msgspec.structs.replace(t, shape=[1, 3, 32, 32]) for name, t in encoder.inputs.items()}
    parts = manifest.components | {"vae_encoder": msgspec.structs.replace(encoder, inputs=inputs)}
    fixed = Engine(engine.folder, msgspec.structs.replace(manifest, components=parts), engine.device)
    paths = find_images([str(picture_folder)])
    with pytest.raises(UsageError, match="takes 32x32 pictures alone"):
        freeze(fixed, paths, tmp_path / "x", name="x", benign=paths, regions=2, anywhere=True)
    assert not (tmp_path / "x").exists()


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


def test_lookalikes_are_dropped_and_others_kept() -> None:
    rng = np.random.default_rng(0)
    shape = (4, 3, 3)
    negation = (rng.standard_normal((30, *shape)) * 0.3 + 2).astype(np.float16)
    like = (rng.standard_normal((10, *shape)) * 0.3 + 2).astype(np.float16)
    other = (rng.standard_normal((90, *shape)) * 0.3 - 1).astype(np.float16)
    kept = drop_lookalikes(np.concatenate([like, other]), negation)
    assert len(kept) == 90
    assert (kept == other).all()


def test_many_lookalikes_do_not_vouch_for_one_another() -> None:
    """As many as there are ordinary pictures: each would find a nearer neighbour among its like."""
    rng = np.random.default_rng(0)
    shape = (4, 3, 3)
    negation = (rng.standard_normal((30, *shape)) * 0.3 + 2).astype(np.float16)
    like = (rng.standard_normal((90, *shape)) * 0.3 + 2).astype(np.float16)
    other = (rng.standard_normal((90, *shape)) * 0.3 - 1).astype(np.float16)
    kept = drop_lookalikes(np.concatenate([like, other]), negation)
    assert (kept == other).all()


def test_what_looks_like_the_negation_set_is_no_target() -> None:
    rng = np.random.default_rng(0)
    shape = (4, 3, 3)
    negation = (rng.standard_normal((30, *shape)) * 0.3 + 2).astype(np.float16)
    like = (rng.standard_normal((5, *shape)) * 0.3 + 1.8).astype(np.float16)
    other = (rng.standard_normal((95, *shape)) * 0.3 - 1).astype(np.float16)
    ordered, targets = targets_first(np.concatenate([like, other]), negation)
    assert targets == 90
    assert sorted(map(bytes, ordered[-5:])) == sorted(map(bytes, like))
    assert sorted(map(bytes, ordered)) == sorted(map(bytes, np.concatenate([like, other])))


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
