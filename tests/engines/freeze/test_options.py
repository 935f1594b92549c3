"""What may be chosen of a freeze. If these fail, a refusal comes after hours of encoding."""

from pathlib import Path

import msgspec
import pytest

from safegen.engine.engine import Engine
from safegen.errors import UsageError
from safegen.format.bundle import read_bundle
from safegen.guard.regions import Regions
from safegen.guard.settings import Official, Ratio
from safegen_engines.freeze.calibrate import recalibrate
from safegen_engines.freeze.freeze import freeze
from safegen_engines.freeze.images import find_images
from safegen_engines.freeze.options import Options, check_counts, check_request
from safegen_engines.freeze.ordinary import Setup


@pytest.fixture(scope="module")
def engine(embedded: Path) -> Engine:
    return Engine.open(embedded)


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


def test_what_need_not_be_chosen() -> None:
    usual = Options(name="x")
    assert (usual.benign, usual.benign_count, usual.batch_size, usual.regions) == (None, 600, 8, 1)
    assert (usual.size, usual.guard, usual.skip_bad, usual.layout) == (None, None, False, Regions(1))
    assert Options(name="x", regions=2, anywhere=True).layout == Regions(2, anywhere=True)


def test_prompts_stand_alone_and_labels_come_in_turn() -> None:
    assert list(Options(name="x").subjects()) == []
    assert Options(name="x", benign_prompts=["a", "b"], benign_labels=[3]).subjects() == ["a", "b"]
    assert Options(name="x", benign_labels=[3, 5], benign_count=5).subjects() == [3, 5, 3, 5, 3]


@pytest.mark.parametrize(("negation", "benign"), [(1, 6), (2, 5), (0, 0)])
def test_two_negation_and_six_benign_images_are_the_least(negation: int, benign: int) -> None:
    check_counts(2, 6)
    with pytest.raises(
        UsageError, match=f"{negation} negation and {benign} benign images are too few; at least 2 and 6"
    ):
        check_counts(negation, benign)


def asked_of(engine: Engine, out: Path, **chosen: object) -> None:
    options = Options(name="x", **chosen)
    check_request(Setup(engine, options.size or (32, 32), 8, lambda *_: None), out, options)


def test_a_rate_that_the_prompts_cannot_tell_is_refused_before_the_work(engine, tmp_path) -> None:
    """The default is never refused: freeze takes the lowest that they can tell."""
    asked_of(engine, tmp_path / "x", benign_prompts=["a"] * 9, guard=Ratio(false_positive_rate=0.1))
    asked_of(engine, tmp_path / "x", benign_prompts=["a"] * 9)
    asked_of(engine, tmp_path / "x", benign_prompts=["a"] * 9, guard=Official())
    asked_of(engine, tmp_path / "x", guard=Ratio(false_positive_rate=0.1))  # images set it
    with pytest.raises(
        UsageError, match=r"9 ordinary pictures cannot tell a rate of 0\.05; give at least 19"
    ):
        asked_of(engine, tmp_path / "x", benign_prompts=["a"] * 9, guard=Ratio(false_positive_rate=0.05))


def test_subjects_that_the_model_does_not_take_are_refused_before_the_work(engine, tmp_path) -> None:
    with pytest.raises(UsageError, match="benign label is 3"):
        asked_of(engine, tmp_path / "x", benign_labels=[3])
    with pytest.raises(UsageError, match="knows no text"):
        asked_of(Engine.open("pixels"), tmp_path / "x", benign_prompts=["a coat"])


@pytest.mark.parametrize(
    ("height", "width", "fits"), [(16, 16, True), (32, 32, False), (16, 32, False), ("H", 16, True)]
)
def test_an_encoder_takes_a_region_or_any_size(engine, tmp_path, height, width, fits: bool) -> None:
    manifest = engine.manifest
    encoder = manifest.components["vae_encoder"]
    inputs = {n: msgspec.structs.replace(t, shape=["B", 3, height, width]) for n, t in encoder.inputs.items()}
    parts = manifest.components | {"vae_encoder": msgspec.structs.replace(encoder, inputs=inputs)}
    fixed = Engine(engine.folder, msgspec.structs.replace(manifest, components=parts), engine.device)
    chosen = {"benign": [tmp_path], "regions": 2, "anywhere": True}
    if fits:
        asked_of(fixed, tmp_path / "x", **chosen)
    else:
        with pytest.raises(UsageError, match=f"takes {width}x{height} pictures alone"):
            asked_of(fixed, tmp_path / "x", **chosen)
    asked_of(fixed, tmp_path / "x", benign=[tmp_path], regions=2)  # whole pictures are encoded


def test_a_model_of_pixels_encodes_any_size(tmp_path) -> None:
    asked_of(Engine.open("pixels"), tmp_path / "x", benign=[tmp_path], regions=2, anywhere=True)
