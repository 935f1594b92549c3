"""Graphs at each precision and size. If these fail, an engine draws noise, or runs on one processor."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from test_build import build

from safegen import Pipeline
from safegen.engine.engine import Engine
from safegen.engine.session import Session
from safegen.errors import EngineError
from safegen.format.manifest import read_manifest
from safegen_engines.build import parity
from safegen_engines.build.onnx_folder import open_source
from safegen_engines.graph import onnx_graph

pytestmark = pytest.mark.slow


def test_fp16_is_smaller_and_within_its_tolerance(source: Path, tmp_path: Path) -> None:
    full = build(source, tmp_path / "fp32", allow_unguarded=True)
    half = build(source, tmp_path / "fp16", precision="fp16", allow_unguarded=True)
    assert sum(b.bytes for b in half) < 0.75 * sum(b.bytes for b in full)
    assert all(1e-6 < b.component.parity.max_rel < 2e-2 for b in half)
    pictures = [Pipeline.load(tmp_path / p)("a coat", steps=4, guard="off")[0] for p in ("fp32", "fp16")]
    a, b = (np.asarray(p.image).astype(int) for p in pictures)
    assert np.abs(a - b).max() <= 8  # 11 bits over four steps


def test_a_value_cast_twice_still_makes_a_graph_that_loads(tmp_path: Path) -> None:
    """ONNX Runtime 1.31's converter writes this; without the repair no half-precision engine is built."""
    cast = onnx.helper.make_node("Cast", ["x"], ["cast"], "cast", to=onnx.TensorProto.FLOAT16)
    uses = [onnx.helper.make_node("Neg", ["cast"], ["minus"]), onnx.helper.make_node("Abs", ["cast"], ["y"])]
    values = {
        n: onnx.helper.make_tensor_value_info(n, t, [2])
        for n, t in (
            ("x", onnx.TensorProto.FLOAT),
            ("minus", onnx.TensorProto.FLOAT16),
            ("y", onnx.TensorProto.FLOAT16),
        )
    }
    graph = onnx.helper.make_graph(
        [cast, uses[0], cast, uses[1]], "twice", [values["x"]], [values["minus"], values["y"]]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    path = tmp_path / "twice.onnx"
    onnx.save(model, path)
    with pytest.raises(EngineError, match="cannot load"):
        Session(path)
    onnx_graph.drop_repeated(model.graph)
    onnx.save(model, path)
    found = Session(path).run(x=np.array([1, -2], np.float32))
    assert found["minus"].tolist() == [-1, 2]
    assert found["y"].tolist() == [1, 2]


def test_bundles_fit_both_precisions_of_one_checkpoint(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "fp32")
    build(source, tmp_path / "fp16", precision="fp16")
    ids = {read_manifest(tmp_path / p).latent_space.id for p in ("fp32", "fp16")}
    assert len(ids) == 1


def test_a_component_that_overflows_in_half_precision_stays_in_full(
    bare_source: Path, tmp_path: Path
) -> None:
    """Its norms take the factor out again, but 65504 is passed on the way, as in SDXL's autoencoder."""
    path = bare_source / "vae_decoder" / "model.onnx"
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if "decoder.conv_in" in tensor.name:
            values = onnx.numpy_helper.to_array(tensor) * np.float32(1e6)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)
    built = {b.name: b for b in build(bare_source, tmp_path / "engine", precision="fp16")}
    assert {name: b.component.precision for name, b in built.items()} == {
        "text_encoder": "fp16", "unet": "fp16", "vae_encoder": "fp16", "vae_decoder": "fp32",
    }  # fmt: skip
    assert built["vae_decoder"].component.parity.tolerance == parity.TOLERANCE["fp32"]
    assert read_manifest(tmp_path / "engine").components["vae_decoder"].precision == "fp32"


def test_large_graphs_keep_their_weights_in_a_file_beside_them(
    source: Path, tmp_path: Path, monkeypatch
) -> None:
    """Above 2 GB a protocol buffer cannot hold them; here the limit is lowered instead."""
    monkeypatch.setattr(onnx_graph, "EXTERNAL_DATA_BYTES", 100_000)
    build(source, tmp_path / "engine", allow_unguarded=True)
    manifest = Engine.open(tmp_path / "engine").manifest
    assert "unet.onnx.data" in manifest.files
    data, graph = tmp_path / "engine" / "unet.onnx.data", tmp_path / "engine" / "unet.onnx"
    assert data.stat().st_mode == graph.stat().st_mode
    assert Pipeline.load(tmp_path / "engine")("a coat", steps=2, guard="off")


def test_no_graph_is_tied_to_one_instruction_set(source: Path, tmp_path: Path) -> None:
    onnx_graph.optimize_offline(source / "unet" / "model.onnx", tmp_path / "x.onnx")
    model = onnx.load(tmp_path / "x.onnx")
    layouts = {n.domain for n in model.graph.node}
    assert "com.microsoft.nchwc" not in layouts
    reference, cases = parity.read_cases(open_source(source), "unet")
    assert parity.check("unet", Session(tmp_path / "x.onnx"), cases, reference, "fp32").max_rel < 1e-4
