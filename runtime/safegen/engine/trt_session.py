"""A compiled engine that runs: TensorRT or TensorRT for RTX, on device pointers and one stream.

Both libraries have one API; which of them a file needs stands in the manifest. Needs CuPy and a GPU.
"""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safegen.device import Device
from safegen.errors import EngineError, first_line
from safegen.files import replacing
from safegen.format.manifest import ANY_AMPERE, RTX, TENSORRT, Compiled
from safegen.machine import cache_folder, gpu

MODULES = {RTX: "tensorrt_rtx", TENSORRT: "tensorrt"}
"""The Python module of each backend."""
REASONS = {
    "VERSION_MISMATCH": "another version of TensorRT for RTX compiled it",
    "UNSUPPORTED_CC": "it was not compiled for this GPU's compute capability",
    "OLD_CUDA_DRIVER": "the NVIDIA driver is too old",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little free memory",
    "MALFORMED_ENGINE": "the file is damaged",
    "CUDA_ERROR": "CUDA does not work here",
}
Key = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass
class _Buffers:
    """Device arrays of one set of shapes: allocated once, so that a captured graph stays true."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    graph: Any = None
    runs: int = field(default=0)


class TrtSession:
    """One compiled engine, with the interface of :class:`safegen.engine.session.Session`."""

    def __init__(
        self, folder: Path, compiled: Compiled, device: Device, *, cuda_graphs: bool = False
    ) -> None:
        """Load an engine onto the GPU.

        Args:
            folder: the engine folder, verified.
            compiled: its manifest entry.
            device: where arrays live; its stream runs everything.
            cuda_graphs: capture the launches of each set of shapes once and replay them.

        Raises:
            EngineError: the library is missing or of another version, or the engine is for another GPU.
        """
        self._path, self._device = folder / compiled.file, device
        self._trt = import_module(compiled.backend)
        self._rtx, self._cuda_graphs = compiled.backend == RTX, cuda_graphs
        self._profile = compiled.profile
        check_fit(self._path, compiled, str(self._trt.__version__))
        self._log = make_log(self._trt)
        self._runtime = self._trt.Runtime(self._log)
        # code that comes with the engine: its digest was verified with the folder's
        self._runtime.engine_host_code_allowed = compiled.portable
        content = self._path.read_bytes()
        if self._rtx:
            _check_validity(self._trt, self._runtime, self._path, content)
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise EngineError(f"{self._path}: does not load ({self._log.last}). Run 'safegen doctor'.")
        if compiled.weights:
            self._refit(folder / compiled.weights)
        self._cache_file = _cache_file(content) if self._rtx else None
        self._context = self._make_context()
        self._buffers: dict[Key, _Buffers] = {}
        tensors = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        is_input = {n: self._engine.get_tensor_mode(n) == self._trt.TensorIOMode.INPUT for n in tensors}
        self._dtypes = {n: self._trt.nptype(self._engine.get_tensor_dtype(n)) for n in tensors}
        self.inputs = {n: self._describe(n) for n in tensors if is_input[n]}
        self.outputs = {n: self._describe(n) for n in tensors if not is_input[n]}

    def _refit(self, graph: Path) -> None:
        """Give a weight-stripped engine the weights of the graph that it was compiled from."""
        refitter = self._trt.Refitter(self._engine, self._log)
        parser = self._trt.OnnxParserRefitter(refitter, self._log)
        if not (parser.refit_from_file(str(graph)) and refitter.refit_cuda_engine()):
            raise EngineError(f"{self._path}: does not take the weights of {graph.name} ({self._log.last}).")

    def _describe(self, name: str) -> tuple[str, list[int | str]]:
        shape = [int(d) if d >= 0 else "dynamic" for d in self._engine.get_tensor_shape(name)]
        return str(self._dtypes[name].__name__), shape

    def _make_context(self) -> Any:
        """An execution context; TensorRT for RTX compiles its kernels here, and keeps them in a file."""
        if not self._rtx:
            context = self._engine.create_execution_context()
        else:
            config = self._engine.create_runtime_config()
            if self._cuda_graphs:
                config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            self._cache = config.create_runtime_cache()
            if self._cache_file and self._cache_file.is_file():
                self._cache.deserialize(self._cache_file.read_bytes())
            config.set_runtime_cache(self._cache)
            context = self._engine.create_execution_context(config)
        if context is None:
            raise EngineError(
                f"{self._path}: no room for it on the GPU ({self._log.last}). Close other programs, or"
                " build with a lower precision or for smaller pictures."
            )
        return context

    def run(self, **inputs: Any) -> dict[str, Any]:
        """Run once on the device's stream; returns device arrays that later runs leave alone.

        Raises:
            EngineError: an input is missing or unknown, or of a shape outside of the engine's profile.
        """
        if set(inputs) != set(self.inputs):
            raise EngineError(f"{self._path}: inputs are {sorted(inputs)}; it takes {sorted(self.inputs)}.")
        shapes = {name: tuple(int(d) for d in x.shape) for name, x in inputs.items()}
        for name, shape in shapes.items():
            low, _, high = self._profile[name]
            if not fits((low, high), shape):
                raise EngineError(
                    f"{self._path}: {name} is {list(shape)}; this engine takes {low} to {high}. Draw fewer"
                    " pictures at a time, or another size, or build an engine for it."
                )
        key = tuple(sorted(shapes.items()))
        if key not in self._buffers:
            self._buffers[key] = self._allocate(key)
        buffers = self._buffers[key]
        for name, x in inputs.items():
            buffers.inputs[name][...] = self._device.xp.asarray(x)
        self._launch(buffers, key)
        return {name: array.copy() for name, array in buffers.outputs.items()}

    def _bind(self, buffers: _Buffers, key: Key) -> None:
        """Point the context at the arrays of a set of shapes; another set may have been run since."""
        for name, shape in key:
            if not self._context.set_input_shape(name, shape):
                raise EngineError(f"{self._path}: {name} cannot be {list(shape)} ({self._log.last}).")
        for name, array in (buffers.inputs | buffers.outputs).items():
            self._context.set_tensor_address(name, array.data.ptr)

    def _allocate(self, key: Key) -> _Buffers:
        xp = self._device.xp
        inputs = {name: xp.empty(shape, dtype=self._dtypes[name]) for name, shape in key}
        for name, shape in key:
            if not self._context.set_input_shape(name, shape):
                raise EngineError(f"{self._path}: {name} cannot be {list(shape)} ({self._log.last}).")
        outputs = {
            name: xp.empty(tuple(self._context.get_tensor_shape(name)), dtype=self._dtypes[name])
            for name in self.outputs
        }
        return _Buffers(inputs, outputs)

    def _launch(self, buffers: _Buffers, key: Key) -> None:
        """Run, or replay what was captured. TensorRT for RTX captures by itself."""
        stream = self._device.stream
        if buffers.graph is not None:
            buffers.graph.launch(stream)
            return
        self._bind(buffers, key)
        # the first run of a set of shapes sets things up that must not be part of a graph
        if self._cuda_graphs and not self._rtx and buffers.runs > 0:
            stream.begin_capture()
            try:
                done = self._context.execute_async_v3(stream.ptr)
            finally:
                buffers.graph = stream.end_capture()
            buffers.graph.launch(stream)
        else:
            done = self._context.execute_async_v3(stream.ptr)
        if not done:
            raise EngineError(f"{self._path}: failed to run ({self._log.last}).")
        buffers.runs += 1
        if self._rtx and buffers.runs == 1:
            self._save_cache()

    def _save_cache(self) -> None:
        """Kernels compiled for this GPU, for the next process. A cache that cannot be written is no loss."""
        if self._cache_file is None:
            return
        try:
            self._cache_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replacing(self._cache_file) as scratch:
                scratch.write_bytes(bytes(self._cache.serialize()))
        except OSError:
            self._cache_file = None


def import_module(backend: str) -> Any:
    """The library of a backend.

    Raises:
        EngineError: it is not installed, or its CUDA libraries do not load.
    """
    name = MODULES[backend]
    extra = {RTX: "rtx", TENSORRT: "tensorrt"}[backend]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EngineError(
            f"the module {name} cannot be loaded ({first_line(error)}). Install it:"
            f" pip install 'safegen[{extra}]'; on a Jetson it comes with JetPack, so make the environment"
            " with --system-site-packages."
        ) from None


def typed_network(trt: Any, builder: Any) -> Any:
    """An empty network whose precision is that of its graph; from TensorRT 11 on there is no other."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return builder.create_network(0 if flag is None else 1 << int(flag))


def make_log(trt: Any) -> Any:
    """A logger that prints nothing and keeps the last error for a message.

    One a library: each takes the first that a process gives it, and ignores later ones.
    """
    if id(trt) not in _LOGS:
        _LOGS[id(trt)] = _new_log(trt)
    log = _LOGS[id(trt)]
    log.last = "no reason given"
    return log


_LOGS: dict[int, Any] = {}


def _new_log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """See above."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR) and message.strip():
                self.last = message.strip().splitlines()[0][:300]

    return Log()


def check_fit(path: Path, compiled: Compiled, version: str) -> None:
    """Refuse an engine that this machine cannot run, before a byte of it is loaded.

    Raises:
        EngineError: no GPU, one of another compute capability, or another version of TensorRT.
    """
    here = gpu()
    if here is None:
        raise EngineError(f"{path}: needs an NVIDIA GPU, and none answers here. Run 'safegen doctor'.")
    majors = {c.partition(".")[0] for c in compiled.capabilities}
    ampere = ANY_AMPERE in compiled.capabilities and int(here.capability.partition(".")[0]) >= 8
    same = here.capability in compiled.capabilities or ampere
    # TensorRT for RTX itself says which later GPUs of a generation an engine runs on
    if not same and not (compiled.backend == RTX and here.capability.partition(".")[0] in majors):
        raise EngineError(
            f"{path}: compiled for compute capability {', '.join(compiled.capabilities)}; this GPU"
            f" ({here.name}) has {here.capability}. Build an engine for it: safegen build-engine --target."
        )
    built, found = _release(compiled.version), _release(version)
    later = compiled.portable and found[0] == built[0] and found >= built
    if compiled.backend == TENSORRT and found != built and not later:
        raise EngineError(
            f"{path}: compiled by TensorRT {compiled.version}; this machine has {version}, which does not"
            " load it. Build it anew on this machine."
        )


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3])


def _check_validity(trt: Any, runtime: Any, path: Path, content: bytes) -> None:
    validity, diagnostics = runtime.get_engine_validity(content)
    if validity == trt.EngineValidity.INVALID:
        flags = trt.EngineInvalidityDiagnostics.__members__
        found = [REASONS[name] for name, flag in flags.items() if int(diagnostics) & int(flag)]
        raise EngineError(f"{path}: cannot run here: {'; '.join(found) or 'no reason given'}.")


def _cache_file(content: bytes) -> Path:
    """Where kernels of this engine are kept, by its digest. Outside of the engine folder, which is sealed."""
    return cache_folder() / f"{hashlib.sha256(content).hexdigest()}.kernels"


def fits(bounds: tuple[list[int], list[int]], shape: tuple[int, ...]) -> bool:
    """Whether a shape lies between the smallest and the largest of a profile."""
    low, high = bounds
    return len(shape) == len(low) and all(a <= s <= b for a, s, b in zip(low, shape, high, strict=True))
