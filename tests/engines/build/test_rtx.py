"""Engines for RTX GPUs, compiled for real: TensorRT for RTX needs no GPU for that.

If these fail, an engine is built that no RTX box loads, or a stale one is taken for a fresh one. What
needs a GPU, running them, is in tests/gpu/.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import families
import onnx
import pytest
import tiny
from onnx import TensorProto, helper

from safegen.engine.engine import Engine
from safegen.errors import EngineError, UsageError
from safegen.format.manifest import RTX, TENSORRT, read_manifest, verify_files
from safegen.guard.regions import Regions
from safegen.guard.settings import SIGNABLE
from safegen.machine import gpu
from safegen_engines.build import build, component, fingerprint
from safegen_engines.build.components import Built
from safegen_engines.build.onnx_folder import open_source
from safegen_engines.build.options import Options, check_options, up_to_date
from safegen_engines.build.shapes import component_shapes
from safegen_engines.build.target import TARGETS
from safegen_engines.graph import onnx_graph, trt_compile

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rtx(onnx_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny engine shaped like Stable Diffusion, in fp16."""
    out = tmp_path_factory.mktemp("rtx") / "engine"
    build_for("rtx", onnx_folder, out, guards=SIGNABLE)
    return out


def build_for(
    target: str, source: Path, out: Path, precision: str = "fp16", guards: tuple[str, ...] = ("ratio",)
) -> list[Built]:
    built: list[Built] = []
    options = Options(target=target, precision=precision, guards=guards, allow_unguarded=True)
    build.build(source, out, options, report=built.append)
    return built


def test_every_component_is_compiled_and_sealed(rtx: Path) -> None:
    manifest = read_manifest(rtx)
    verify_files(rtx, manifest)
    assert set(manifest.components) == {"text_encoder", "unet", "vae_decoder", "vae_encoder"}
    for part in manifest.components.values():
        assert part.compiled.backend == RTX
        assert part.compiled.capabilities == ["8.6", "8.9", "12.0"]
        assert {part.file, part.compiled.file, part.compiled.context} <= set(manifest.files)
        assert part.precision == "fp16"
        assert 1e-6 < part.parity.max_rel < 2e-2  # the typed graph against torch
    for name, step in manifest.steps.items():
        assert {step.file, step.compiled.file, step.compiled.context} <= set(manifest.files)
        apart = {"ratio-2x2": 4, "ratio-4x4": 16}.get(name.removesuffix("-anywhere"), 1)
        rows, parts = (
            (1, Regions(math.isqrt(apart), anywhere=True).count((16, 16)))
            if name.endswith("-anywhere")
            else (apart, apart)
        )
        assert step.compiled.profile["refs"] == [[rows * n, 1024 // apart] for n in (1, 500, 16384)]
        assert step.compiled.profile["benign"] == [[apart * n, 1024 // apart] for n in (1, 1000, 16384)]
        assert step.compiled.profile["latched"] == [[parts], [parts], [parts * 8]]
    graph = onnx.load(rtx / "unet.onnx")
    assert not any(t.data_type == TensorProto.FLOAT16 for t in graph.graph.initializer)  # the stand-in
    assert not list((rtx / ".build").glob("*/typed.onnx"))


def test_guided_pictures_of_half_to_one_and_a_half_sides_fit(rtx: Path) -> None:
    parts = read_manifest(rtx).components
    assert parts["unet"].compiled.profile["sample"] == [[1, 4, 8, 8], [2, 4, 16, 16], [8, 4, 24, 24]]
    assert parts["vae_encoder"].compiled.profile["sample"] == [
        [1, 3, 16, 16], [1, 3, 32, 32], [1, 3, 48, 48],
    ]  # fmt: skip
    low, usual, high = parts["unet"].compiled.profile["encoder_hidden_states"]
    assert (low[1], usual[1], high[1]) == (24, 24, 96)  # four windows of text
    assert parts["unet"].compiled.profile["timestep"] == [[1], [2], [8]]


READ = """
import pathlib, sys
import tensorrt_rtx as trt

class Log(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)

    def log(self, severity, message):
        print(message)

log = Log()
print("loaded", trt.Runtime(log).deserialize_cuda_engine(pathlib.Path(sys.argv[1]).read_bytes()) is not None)
"""


def test_the_runtime_reads_the_engine_up_to_where_it_needs_a_gpu(rtx: Path, tmp_path: Path) -> None:
    """Without a GPU it checks the header and the size, then asks CUDA; a cut engine fails before."""
    whole = (rtx / "unet.rtx").read_bytes()
    (tmp_path / "cut.rtx").write_bytes(whole[:-100])
    said = [
        subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True).stdout
        for path in (rtx / "unet.rtx", tmp_path / "cut.rtx")
    ]
    assert "Serialization" not in said[0]
    assert "loaded True" in said[0] or "cudaError" in said[0]
    assert "Serialization assertion" in said[1]


def test_the_wrapper_names_the_engine_beside_it(rtx: Path) -> None:
    manifest = read_manifest(rtx)
    for part in manifest.components.values():
        model = onnx.load(rtx / part.compiled.context)
        (node,) = model.graph.node
        assert (node.op_type, node.domain) == ("EPContext", "com.microsoft")
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        assert given["ep_cache_context"] == part.compiled.file.encode()
        assert given["embed_mode"] == 0
        assert given["source"] == b"NvTensorRTRTXExecutionProvider"
        assert [i.name for i in model.graph.input] == list(part.inputs)
        assert [o.name for o in model.graph.output] == list(part.outputs)


@pytest.mark.parametrize("name", families.SMALL[::-1])  # the parity tests export from the other end
def test_every_family_compiles_in_half_precision(
    onnx_of: Callable[..., tuple[Path, Path]], tmp_path: Path, name: str
) -> None:
    """Its model; of the others, which families share, the parser takes every node."""
    source = open_source(onnx_of(name)[1])
    for part in source.components:
        typed = tmp_path / f"{part}.onnx"
        onnx_graph.save_graph(onnx_graph.to_fp16(onnx_graph.load_graph(source.graph(part))), typed)
        if part != source.model:
            assert trt_compile.parse(part, typed, RTX)[1].num_layers > 0
            continue
        recipe = trt_compile.Recipe(RTX, component_shapes(source, part, TARGETS["rtx"]), 2**30, ("8.9",))
        trt_compile.compile_graph(part, typed, tmp_path / f"{part}.rtx", recipe, lambda *report: None)
        assert (tmp_path / f"{part}.rtx").stat().st_size > 1e6


def test_bf16_compiles_too(onnx_folder: Path, tmp_path: Path) -> None:
    built = {b.name: b.component for b in build_for("rtx", onnx_folder, tmp_path / "engine", "bf16")}
    assert {part.precision for part in built.values()} == {"bf16"}
    assert built["unet"].parity.reference == "torch, weights alone"
    assert 1e-4 < built["unet"].parity.max_rel < 5e-2


def test_the_embedded_model_compiles_each_part_in_its_own_process(
    own_processes, exported, tmp_path: Path
) -> None:
    from safegen_export.checkpoint import open_checkpoint

    source = exported(open_checkpoint(tiny.EMBEDDED_CHECKPOINT), tmp_path / "onnx")
    built = build_for("rtx", source, tmp_path / "engine")
    assert [b.component.compiled.backend for b in built] == [RTX] * 4


def test_what_the_parser_refuses_is_named_with_its_component(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    node = helper.make_node("NoSuchOperator", ["x"], ["y"], name="odd", domain="nowhere")
    graph = helper.make_graph([node], "g", [value], [out])
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("nowhere", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), tmp_path / "g.onnx")
    recipe = trt_compile.Recipe(RTX, {"x": ((1,), (1,), (1,))}, 2**20, ("8.9",))
    with pytest.raises(EngineError, match="unet: tensorrt-rtx cannot read the graph: NoSuchOperator odd"):
        trt_compile.compile_graph(
            "unet", tmp_path / "g.onnx", tmp_path / "g.rtx", recipe, lambda *report: None
        )
    assert not (tmp_path / "g.rtx").exists()


@pytest.mark.skipif(gpu() is not None, reason="this machine has a GPU")
@pytest.mark.parametrize("on_jetson", [True, False])
def test_portable_engines_ask_the_compiler_for_it(onnx_folder: Path, on_jetson: bool) -> None:
    """The flags by the library's own names; what it makes of them needs TensorRT itself."""
    import tensorrt_rtx

    _, network, _parser = trt_compile.parse("unet", onnx_folder / "unet" / "model.onnx", RTX)
    shapes = component_shapes(open_source(onnx_folder), "unet", TARGETS["rtx"])
    recipe = trt_compile.Recipe(
        TENSORRT, shapes, 2**28, form=trt_compile.Form(portable=True), on_jetson=on_jetson
    )
    builder = MagicMock()
    builder.create_builder_config.return_value.add_optimization_profile.return_value = 0
    builder.create_builder_config.return_value.hardware_compatibility_level = None
    config = trt_compile._configure(tensorrt_rtx, builder, network, recipe)
    config.set_flag.assert_called_once_with(tensorrt_rtx.BuilderFlag.VERSION_COMPATIBLE)
    ampere = tensorrt_rtx.HardwareCompatibilityLevel.AMPERE_PLUS
    assert config.hardware_compatibility_level == (None if on_jetson else ampere)
    with pytest.raises(UsageError, match="portable: is for engines of TensorRT"):
        check_options(Options(target="rtx", precision="fp16", portable=True))


def test_the_compiler_reports_its_progress(onnx_folder: Path, tmp_path: Path) -> None:
    source, seen = open_source(onnx_folder), []
    recipe = trt_compile.Recipe(
        RTX, component_shapes(source, "text_encoder", TARGETS["rtx"]), 2**30, ("8.9",)
    )
    trt_compile.compile_graph(
        "text_encoder", source.graph("text_encoder"), tmp_path / "x.rtx", recipe,
        lambda *report: seen.append(report),
    )  # fmt: skip
    assert seen
    assert all(0 <= share <= 1 for _, share in seen)


def test_explain_names_the_changed_weights(onnx_folder: Path, rtx: Path, tmp_path: Path) -> None:
    manifest = read_manifest(rtx)
    assert fingerprint.explain(manifest.parts, fingerprint.today(manifest.parts, "rtx", onnx_folder)) == {}
    other = Path(shutil.copytree(onnx_folder, tmp_path / "other"))
    path = other / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "beta_end": 0.013}))
    different = fingerprint.explain(manifest.parts, fingerprint.today(manifest.parts, "rtx", other))
    assert list(different) == ["configuration"]


def test_a_stale_engine_is_built_anew(onnx_folder: Path, rtx: Path, monkeypatch) -> None:
    options = Options(target="rtx", precision="fp16", allow_unguarded=True)
    assert up_to_date(onnx_folder, rtx, options)
    monkeypatch.setattr(fingerprint, "version", lambda name: "0.0")  # another library than built it
    assert not up_to_date(onnx_folder, rtx, options)


def test_a_gpu_engine_does_not_open_without_a_gpu(rtx: Path) -> None:
    with pytest.raises(EngineError, match=r"GPU|CuPy"):
        Engine.open(rtx)


def test_one_failed_compilation_does_not_lose_the_others(
    onnx_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    def refuse(job, progress):
        raise EngineError("unet: found no engine")

    here = component.compile_prepared
    monkeypatch.setattr(
        component, "compile_prepared", lambda job, *a: (refuse if job.name == "unet" else here)(job, *a)
    )
    with pytest.raises(EngineError, match="found no engine"):
        build_for("rtx", onnx_folder, tmp_path / "engine")
    done = {p.parent.name for p in (tmp_path / "engine" / ".build").glob("*/done.json")}
    assert done == {"text_encoder", "vae_decoder", "vae_encoder"}


def test_fixed_targets_have_one_size(onnx_folder: Path) -> None:
    shapes = component_shapes(open_source(onnx_folder), "unet", TARGETS["orin-jp62"])
    assert shapes["sample"] == ((1, 4, 16, 16), (2, 4, 16, 16), (2, 4, 16, 16))
