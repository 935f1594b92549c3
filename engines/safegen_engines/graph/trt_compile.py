"""ONNX graphs compiled by TensorRT or TensorRT for RTX: one builder for both, since their API is one.

The backend is a parameter. Networks are strongly typed: the precision
is that of the graph. TensorRT for RTX builds without a GPU; TensorRT needs the one it builds for.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safegen.check.isolate import Progress
from safegen.engine.trt_session import import_module, make_log, typed_network
from safegen.errors import EngineError
from safegen.files import replacing
from safegen.format.manifest import RTX

Shape = tuple[int, ...]
Profile = dict[str, tuple[Shape, Shape, Shape]]
"""Input -> its smallest, usual and largest shape."""


@dataclass(frozen=True)
class Form:
    """How a compiled engine is written."""

    strip: bool = False
    """Leave the weights out: the runtime takes them from the graph."""
    portable: bool = False
    """TensorRT alone: it outlives updates within a major version, and off Jetsons runs on every GPU of
    compute capability 8.0 and newer."""


@dataclass(frozen=True)
class Recipe:
    """How to compile one graph."""

    backend: str
    """``tensorrt-rtx`` or ``tensorrt``."""
    profile: Profile
    workspace: int
    """Bytes that the compiler may use to try its kernels."""
    capabilities: tuple[str, ...] = ()
    """Compute capabilities to compile for; empty is this machine's GPU."""
    form: Form = Form()
    on_jetson: bool = False
    timing_cache: Path | None = None
    """Kernel timings of earlier builds on this GPU, read and added to. TensorRT alone."""


def compile_graph(component: str, graph: Path, out: Path, recipe: Recipe, progress: Progress) -> None:
    """Compile a graph into a serialized engine.

    Args:
        component: its name, for messages.
        graph: the typed ONNX file, external data beside it.
        out: the engine file to write.
        recipe: see :class:`Recipe`.
        progress: called with the phase and the share of it that is done.

    Raises:
        EngineError: the parser refuses a node, or the compiler finds no engine.
    """
    trt = import_module(recipe.backend)
    log = make_log(trt)
    builder, network, _parser = parse(component, graph, recipe.backend)
    config = _configure(trt, builder, network, recipe)
    monitor = _monitor(trt, progress)  # the library does not keep it alive
    config.progress_monitor = monitor
    cache = _open_timing_cache(config, recipe)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise EngineError(f"{component}: {recipe.backend} found no engine: {log.last}.")
    with replacing(out) as scratch, scratch.open("wb") as file:
        file.write(engine)
    if cache is not None and recipe.timing_cache:
        with replacing(recipe.timing_cache) as scratch:
            scratch.write_bytes(bytes(config.get_timing_cache().serialize()))


def parse(component: str, graph: Path, backend: str) -> tuple[Any, Any, Any]:
    """Read a graph into a network; returns builder, network and parser, which holds the weights.

    Raises:
        EngineError: the parser refuses a node; the message names it.
    """
    trt = import_module(backend)
    log = make_log(trt)
    builder = trt.Builder(log)
    network = typed_network(trt, builder)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        raise EngineError(f"{component}: {backend} cannot read the graph: {parser_errors(parser)}.")
    return builder, network, parser


def parser_errors(parser: Any) -> str:
    """What the ONNX parser found wrong: operator, node and reason of each."""
    errors = (parser.get_error(i) for i in range(min(parser.num_errors, 3)))
    return "; ".join(f"{e.node_operator() or 'graph'} {e.node_name()}: {e.desc()}".strip() for e in errors)


def _configure(trt: Any, builder: Any, network: Any, recipe: Recipe) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, recipe.workspace)
    if recipe.form.portable:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if not recipe.on_jetson:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if recipe.form.strip:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)  # with the very weights it was compiled with
    if recipe.backend == RTX and recipe.capabilities:
        config.num_compute_capabilities = len(recipe.capabilities)
        for i, capability in enumerate(recipe.capabilities):
            name = "SM" + capability.replace(".", "")
            if not config.set_compute_capability(getattr(trt.ComputeCapability, name), i):
                raise EngineError(f"{recipe.backend} does not compile for compute capability {capability}.")
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        name = network.get_input(i).name
        profile.set_shape(name, *recipe.profile[name])
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(f"the shapes {recipe.profile} are not possible for this graph.")
    return config


def _open_timing_cache(config: Any, recipe: Recipe) -> Any:
    if recipe.timing_cache is None or recipe.backend == RTX:
        return None
    stored = recipe.timing_cache.read_bytes() if recipe.timing_cache.is_file() else b""
    cache = config.create_timing_cache(stored)
    # a cache of another GPU or version is refused, and an empty one taken instead
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Reports the outermost phases. On Ctrl-C this whole process is killed by its parent."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._outer: dict[str, int] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self._outer[name] = steps

        def phase_finish(self, name: str) -> None:
            if name in self._outer:
                self._report(name, 1.0)

        def step_complete(self, name: str, step: int) -> bool:
            if name in self._outer:
                self._report(name, (step + 1) / max(1, self._outer[name]))
            return True

        def _report(self, name: str, share: float) -> None:
            # an exception must not cross into the library, which calls this from its own threads
            with contextlib.suppress(OSError):
                progress(name, share)

    return Monitor()
