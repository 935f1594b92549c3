"""Building. If these fail, an engine ships that nobody compared, or hours are built twice."""

import json
import os
import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from safegen import Pipeline
from safegen.engine.engine import Engine
from safegen.engine.session import Session
from safegen.errors import BundleError, EngineError, UsageError
from safegen.format.manifest import read_manifest, write_manifest
from safegen_engines.build import build as engines
from safegen_engines.build import component, parity
from safegen_engines.build.onnx_folder import open_source
from safegen_engines.build.options import Options, up_to_date
from safegen_engines.build.target import find_target
from safegen_engines.graph import onnx_graph

pytestmark = pytest.mark.slow


def build(source: Path, out: Path, **options):
    built = []
    engines.build(source, out, Options(**options), report=built.append)
    return built


@pytest.fixture
def source(onnx_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(onnx_folder, tmp_path / "source"))


@pytest.fixture
def bare_source(source: Path) -> Path:
    """As optimum writes it: no references, no export.json."""
    (source / "export.json").unlink()
    for file in source.glob("*/reference.npz"):
        file.unlink()
    return source


def test_an_engine_is_sealed_complete_and_draws(source: Path, tmp_path: Path) -> None:
    built = build(source, tmp_path / "engine", allow_unguarded=True, name="tiny", steps=7)
    assert [b.name for b in built] == ["text_encoder", "unet", "vae_decoder", "vae_encoder"]
    manifest = Engine.open(tmp_path / "engine").manifest
    assert manifest.name == "tiny"
    assert manifest.defaults.steps == 7
    assert manifest.defaults.solver == "dpm++2m"  # PNDM has no twin here
    by_regions = {f"ratio-{by}{also}" for by in ("2x2", "4x4") for also in ("", "-anywhere")}
    assert set(manifest.steps) == {*manifest.guards} | by_regions
    assert {step.file for step in manifest.steps.values()} <= set(manifest.files)
    for part in manifest.components.values():
        assert part.parity.reference == "torch"
        assert 0 < part.parity.max_rel < 1e-4
    assert Pipeline.load(tmp_path / "engine")("a coat", steps=2, guard="off")


def test_unguarded_drawing_must_be_asked_for_at_build_time(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "engine")
    assert "off" not in read_manifest(tmp_path / "engine").guards
    with pytest.raises(BundleError):
        Pipeline.load(tmp_path / "engine")


def test_an_onnx_folder_alone_is_compared_with_its_own_graphs(bare_source: Path, tmp_path: Path) -> None:
    build(bare_source, tmp_path / "engine")
    parts = read_manifest(tmp_path / "engine").components.values()
    assert {p.parity.reference for p in parts} == {"source graph"}


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


def change_weight(path: Path, factor: float) -> None:
    model = onnx.load(path)
    largest = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    values = onnx.numpy_helper.to_array(largest).copy()
    values.flat[: values.size // 2] *= factor
    largest.CopyFrom(onnx.numpy_helper.from_array(values, largest.name))
    onnx.save(model, path)


@pytest.mark.parametrize("name", ["text_encoder", "unet", "vae_decoder", "vae_encoder"])
def test_a_graph_that_differs_from_torch_fails_the_build(source: Path, tmp_path: Path, name: str) -> None:
    change_weight(source / name / "model.onnx", 1.02)
    with pytest.raises(EngineError, match=rf"{name}: .* differs from torch by"):
        build(source, tmp_path / "engine")
    assert not (tmp_path / "engine" / "engine.json").exists()


def test_nan_fails_the_build(source: Path, tmp_path: Path) -> None:
    change_weight(source / "unet" / "model.onnx", float("nan"))
    with pytest.raises(EngineError, match="NaN"):
        build(source, tmp_path / "engine")


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


def test_a_second_build_of_the_same_thing_is_recognized(source: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "engine", Options(precision="fp32")
    assert not up_to_date(source, out, options)
    build(source, out)
    assert up_to_date(source, out, options)
    (source / "scheduler" / "scheduler_config.json").touch()  # another time, the same content
    assert up_to_date(source, out, options)
    assert not up_to_date(source, out, Options(precision="fp16"))
    assert not up_to_date(source, out, Options(precision="fp32", allow_unguarded=True))
    change_weight(source / "unet" / "model.onnx", 1.0001)
    assert not up_to_date(source, out, options)


def test_a_damaged_engine_is_not_up_to_date(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "engine"
    build(source, out)
    (out / "unet.onnx").write_bytes(b"")
    assert not up_to_date(source, out, Options(precision="fp32"))


def test_an_interrupted_build_goes_on_where_it_stopped(source: Path, tmp_path: Path, monkeypatch) -> None:
    out, make, made = tmp_path / "engine", component.make, []

    def stop_at_the_decoder(job, progress):
        if job.name == "vae_decoder":
            raise KeyboardInterrupt
        made.append(job.name)
        return make(job, progress)

    monkeypatch.setattr(component, "make", stop_at_the_decoder)
    with pytest.raises(KeyboardInterrupt):
        build(source, out)
    assert not (out / "engine.json").exists()
    monkeypatch.setattr(component, "make", lambda job, *a: made.append(job.name) or make(job, *a))
    build(source, out)
    assert made == ["text_encoder", "unet", "vae_decoder", "vae_encoder"]
    Engine.open(out)


def test_one_failed_component_does_not_lose_the_others(source: Path, tmp_path: Path, monkeypatch) -> None:
    out, whole = tmp_path / "engine", (source / "unet" / "model.onnx").read_bytes()
    change_weight(source / "unet" / "model.onnx", 1.02)
    with pytest.raises(EngineError, match=r"unet: .* differs"):
        build(source, out)
    assert {p.parent.name for p in out.glob(".build/*/done.json")} == {
        "text_encoder", "vae_decoder", "vae_encoder",
    }  # fmt: skip
    (source / "unet" / "model.onnx").write_bytes(whole)
    made, make = [], component.make
    monkeypatch.setattr(component, "make", lambda job, *a: made.append(job.name) or make(job, *a))
    build(source, out)
    assert made == ["unet"]


def test_too_little_memory_is_refused_before_it_is_used(source: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(component, "available_memory", lambda: 300_000_000)
    with pytest.raises(EngineError, match=r"needs about 0\.\d GiB of memory, and 0\.3 are free"):
        build(source, tmp_path / "engine")


def test_a_crash_of_the_builder_is_one_line(own_processes, source: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(component, "prepare", crash)
    with pytest.raises(EngineError, match=r"text_encoder: its process crashed \(SIGABRT\)"):
        build(source, tmp_path / "engine")


def crash(job, precision, progress) -> None:
    os.abort()


def test_a_folder_of_other_things_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(EngineError, match="other things"):
        build(source, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["unet/model.onnx", "vae_encoder/config.json", "scheduler/scheduler_config.json"]
)
def test_the_first_missing_file_is_named(source: Path, tmp_path: Path, name: str) -> None:
    (source / name).unlink()
    with pytest.raises(EngineError, match=name):
        build(source, tmp_path / "engine")


def test_a_graph_with_other_inputs_is_refused(source: Path, tmp_path: Path) -> None:
    model = onnx.load(source / "unet" / "model.onnx")
    model.graph.input[1].name = "timestep_cond"
    for node in model.graph.node:
        node.input[:] = ["timestep_cond" if n == "timestep" else n for n in node.input]
    onnx.save(model, source / "unet" / "model.onnx")
    with pytest.raises(EngineError, match="timestep_cond"):
        build(source, tmp_path / "engine")


def test_unknown_targets_and_precisions_are_refused() -> None:
    with pytest.raises(UsageError, match="known are cpu"):
        find_target("toaster", "fp32")
    with pytest.raises(UsageError, match="fp32, fp16"):
        find_target("cpu", "int3")


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


def test_lcm_checkpoints_get_lcm_defaults(source: Path, tmp_path: Path) -> None:
    path = source / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": "LCMScheduler"}))
    build(source, tmp_path / "engine")
    defaults = read_manifest(tmp_path / "engine").defaults
    assert (defaults.solver, defaults.steps, defaults.guidance_scale) == ("lcm", 4, 1.0)


def test_a_rebuild_leaves_nothing_of_the_engine_before(source: Path, tmp_path: Path, embedded: Path) -> None:
    """A bundle that the new engine does not carry must not lie there as if it guarded."""
    out = tmp_path / "engine"
    build(source, out)
    (out / "old.negation").write_bytes(b"x")
    manifest = read_manifest(out)
    stale = {**manifest.files, "old.negation": manifest.files["unet.onnx"]}
    write_manifest(out, msgspec.structs.replace(manifest, digest="0" * 64, files=stale))
    build(source, out, precision="fp16")
    assert not (out / "old.negation").exists()
    Engine.open(out)
