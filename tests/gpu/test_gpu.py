"""The runtime on a GPU. If these fail, a GPU draws other pictures than the CPU, or lets through what the
CPU's guard stops.

``make test-gpu`` runs them and leaves gpu-report.json. They ran once, on an H200, for the target ``cuda``
(docs/rtx.md); those of compiled engines have run nowhere.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tiny
from PIL import Image

from safegen import Pipeline
from safegen.check.bench import bench
from safegen.check.bench_cpp import PROGRAM
from safegen.check.doctor import need_of, probe, probe_compilers
from safegen.device import Device, to_host
from safegen.engine.bind import open_guard
from safegen.engine.engine import MODELS, Engine
from safegen.engine.session import CUDA, available_providers
from safegen.engine.session import TENSORRT as TENSORRT_PROVIDER
from safegen.engine.trt_session import fits
from safegen.errors import EngineError
from safegen.files import file_sha256
from safegen.format.bundle import read_bundle
from safegen.format.manifest import Component, File, read_manifest, write_manifest
from safegen.format.seal import ZEROS
from safegen.guard.bank import on
from safegen.guard.regions import WHOLE, Regions
from safegen.guard.settings import MODES, parse_guard
from safegen.machine import gpu
from safegen.sampling.noise import normal_batch
from safegen.sampling.solver import Solver
from safegen_engines.build import build, parity
from safegen_engines.build.onnx_folder import open_source
from safegen_engines.build.options import Options
from safegen_engines.build.quantize import QUANTIZED, graph_of
from safegen_engines.build.target import TARGETS, runs_fp8

pytestmark = pytest.mark.gpu

GUARDS = [*(mode for mode in MODES if mode not in ("off", "official")), "official:nudity"]
BUNDLE = MODELS / "fashion" / "default.negation"
Built = Callable[..., Path]


def test_everything_that_is_installed_works(note: Callable[..., None]) -> None:
    probes = [*probe(MODELS / "fashion" / "text_encoder.onnx"), *probe_compilers()]
    for found in probes:
        note(what="probe", **asdict(found))
    on_gpu = [p for p in probes if p.provider == CUDA or p.provider.startswith("tensorrt")]
    assert on_gpu
    assert all(p.works for p in on_gpu)


def test_each_component_agrees_with_its_reference(
    engine_for: Built, fashion_onnx: Path, device: Device, target: str, note: Callable[..., None]
) -> None:
    source, engine = open_source(fashion_onnx), Engine.open(engine_for(target))
    for name, part in engine.manifest.components.items():
        reference, cases = parity.read_cases(source, name)
        for inputs, expected in _taken(cases, part):
            with device.active():
                outputs = engine.session(name).run(**inputs)
                found = {k: to_host(v).astype(np.float64) for k, v in outputs.items()}
            for key, wanted in expected.items():
                difference = np.abs(found[key] - wanted).max() / np.abs(wanted).max()
                note(what="parity", target=target, component=name, reference=reference, relative=difference)
                assert difference < parity.TOLERANCE[part.precision]


def _taken(cases: list[parity.Case], part: Component) -> list[parity.Case]:
    """The first picture of each case, where the size is one that the compiled graph takes."""
    first = [[{k: v[:1] for k, v in side.items()} for side in case] for case in cases]
    if part.compiled is None:
        return [(inputs, expected) for inputs, expected in first]
    bounds = {k: (low, high) for k, (low, _, high) in part.compiled.profile.items()}
    return [(i, e) for i, e in first if all(fits(bounds[k], v.shape) for k, v in i.items())]


@pytest.mark.parametrize(
    ("name", "regions"),
    [*((name, WHOLE) for name in GUARDS), ("ratio", Regions(2)), ("ratio", Regions(2, anywhere=True))],
)
def test_a_guard_computes_the_same_on_both_sides(
    device: Device, name: str, regions: Regions, tmp_path: Path
) -> None:
    file = tmp_path / "regions.negation"
    if regions == WHOLE:
        file = BUNDLE
    else:
        tiny.write_regions(file, regions.sides, anywhere=regions.anywhere)
    engine, bundle, settings = Engine.open("fashion"), read_bundle(file), parse_guard(name)
    table = engine.plan(Solver("ddim"), 10, (32, 32))
    seeds = list(range(8))
    sides = []
    for xp in (np, device.xp):
        with device.active():
            guard = open_guard(settings, bundle, on(bundle.bank(), xp), table)
            x, x0 = (xp.asarray(normal_batch(seeds, i, (4, 8, 8))) for i in (0, 1))
            found, state = [], guard.start(x, seeds)
            for i in range(len(table)):
                x_next, x0_next, evidence, state = guard(x, x0, i, state)
                found += [to_host(x_next), to_host(x0_next), *(map(to_host, evidence or ()))]
        sides.append(found)
    for ours, theirs in zip(*sides, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-3)  # cuBLAS adds in another order


@pytest.mark.parametrize("guard", ["ratio", "off"])
def test_pictures_and_verdicts_are_those_of_the_cpu(engine_for: Built, target: str, guard: str) -> None:
    prompts = ["a photo of a sneaker", "a photo of a coat", "a photo of a bag", "a photo of kicks"]
    sides = [
        Pipeline.load(engine, BUNDLE)(prompts, seed=[1, 2, 3, 4], guard=guard)
        for engine in ("fashion", engine_for(target))
    ]
    for cpu, ours in zip(*sides, strict=True):
        a, b = (np.asarray(p.image).astype(int) for p in (cpu, ours))
        assert np.abs(a - b).mean() < 4  # half precision over 25 steps
        assert (cpu.verdict.opened > 0) == (ours.verdict.opened > 0)


@pytest.mark.parametrize("precision", ["bf16", *QUANTIZED])
def test_other_precisions_draw_the_same(
    engine_for: Built, fashion_onnx: Path, target: str, precision: str, note: Callable[..., None]
) -> None:
    here, has = gpu(), TARGETS[target]
    if precision not in has.precisions or (precision == "fp8" and not runs_fp8(here.capability)):
        pytest.skip(f"{target} has no {precision} here")
    ready = graph_of(open_source(fashion_onnx), precision).is_file() or importlib.util.find_spec("modelopt")
    if precision in QUANTIZED and not ready:
        pytest.skip("no graph in 8 bits was carried here, and Model Optimizer is not installed")
    folder = engine_for(target, precision)
    note(what="bench", precision=precision, **asdict(bench(folder, None)))
    sides = [
        Pipeline.load(engine, BUNDLE)(["a coat", "a bag"], seed=[1, 2]) for engine in ("fashion", folder)
    ]
    for cpu, ours in zip(*sides, strict=True):
        assert np.abs(np.asarray(cpu.image).astype(int) - np.asarray(ours.image)).mean() < 12


@pytest.mark.skipif(
    TENSORRT_PROVIDER not in available_providers() or importlib.util.find_spec("tensorrt") is None,
    reason="ONNX Runtime's TensorRT provider needs TensorRT",  # its wheel lists it everywhere
)
def test_onnx_runtimes_tensorrt_provider_draws_the_same(engine_for: Built) -> None:
    """Written without a GPU: its options and its stream are what this shows."""
    sides = [
        Pipeline.load(engine_for("cuda"), device=d)("a coat", seed=3, steps=6)[0]
        for d in ("cuda", "tensorrt")
    ]
    a, b = (np.asarray(p.image).astype(int) for p in sides)
    assert np.abs(a - b).mean() < 4


def test_the_cpp_host_draws_the_same(engine_for: Built, target: str, tmp_path: Path) -> None:
    """Where safegen-generate is on the path (docs/cpp.md), over an ONNX Runtime with that provider."""
    program = shutil.which(PROGRAM)
    if program is None:
        pytest.skip("no safegen-generate on the path")
    provider = {"cuda": "cuda", "rtx": "rtx"}.get(target, "tensorrt")
    engine, out = engine_for(target), tmp_path / "coat.png"
    command = [program, engine, "-p", "a coat", "--seed", "3", "--provider", provider, "-o", out]
    subprocess.run(command, check=True)
    theirs = np.asarray(Pipeline.load(engine)("a coat", seed=3)[0].image).astype(int)
    assert np.abs(np.asarray(Image.open(out)).astype(int) - theirs).mean() < 4


def test_a_seed_draws_the_same_picture_at_every_batch_size(engine_for: Built, target: str) -> None:
    pipeline = Pipeline.load(engine_for(target))
    together = pipeline("a coat", n=3, seed=5, steps=6, batch_size=3)
    alone = pipeline("a coat", n=3, seed=5, steps=6, batch_size=1)
    for a, b in zip(together, alone, strict=True):
        assert np.abs(np.asarray(a.image).astype(int) - np.asarray(b.image)).max() <= 8


def test_captured_launches_draw_the_same(engine_for: Built, target: str) -> None:
    """Shapes in turn: a graph that was captured for one must not be replayed for another."""
    plain = Pipeline.load(engine_for(target))
    captured = Pipeline.load(engine_for(target), cuda_graphs=True)
    for scale in (3.0, 1.0, 3.0):  # two batches of the model, one, two
        asked = {"seed": 7, "steps": 5, "guidance_scale": scale}
        a, b = (np.asarray(p("a coat", **asked)[0].image).astype(int) for p in (plain, captured))
        assert np.abs(a - b).max() <= 1


def test_a_weight_stripped_engine_draws_the_same(
    engine_for: Built, fashion_onnx: Path, target: str, tmp_path: Path
) -> None:
    if TARGETS[target].backend is None:
        pytest.skip("nothing is compiled for this target")
    options = Options(
        target=target, precision="fp16", allow_unguarded=True, strip_weights=True, guidance_scale=3.0
    )
    build.build(fashion_onnx, tmp_path / "engine", options)
    compiled = read_manifest(tmp_path / "engine").components["unet"].compiled
    whole = read_manifest(engine_for(target)).components["unet"].compiled
    stripped, full = tmp_path / "engine" / compiled.file, engine_for(target) / whole.file
    assert stripped.stat().st_size < 0.5 * full.stat().st_size
    a, b = (
        np.asarray(Pipeline.load(f, BUNDLE)("a coat", steps=5, seed=3)[0].image).astype(int)
        for f in (tmp_path / "engine", engine_for(target))
    )
    assert np.abs(a - b).max() <= 2


def test_memory_does_not_grow(engine_for: Built, target: str, note: Callable[..., None]) -> None:
    import cupy

    pipeline = Pipeline.load(engine_for(target))
    pipeline("a coat", steps=4, n=2)
    free = [cupy.cuda.runtime.memGetInfo()[0]]
    for seed in range(20):
        pipeline("a coat", steps=4, n=2, seed=seed)
    free.append(cupy.cuda.runtime.memGetInfo()[0])
    note(what="memory", target=target, mib=(free[0] - free[1]) / 2**20)
    assert free[0] - free[1] < 64 * 2**20


def test_an_image_to_start_from(engine_for: Built, target: str) -> None:
    pipeline = Pipeline.load(engine_for(target))
    assert pipeline("a coat", steps=6, init=Image.new("RGB", (32, 32), "gray"), strength=0.5)


def test_doctor_says_that_it_fits(engine_for: Built, target: str) -> None:
    assert need_of(engine_for(target)).problem is None


def test_a_cut_engine_is_refused_in_one_line(engine_for: Built, target: str, tmp_path: Path) -> None:
    """Cut and sealed again, so that only the library can notice."""
    folder = Path(shutil.copytree(engine_for(target), tmp_path / "engine"))
    manifest = read_manifest(folder)
    compiled = manifest.components["unet"].compiled
    if compiled is None:
        pytest.skip("nothing is compiled for this target")
    path = folder / compiled.file
    path.write_bytes(path.read_bytes()[:-4096])
    files = {**manifest.files, compiled.file: File(file_sha256(path), path.stat().st_size)}
    write_manifest(folder, msgspec.structs.replace(manifest, digest=ZEROS, files=files))
    with pytest.raises(EngineError, match=compiled.file):
        Pipeline.load(folder)("a coat", steps=2)


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_the_timing_table(
    engine_for: Built, target: str, cuda_graphs: bool, note: Callable[..., None]
) -> None:
    """Figures for the report; how fast is fast enough is not a test's to say."""
    for batch in (1, 4):
        result = bench(engine_for(target), None, batch=batch, cuda_graphs=cuda_graphs)
        note(what="bench", cuda_graphs=cuda_graphs, **asdict(result))
        assert result.images_per_second > 0
