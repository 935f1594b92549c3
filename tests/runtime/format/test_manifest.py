"""``engine.json``. If these fail, a folder is opened that is not the one that was built, or a word in it is
believed in that nobody reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from safegen.errors import EngineError
from safegen.files import file_sha256
from safegen.format.manifest import FILE_NAME, File, Manifest, read_manifest, verify_files, write_manifest
from safegen.format.seal import ZEROS, seal

COMPILED = {
    "file": "unet.rtx", "context": "unet_context.onnx", "backend": "tensorrt-rtx", "version": "1.1",
    "capabilities": ["8.0+"], "profile": {"sample": [[1, 4, 8, 8]] * 3}, "weights": "unet_typed.onnx",
}  # fmt: skip
UNET = {
    "file": "unet.onnx", "inputs": {"sample": {"dtype": "float32", "shape": ["B", 4, 8, 8]}}, "outputs": {},
    "parity": {"reference": "torch", "max_abs": 1e-5, "max_rel": 1e-6, "tolerance": 1e-4},
    "precision": "fp16", "compiled": COMPILED,
}  # fmt: skip
FILES = ("unet.onnx", "unet.rtx", "unet_context.onnx", "unet_typed.onnx", "step_ratio.onnx", "step_ratio.rtx",
         "tokenizer.json", "schedule.safetensors", "default.negation")  # fmt: skip
CONTENT: dict[str, Any] = {
    "name": "tiny", "target": "rtx", "precision": "fp16", "fingerprint": "ab" * 32,
    "parts": {}, "built_with": {},
    "created": "2026-01-01T00:00:00+00:00", "components": {"unet": UNET}, "model": "unet",
    "conditioning": {"text": {"encoder_hidden_states": [["text_encoder.last"]]}},
    "latent_space": {"id": "cd" * 32, "channels": 4, "downscale": 8},
    "tokenizers": {"text_encoder": {"file": "tokenizer.json", "max_length": 77, "pad_token": "!"}},
    "scheduler": {}, "guards": ["ratio"], "schedule": "schedule.safetensors", "bundle": "default.negation",
    "defaults": {"solver": "ddim", "steps": 20, "guidance_scale": 7.5, "width": 64, "height": 64},
    "steps": {"ratio": {"file": "step_ratio.onnx",
                        "compiled": COMPILED | {"file": "step_ratio.rtx", "context": None, "weights": None}}},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An engine of tiny files that no graph is in."""
    for name in FILES:
        (tmp_path / name).write_text(f"content of {name}")
    write_manifest(tmp_path, msgspec.convert({**CONTENT, "files": digests(tmp_path)}, Manifest))
    return tmp_path


def digests(folder: Path) -> dict[str, Any]:
    return {
        name: {"sha256": file_sha256(folder / name), "bytes": (folder / name).stat().st_size}
        for name in FILES
    }


def reseal(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """A manifest that is sealed rightly and says something else."""
    content = json.loads((folder / FILE_NAME).read_text())
    change(content)
    content["digest"] = ZEROS
    (folder / FILE_NAME).write_text(json.dumps(content))
    seal(folder / FILE_NAME)


def test_what_is_written_is_read_and_verified(folder: Path) -> None:
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    assert manifest.components["unet"].compiled.context == "unet_context.onnx"
    assert (manifest.schema_version, manifest.allow_unguarded) == (6, False)
    assert not list(folder.glob("*.tmp*"))
    reseal(folder, lambda c: c["guards"].append("off"))
    assert read_manifest(folder).allow_unguarded


def test_what_need_not_be_said(folder: Path) -> None:
    manifest = read_manifest(folder)
    space, told = manifest.latent_space, manifest.conditioning
    assert (space.scaling_factor, space.shift_factor, space.patch) == (1.0, 0.0, 1)
    assert (told.classes, told.null_class, told.guidance, told.zero_negative) == (
        0,
        None,
        "classifier-free",
        False,
    )
    assert manifest.tokenizers["text_encoder"].chunked is False
    assert manifest.components["unet"].compiled.portable is False


NESTED = (
    (), ("files", "unet.onnx"), ("components", "unet"), ("components", "unet", "inputs", "sample"),
    ("components", "unet", "parity"), ("components", "unet", "compiled"), ("steps", "ratio"),
    ("latent_space",), ("tokenizers", "text_encoder"), ("conditioning",), ("defaults",),
)  # fmt: skip


@pytest.mark.parametrize("place", NESTED, ids=lambda place: ".".join(place) or "whole")
def test_an_unknown_word_is_refused_wherever_it_stands(folder: Path, place: tuple[str, ...]) -> None:
    """A setting that nobody reads is a setting that somebody believes in."""

    def add(content: dict[str, Any]) -> None:
        for name in place:
            content = content[name]
        content["strength"] = 5

    reseal(folder, add)
    with pytest.raises(EngineError, match=r"not an engine manifest \(.*strength"):
        read_manifest(folder)


@pytest.mark.parametrize("field", [name for name in CONTENT if name != "bundle"])
def test_a_missing_word_is_named(folder: Path, field: str) -> None:
    reseal(folder, lambda content: content.pop(field))
    with pytest.raises(EngineError, match=field):
        read_manifest(folder)


def test_no_manifest_is_no_engine(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="did not finish"):
        read_manifest(tmp_path)
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(EngineError, match=r"no engine\.json here"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", '{"digest": "00"}'])
def test_a_manifest_without_a_digest_is_refused(tmp_path: Path, text: str) -> None:
    """Its own is missing then, and equals the one that it does not state."""
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(EngineError, match="digest missing, sealed as missing"):
        read_manifest(tmp_path)


def test_a_changed_manifest_says_so(folder: Path) -> None:
    text, digest = (folder / FILE_NAME).read_text(), read_manifest(folder).digest
    (folder / FILE_NAME).write_text(text.replace('"tiny"', '"tony"'))
    with pytest.raises(EngineError, match=rf"\(digest [0-9a-f]{{12}}, sealed as {digest[:12]}\)"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('{{"digest": "{0}"', "not an engine manifest"),
        ('[{{"digest": "{0}"}}]', "not an engine manifest"),
        ('{{"digest": "{0}", "schema_version": 5}}', "engine schema 5, this safegen reads 6"),
        ('{{"digest": "{0}"}}', "engine schema None"),
    ],
)
def test_sealed_and_no_manifest(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / FILE_NAME).write_text(text.format(ZEROS))
    seal(tmp_path / FILE_NAME)
    with pytest.raises(EngineError, match=word):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_every_file_that_is_used_has_a_digest(folder: Path, name: str) -> None:
    """Graphs, what they are compiled to, weights, tokenizers, the schedule and the bundle."""
    reseal(folder, lambda content: content["files"].pop(name))
    with pytest.raises(EngineError, match=f"{name} is used but has no digest"):
        verify_files(folder, read_manifest(folder))


@pytest.mark.parametrize("name", ["../outside", "sub/inside", "/etc/hostname", "."])
def test_a_name_that_leaves_the_folder_is_refused(folder: Path, name: str) -> None:
    (folder / "sub").mkdir()
    for place in (folder.parent / "outside", folder / "sub" / "inside"):
        place.write_text("content")
    reseal(folder, lambda c: c["files"].update({name: {"sha256": "00", "bytes": 7}}))
    with pytest.raises(EngineError, match="is not a plain file name"):
        verify_files(folder, read_manifest(folder))


def test_a_file_that_is_missing_cut_or_changed_is_named(folder: Path) -> None:
    manifest, path = read_manifest(folder), folder / "step_ratio.onnx"
    content = path.read_text()
    path.write_text(content[:-1])
    with pytest.raises(EngineError, match=r"step_ratio\.onnx: 25 bytes, the engine was sealed with 26"):
        verify_files(folder, manifest)
    path.write_text(content.upper())
    with pytest.raises(EngineError, match=r"step_ratio\.onnx: changed since the engine was built"):
        verify_files(folder, manifest)
    path.unlink()
    with pytest.raises(EngineError, match=r"step_ratio\.onnx: missing from the engine"):
        verify_files(folder, manifest)
    path.mkdir()
    with pytest.raises(EngineError, match=r"step_ratio\.onnx: missing from the engine"):
        verify_files(folder, manifest)


def test_an_engine_without_a_bundle_or_compiled_graphs_is_whole(folder: Path) -> None:
    def portable(content: dict[str, Any]) -> None:
        content.update(bundle=None)
        for graph in (content["components"]["unet"], content["steps"]["ratio"]):
            graph["compiled"] = None
        for name in FILES:
            if name.endswith((".rtx", "_context.onnx", "_typed.onnx", ".negation")):
                del content["files"][name]

    reseal(folder, portable)
    verify_files(folder, read_manifest(folder))


def test_a_manifest_that_cannot_be_written_leaves_none(folder: Path) -> None:
    manifest = read_manifest(folder)
    (folder / FILE_NAME).unlink()
    broken = msgspec.structs.replace(manifest, scheduler={"beta": float("nan")}, digest=ZEROS)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_manifest(folder, broken)
    assert not (folder / FILE_NAME).exists()
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)
    assert File("ab", 3) == msgspec.convert({"sha256": "ab", "bytes": 3}, File)
