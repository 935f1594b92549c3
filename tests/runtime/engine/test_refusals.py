"""Fails closed: with one byte changed anywhere, or without its guard, nothing is drawn."""

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tiny

from safegen import Pipeline
from safegen.engine.engine import Engine
from safegen.errors import BundleError, EngineError, GuardError, SafegenError, UsageError
from safegen.format.bundle import BundleInfo, read_bundle
from safegen.format.manifest import read_manifest, write_manifest
from safegen.guard.settings import RIVALS


@pytest.fixture
def copy(embedded: Path, tmp_path: Path) -> Path:
    """An engine of our own to break."""
    return Path(shutil.copytree(embedded, tmp_path / "engine"))


def reseal(folder: Path, **changes) -> None:
    """A manifest that is sealed rightly and says something else."""
    manifest = msgspec.structs.replace(read_manifest(folder), digest="0" * 64, **changes)
    write_manifest(folder, manifest)


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def files(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir() if f.is_file())


NAMES = ["default.negation", "engine.json", "schedule.safetensors", "step_ratio.onnx", "text_encoder.onnx",
         "tokenizer.json", "unet.onnx", "vae_decoder.onnx", "vae_encoder.onnx"]  # fmt: skip


def test_the_engine_holds_what_these_tests_break(embedded: Path) -> None:
    found = files(embedded)
    assert set(NAMES) == {n for n in found if not n.startswith("step_")} | {"step_ratio.onnx"}
    assert set(NAMES) <= set(found)


@pytest.mark.parametrize("share", [0.0, 0.37, 0.999])
@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_bit_in_any_file(copy: Path, name: str, share: float) -> None:
    flip(copy / name, int(share * (copy / name).stat().st_size))
    with pytest.raises(SafegenError, match=name):
        Pipeline.load(copy)


@pytest.mark.parametrize("name", NAMES)
def test_a_truncated_file(copy: Path, name: str) -> None:
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(SafegenError, match=name):
        Pipeline.load(copy)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(SafegenError, match=name):
        Pipeline.load(copy)


def test_two_files_swapped(copy: Path) -> None:
    (copy / "vae_decoder.onnx").rename(copy / "x")
    (copy / "vae_encoder.onnx").rename(copy / "vae_decoder.onnx")
    (copy / "x").rename(copy / "vae_encoder.onnx")
    with pytest.raises(EngineError, match=r"vae_\w+\.onnx"):
        Pipeline.load(copy)


def test_every_byte_of_the_manifest_counts(copy: Path) -> None:
    sealed = (copy / "engine.json").read_bytes()
    for position in range(0, len(sealed), 7):
        flip(copy / "engine.json", position)
        with pytest.raises(EngineError, match=r"engine\.json"):
            read_manifest(copy)
        (copy / "engine.json").write_bytes(sealed)


def test_an_unfinished_build_is_no_engine(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="did not finish"):
        Engine.open(tmp_path)


def test_another_schema(copy: Path) -> None:
    reseal(copy, schema_version=99)
    with pytest.raises(EngineError, match="schema 99"):
        Engine.open(copy)


def test_an_unknown_key_in_the_manifest(copy: Path) -> None:
    """A setting that nobody reads is a setting that somebody believes in."""
    from safegen.format.seal import ZEROS, seal

    path = copy / "engine.json"
    content = {**json.loads(path.read_text()), "digest": ZEROS, "guard_strength": 5}
    path.write_text(json.dumps(content))
    seal(path)
    with pytest.raises(EngineError, match="guard_strength"):
        Engine.open(copy)


def test_a_file_name_that_leaves_the_folder(copy: Path) -> None:
    manifest = read_manifest(copy)
    entry = manifest.files["unet.onnx"]
    reseal(copy, files={**manifest.files, "../outside": entry})
    with pytest.raises(EngineError, match="plain file name"):
        Engine.open(copy)


def test_a_component_without_a_digest(copy: Path) -> None:
    manifest = read_manifest(copy)
    reseal(copy, files={k: v for k, v in manifest.files.items() if k != "unet.onnx"})
    with pytest.raises(EngineError, match=r"unet\.onnx"):
        Engine.open(copy)


def test_no_bundle(copy: Path) -> None:
    guards = [g for g in read_manifest(copy).guards if g != "off"]
    reseal(copy, bundle=None, guards=guards)
    with pytest.raises(BundleError, match="only with a negation bundle"):
        Pipeline.load(copy)


def test_a_bundle_of_another_autoencoder(embedded: Path, tmp_path: Path) -> None:
    own = read_bundle(embedded / "default.negation")
    info = msgspec.structs.replace(own.info, latent_space="00" * 32)
    tiny.rewrite(tmp_path / "other.negation", msgspec.structs.replace(own, info=info))
    with pytest.raises(BundleError, match="another autoencoder"):
        Pipeline.load(embedded, tmp_path / "other.negation")


def test_a_bundle_of_another_size(embedded: Path) -> None:
    with pytest.raises(BundleError, match="32x32 pictures, not 64x32"):
        Pipeline.load(embedded)("a coat", size=(64, 32))


def test_a_guard_that_the_manifest_does_not_allow(copy: Path) -> None:
    reseal(copy, guards=["ratio"])
    pipeline = Pipeline.load(copy)
    with pytest.raises(GuardError, match=r"does not allow the guard 'spell'; it allows ratio"):
        pipeline("a coat", guard="spell")
    with pytest.raises(GuardError, match="--allow-unguarded"):
        pipeline("a coat", guard="off")
    assert pipeline("a coat", steps=2)[0].settings["guarded"]


@pytest.mark.parametrize("guard", RIVALS)
def test_what_the_guard_is_compared_with_is_no_more_than_no_guard(copy: Path, guard: str) -> None:
    """It may stop nothing: where the manifest does not allow ``off``, no name of another gets past it."""
    reseal(copy, guards=["ratio", guard])
    with pytest.raises(GuardError, match=f"guard {guard!r}.* not built with --allow-unguarded"):
        Pipeline.load(copy)("a coat", guard=guard)
    reseal(copy, guards=["ratio", "off"])
    [picture] = Pipeline.load(copy)("a coat", guard=guard, steps=1)
    assert picture.settings["guard"]["mode"] == guard


def test_a_bundle_cannot_bring_a_guard_that_the_manifest_does_not_allow(copy: Path, tmp_path: Path) -> None:
    from safegen.guard.settings import Off

    reseal(copy, guards=["ratio"])
    own = read_bundle(copy / "default.negation")
    info: BundleInfo = msgspec.structs.replace(own.info, guard=Off())
    tiny.rewrite(tmp_path / "off.negation", msgspec.structs.replace(own, info=info))
    with pytest.raises(GuardError, match="'off'"):
        Pipeline.load(copy, tmp_path / "off.negation")("a coat")


def test_without_a_bundle_unguarded_must_be_asked_for(copy: Path) -> None:
    reseal(copy, bundle=None)
    pipeline = Pipeline.load(copy)
    with pytest.raises(GuardError, match="say so"):
        pipeline("a coat")
    assert pipeline("a coat", guard="off", steps=2)[0].settings["guarded"] is False


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"guard": "magic"}, "known are"),
        ({"guard": "official:none"}, "official:nudity"),
        ({"guard": "ratio:nudity"}, "presets"),
        ({"size": (33, 32)}, "multiples of 4"),
        ({"n": 0}, "at least 1"),
        ({"seed": -1}, "seed"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"steps": 5000}, "1 to 1000"),
        ({"steps": 0}, "1 to 1000"),
        ({"solver": ""}, "known are"),
        ({"class_label": 3}, "knows no classes"),
        ({"solver": "dpm++2m", "guard": "official"}, "use ddim"),
    ],
)
def test_a_request_without_meaning(embedded: Path, settings: dict, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        Pipeline.load(embedded)("a coat", **settings)


def test_a_graph_that_gives_nan_draws_nothing(embedded: Path) -> None:
    engine = Engine.open(embedded)
    with pytest.raises(EngineError, match="NaN or infinity"):
        engine.decode(np.full((1, 4, 8, 8), np.nan, np.float32))
