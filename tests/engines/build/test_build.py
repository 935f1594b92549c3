"""Building. If these fail, an engine ships that nobody compared, or hours are built twice."""

import json
import os
from pathlib import Path

import msgspec
import onnx
import pytest

from safegen import Pipeline
from safegen.engine.engine import Engine
from safegen.errors import BundleError, EngineError, UsageError
from safegen.format.manifest import read_manifest, write_manifest
from safegen_engines.build import build as engines
from safegen_engines.build import component
from safegen_engines.build.options import Options, up_to_date
from safegen_engines.build.target import find_target

pytestmark = pytest.mark.slow


def build(source: Path, out: Path, **options):
    built = []
    engines.build(source, out, Options(**options), report=built.append)
    return built


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
