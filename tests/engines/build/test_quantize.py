"""Engines in 8 bits. If these fail, a quantized engine is refused, or draws something else."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import onnx
import pytest
import tiny

from safegen import Pipeline
from safegen.device import CPU
from safegen.engine.engine import Engine
from safegen.errors import EngineError, UsageError
from safegen.format.manifest import read_manifest
from safegen_engines.build import build, quantize
from safegen_engines.build.onnx_folder import Source, open_source
from safegen_engines.build.options import Options
from safegen_engines.build.target import TARGETS, capabilities, find_target
from safegen_engines.graph import onnx_graph

pytestmark = pytest.mark.slow


def engine_in(precision: str, source: Path, out: Path) -> Path:
    options = Options(target="rtx", precision=precision, guards=("ratio",), allow_unguarded=True)
    build.build(source, out, options)
    return out


def in_8_bits(precision: str, engine: Path) -> list[str]:
    """Check an engine of a quantized model and return the GPUs that it runs on."""
    manifest = read_manifest(engine)
    assert {n: p.precision for n, p in manifest.components.items()} == {
        "text_encoder": "fp16", "unet": precision, "vae_decoder": "fp16", "vae_encoder": "fp16",
    }  # fmt: skip
    unet = manifest.components["unet"]
    assert 1e-4 < unet.parity.max_rel < 0.25  # rounded, and not broken
    assert "nvidia_modelopt" in manifest.parts
    return unet.compiled.capabilities


def test_fp8_leaves_out_the_gpus_that_lack_it(onnx_folder: Path, tmp_path: Path) -> None:
    capabilities = in_8_bits("fp8", engine_in("fp8", onnx_folder, tmp_path / "engine"))
    assert capabilities == ["8.9", "12.0"]
    left = [f.name for f in (tmp_path / "engine").rglob("*") if "inputs" in f.name or "fp8" in f.name]
    assert not left
    assert (onnx_folder / "unet" / "model.onnx").is_file()


def test_int8_that_came_with_the_graphs_is_taken(onnx_folder: Path, tmp_path: Path, monkeypatch) -> None:
    """On a device there is no torch: the graph is made beforehand, and the source left as it was."""
    carried = tmp_path / "onnx"
    shutil.copytree(onnx_folder, carried)
    source = open_source(carried)
    before = source.graph("unet").read_bytes()
    quantize.quantize(source, "int8", quantize.graph_of(source, "int8"), lambda *said: None)
    assert source.graph("unet").read_bytes() == before
    assert {f.name for f in (carried / "unet").iterdir()} == {
        f.name for f in (onnx_folder / "unet").iterdir()
    } | {"int8.onnx"}
    monkeypatch.setattr(quantize, "quantize", None)
    assert in_8_bits("int8", engine_in("int8", carried, tmp_path / "engine")) == ["8.6", "8.9", "12.0"]


def test_a_model_with_many_inputs_quantizes(onnx_of, tmp_path: Path) -> None:
    source = open_source(onnx_of("sdxl")[1])
    quantize.quantize(source, "int8", tmp_path / "int8.onnx", lambda *said: None)
    graph = onnx.load(tmp_path / "int8.onnx").graph
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) > 5
    assert {i.name for i in graph.input} == set(onnx_graph.input_shapes(source.graph(source.model)))


def test_a_model_of_labels_is_recorded_drawing_labels(onnx_of, tmp_path: Path) -> None:
    quantize.record(open_source(onnx_of("classes")[1]), tmp_path / "inputs.npz", lambda *said: None)
    with np.load(tmp_path / "inputs.npz") as arrays:
        assert {0, 1, 2, 3} <= set(arrays["class_labels"].tolist())
        assert len(arrays["sample"]) == len(arrays["timestep"]) == len(arrays["class_labels"])


def trained_source(out: Path) -> Source:
    """The embedded engine's graphs beside its checkpoint's configuration, as an ONNX folder."""
    for name, config in {"text_encoder": "text_encoder", "unet": "unet", "vae_decoder": "vae",
                         "vae_encoder": "vae"}.items():  # fmt: skip
        (out / name).mkdir(parents=True)
        shutil.copyfile(tiny.EMBEDDED / f"{name}.onnx", out / name / "model.onnx")
        shutil.copyfile(tiny.EMBEDDED_CHECKPOINT / config / "config.json", out / name / "config.json")
    for folder in ("tokenizer", "scheduler"):
        shutil.copytree(tiny.EMBEDDED_CHECKPOINT / folder, out / folder)
    return open_source(out)


def test_the_quantized_model_draws_the_same_pictures(tmp_path: Path) -> None:
    """The trained model in int8, run by ONNX Runtime on the CPU: most pixels within a shade."""
    source = trained_source(tmp_path / "onnx")
    quantize.quantize(source, "int8", tmp_path / "int8.onnx", lambda *said: None)
    engine = Engine.open("fashion")
    parts = dict(engine.manifest.components)
    parts["unet"] = msgspec.structs.replace(parts["unet"], file=str(tmp_path / "int8.onnx"))
    rounded = Engine(engine.folder, msgspec.structs.replace(engine.manifest, components=parts), CPU)
    prompts = ["a photo of a coat", "a photo of a bag", "a photo of trousers"]
    ours, theirs = (
        np.stack([np.asarray(p.image, float) for p in Pipeline.over(e)(prompts, seed=2, steps=12)])
        for e in (rounded, engine)
    )
    assert np.abs(ours - theirs).mean() < 6.0


def test_without_model_optimizer_one_line_says_what_to_install(
    onnx_folder: Path, tmp_path: Path, monkeypatch
):
    source = open_source(onnx_folder)
    np.savez(tmp_path / "inputs.npz", sample=np.zeros((1, 4, 8, 8), np.float32))
    monkeypatch.setitem(sys.modules, "modelopt.onnx.quantization", None)
    with pytest.raises(EngineError, match=r"pip install 'safegen\[quantize\]'"):
        quantize.write(
            source.graph("unet"), "int8", tmp_path / "inputs.npz", tmp_path / "o.onnx", lambda *said: None
        )


def test_where_8_bits_have_no_meaning_they_are_refused() -> None:
    with pytest.raises(UsageError, match="Orin has"):
        find_target("orin-jp62", "fp8")
    with pytest.raises(UsageError, match="only compiled engines gain"):
        find_target("cpu", "int8")
    assert find_target("orin-jp62", "int8") and find_target("thor-jp72", "fp8")
    assert capabilities(TARGETS["rtx"], "fp8") == ("8.9", "12.0")


def test_too_little_memory_is_refused_before_anything_is_drawn(monkeypatch, tmp_path: Path) -> None:
    """Seven minutes of drawing and then a line about bad_alloc is how it was found."""
    monkeypatch.setattr(quantize, "available_memory", lambda: 300_000_000)
    folder = tmp_path / "unet"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"\0" * 1_000_000)
    source = SimpleNamespace(model="unet", graph=lambda name: folder / "model.onnx")
    with pytest.raises(EngineError, match=r"quantizing: this stage needs about 0\.4 GiB of memory, and 0\.3"):
        quantize.quantize(source, "int8", folder / "int8.onnx", lambda *_: None)
    assert [f.name for f in folder.iterdir()] == ["model.onnx"]
