"""A graph that runs: named arrays in, named arrays out, through ONNX Runtime."""

from __future__ import annotations

import functools
import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from safegen.device import CPU, Device, to_host
from safegen.errors import EngineError, UsageError, first_line, whole_number
from safegen.machine import cache_folder

DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"


class Session:
    """One ONNX graph on ONNX Runtime, on the CPU or on a GPU's own stream."""

    def __init__(
        self,
        path: Path,
        *,
        optimize: bool = True,
        device: Device = CPU,
        on_cpu: bool = False,
        threads: int | None = None,
    ) -> None:
        """Open a graph.

        Args:
            path: an .onnx file, its external data beside it.
            optimize: False runs the graph exactly as written, for comparisons.
            device: where its inputs and outputs live, and where it runs.
            on_cpu: run on the CPU all the same, and copy.
            threads: of the CPU for one run, 1 or more; None is ONNX Runtime's choice.

        Raises:
            UsageError: no number of threads.
            EngineError: the file is missing, or ONNX Runtime cannot load it or has no such device.
        """
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if (count := check_threads(threads)) is not None:
            options.intra_op_num_threads = count
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            providers = _providers(CPU if on_cpu else device)
            self._session = ort.InferenceSession(path, options, providers=providers)
        except Exception as error:  # ORT has its own family of exceptions, all bare
            raise EngineError(f"{path}: ONNX Runtime cannot load it ({first_line(error)}).") from None
        self._on_cpu = on_cpu or device.stream is None
        wanted = TENSORRT if device.name == "tensorrt" else CUDA
        if not self._on_cpu and wanted not in self._session.get_providers():
            raise EngineError(
                f"{path}: ONNX Runtime's {wanted} does not load here, and another would run in its"
                " place. Install 'safegen[gpu]', not 'safegen[cpu]', and run 'safegen doctor'."
            )
        self._path, self._device = path, device
        self._dtypes = {i.name: DTYPES.get(i.type, np.float32) for i in self._session.get_inputs()}
        self.inputs = {i.name: (i.type, list(i.shape)) for i in self._session.get_inputs()}
        self.outputs = {o.name: (o.type, list(o.shape)) for o in self._session.get_outputs()}

    def run(self, **inputs: Any) -> dict[str, Any]:
        """Run once. Arrays are cast to the graph's types; outputs are keyed by name.

        Raises:
            EngineError: an input is missing, unknown or of a shape that the graph refuses.
        """
        run = self._run_on_cpu if self._on_cpu else self._run_on_gpu
        try:
            return run(inputs)
        except Exception as error:
            shapes = ", ".join(f"{k} {list(getattr(v, 'shape', ()))}" for k, v in inputs.items())
            raise EngineError(f"{self._path}: failed on {shapes} ({first_line(error)}).") from None

    def _run_on_cpu(self, inputs: dict[str, Any]) -> dict[str, Any]:
        feed = {name: np.asarray(to_host(x), self._dtypes.get(name)) for name, x in inputs.items()}
        found = self._session.run(list(self.outputs), feed)
        return {n: self._device.xp.asarray(x) for n, x in zip(self.outputs, found, strict=True)}

    def _run_on_gpu(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Inputs and outputs by device pointer: nothing is copied, nothing is waited for."""
        binding, xp = self._session.io_binding(), self._device.xp
        feed = {
            name: xp.ascontiguousarray(xp.asarray(x, dtype=self._dtypes.get(name)))
            for name, x in inputs.items()
        }
        for name, x in feed.items():
            binding.bind_input(name, "cuda", 0, x.dtype.type, x.shape, x.data.ptr)
        for name in self.outputs:
            binding.bind_output(name, "cuda", 0)
        options = ort.RunOptions()
        # the provider runs on the device's own stream, where whatever reads the outputs waits its turn
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._session.run_with_iobinding(binding, options)
        values = zip(self.outputs, binding.get_outputs(), strict=True)
        return {name: _view(value, xp) for name, value in values}


def check_threads(threads: int | None) -> int | None:
    """The number of threads, or None, which leaves it to ONNX Runtime.

    Raises:
        UsageError: it is no whole number from 1 on.
    """
    count = None if threads is None else whole_number("threads", threads)
    if count is not None and count < 1:
        raise UsageError(f"threads is {count}; give 1 or more, or leave it out.")
    return count


@functools.cache
def load_cuda_libraries() -> None:
    """Load CUDA and cuDNN from their pip packages, where ONNX Runtime does not look by itself.

    What is missing shows when a session opens without the provider; ONNX Runtime would print it here,
    where a program reads this one's output.
    """
    ort.set_default_logger_severity(3)  # its plug-in providers warn of themselves at each session
    with redirect_stdout(io.StringIO()):
        ort.preload_dlls()


def available_providers() -> list[str]:
    """The execution providers that the installed ONNX Runtime was built with."""
    return list(ort.get_available_providers())


def _providers(device: Device) -> list[Any]:
    if device.stream is None:
        return ["CPUExecutionProvider"]
    load_cuda_libraries()
    stream = {"device_id": "0", "user_compute_stream": str(device.stream.ptr)}
    # the exhaustive search of convolutions takes minutes at each start
    found: list[Any] = [(CUDA, stream | {"cudnn_conv_algo_search": "HEURISTIC"}), "CPUExecutionProvider"]
    if device.name == "tensorrt":
        cache = str(cache_folder() / "tensorrt")
        kept = {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": cache,
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": cache,
        }
        found.insert(0, (TENSORRT, stream | kept))
    return found


def _view(value: Any, xp: Any) -> Any:
    """An array over an OrtValue's device memory, which it keeps alive."""
    import cupy

    shape, dtype = tuple(value.shape()), np.dtype(DTYPES[value.data_type()])
    size = int(np.prod(shape)) * dtype.itemsize
    memory = cupy.cuda.MemoryPointer(cupy.cuda.UnownedMemory(value.data_ptr(), size, value), 0)
    return xp.asarray(cupy.ndarray(shape, dtype, memory))
