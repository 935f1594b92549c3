"""What runs on this machine, found out by running it."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import platform
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safegen.device import open_device, to_host
from safegen.engine.engine import find_engine
from safegen.engine.session import load_cuda_libraries
from safegen.engine.trt_session import MODULES, check_fit, import_module, make_log, typed_network
from safegen.errors import EngineError, first_line
from safegen.format.manifest import RTX, TENSORRT, read_manifest, verify_files
from safegen.machine import available_memory, gpu, jetpack


@dataclass(frozen=True)
class Probe:
    """One execution provider, tried."""

    provider: str
    works: bool
    detail: str


def probe(graph: Path) -> list[Probe]:
    """Run a text encoder's graph on every provider that ONNX Runtime lists, and compare with the CPU.

    A listed provider may lack its libraries or its device, and ONNX Runtime then runs the CPU without
    an error: only nodes that its profile says ran there count.
    """
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    load_cuda_libraries()
    results: list[Probe] = []
    expected = None
    for provider in reversed(ort.get_available_providers()):  # the CPU comes last in the list
        try:
            with redirect_stdout(io.StringIO()):  # ONNX Runtime prints a banner for a provider that fails
                output, nodes, milliseconds = _run_on(provider, graph)
        except Exception as error:  # every provider has exceptions of its own
            results.append(Probe(provider, False, first_line(error)))
            continue
        expected = output if expected is None else expected
        if not nodes:
            results.append(Probe(provider, False, "runs nothing here; the CPU ran in its place"))
        elif not np.allclose(output, expected, atol=1e-2):
            results.append(Probe(provider, False, "its results differ from the CPU's"))
        else:
            detail = f"text encoder in {milliseconds:.1f} ms, {nodes} nodes ran there"
            results.append(Probe(provider, True, detail))
    return results


def _run_on(provider: str, graph: Path) -> tuple[NDArray[Any], int, float]:
    """(output, how many nodes ran on the provider, milliseconds of a second run)."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as scratch:
        options = ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / "profile")
        session = ort.InferenceSession(graph, options, providers=[provider])
        feed = session.get_inputs()[0]
        length = next((d for d in feed.shape[1:] if isinstance(d, int)), 8)
        ids = {feed.name: np.zeros((1, length), np.int64)}
        session.run(None, ids)
        began = time.perf_counter()
        output = session.run(None, ids)[0]
        milliseconds = (time.perf_counter() - began) * 1000
        events = json.loads(Path(session.end_profiling()).read_text())
    ran_on = (event.get("args", {}).get("provider") for event in events)
    return output, sum(name == provider for name in ran_on), milliseconds


def probe_compilers() -> list[Probe]:
    """Compile y = x + x with TensorRT for RTX and TensorRT, where installed, and run it on the GPU."""
    found = []
    for backend in (RTX, TENSORRT):
        if importlib.util.find_spec(MODULES[backend]) is None:
            continue
        try:
            trt = import_module(backend)
            milliseconds = _double_on_gpu(trt)
        except Exception as error:  # each library has exceptions of its own
            found.append(Probe(backend, False, first_line(error)))
        else:
            detail = f"version {trt.__version__}, a kernel compiled and run in {milliseconds:.1f} ms"
            found.append(Probe(backend, True, detail))
    return found


def doubler(trt: Any) -> Any:
    """A serialized engine of y = x + x for 8 floats, for this machine's GPU if it has one.

    Raises:
        EngineError: the compiler gives none.
    """
    log = make_log(trt)
    builder = trt.Builder(log)
    network = typed_network(trt, builder)
    x = network.add_input("x", trt.float32, (8,))
    layer = network.add_elementwise(x, x, trt.ElementWiseOperation.SUM)
    layer.get_output(0).name = "y"
    network.mark_output(layer.get_output(0))
    engine = builder.build_serialized_network(network, builder.create_builder_config())
    if engine is None:
        raise EngineError(f"compiles nothing ({log.last})")
    return engine


def _double_on_gpu(trt: Any) -> float:
    """Run :func:`doubler` and return milliseconds."""
    if gpu() is None:
        raise EngineError(f"version {trt.__version__}, no NVIDIA GPU to run on")
    device, log = open_device("cuda"), make_log(trt)
    xp = device.xp
    began = time.perf_counter()
    with device.active():
        engine = trt.Runtime(log).deserialize_cuda_engine(bytes(doubler(trt)))
        if engine is None:
            raise EngineError(f"does not load what it compiled ({log.last})")
        context = engine.create_execution_context()
        x, y = xp.arange(8, dtype=xp.float32), xp.zeros(8, dtype=xp.float32)
        for name, array in (("x", x), ("y", y)):
            context.set_tensor_address(name, array.data.ptr)
        if not context.execute_async_v3(device.stream.ptr):
            raise EngineError(f"does not run what it compiled ({log.last})")
        if to_host(y).tolist() != [2.0 * i for i in range(8)]:
            raise EngineError("computes wrongly")
    return (time.perf_counter() - began) * 1000


@dataclass(frozen=True)
class Need:
    """What an engine needs here, and whether it is there."""

    engine: str
    gib: float
    """Its weights; activations come on top."""
    free: float | None
    problem: str | None
    """One sentence; None where it should run."""


def need_of(folder: Path) -> Need:
    """Compare an engine with its seal and this machine: its files, its GPU, its libraries, its free memory.

    Raises:
        EngineError: not an engine.
    """
    folder = find_engine(folder)
    manifest = read_manifest(folder)
    parts = manifest.components.values()
    drawn = [part.compiled.file if part.compiled else part.file for part in parts]
    weights = sum(f.bytes for name, f in manifest.files.items() if name.removesuffix(".data") in drawn)
    free, problem = free_memory(manifest.target), None
    try:
        verify_files(folder, manifest)
        for part in parts:
            if part.compiled:
                version = str(import_module(part.compiled.backend).__version__)
                check_fit(folder / part.compiled.file, part.compiled, version)
        if manifest.target != "cpu":
            open_device("cuda")
    except EngineError as error:
        problem = str(error)
    if problem is None and free is not None and weights * 1.2 > free:
        problem = f"{folder}: its weights are {weights / 2**30:.1f} GiB and {free / 2**30:.1f} are free."
    return Need(str(folder), weights / 2**30, None if free is None else free / 2**30, problem)


def free_memory(target: str) -> int | None:
    """Free bytes where an engine of that target would live; None where nobody says."""
    if target == "cpu" or jetpack():  # a Jetson's GPU shares the CPU's memory
        return available_memory()
    try:
        import cupy

        free: int = cupy.cuda.runtime.memGetInfo()[0]
    except Exception:  # no CuPy, no driver, no device: other lines say so
        return None
    return free


def machine() -> dict[str, str]:
    """Facts about this machine, for people."""
    import onnxruntime as ort

    import safegen

    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    here = gpu()
    cuda = (
        {
            "gpu": f"{here.name}, compute capability {here.capability}, {here.total / 2**30:.1f} GiB",
            "driver": f"up to CUDA {here.driver}",
        }
        if here
        else {"gpu": "none"}
    )
    return {
        "safegen": safegen.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(os.cpu_count()),
        "memory": f"{pages / 2**30:.1f} GiB" if pages else "unknown",
        "onnxruntime": ort.__version__,
        **cuda,
        **({"jetson linux": release} if (release := jetpack()) else {}),
    }
