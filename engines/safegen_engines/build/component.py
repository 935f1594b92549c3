"""One component from ONNX to what its target runs, each stage in a process of its own."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from safegen.check.isolate import DiedError, Progress, in_own_process
from safegen.engine.session import Session
from safegen.engine.trt_session import import_module
from safegen.errors import EngineError
from safegen.format.manifest import ANY_AMPERE, Compiled, Component, Parity, Tensor
from safegen.machine import available_memory
from safegen_engines.build import memory, parity
from safegen_engines.build.onnx_folder import Source
from safegen_engines.build.quantize import QUANTIZED
from safegen_engines.build.shapes import capability_here, component_shapes, step_shapes
from safegen_engines.build.target import Target, capabilities
from safegen_engines.graph import ep_context, onnx_graph, trt_compile

TYPED = "typed.onnx"
"""The graph that is compiled, at the target's precision."""
SUFFIX = {"tensorrt-rtx": ".rtx", "tensorrt": ".plan"}
NEEDED = {"fp32": 1.6, "fp16": 2.2, "bf16": 3.3, "int8": 2.2, "fp8": 2.2}
"""Peak memory of preparing a graph over the bytes of its weights in float32: measured for fp32 with Stable
Diffusion 1.5 and for fp16 with SDXL; bf16 holds one copy more than fp16."""
COMPILING = 5.0
"""The same of compiling one, over the bytes of its typed graph: Stable Diffusion 1.5 for RTX stayed below."""


@dataclass(frozen=True)
class Job:
    """What to make, and where."""

    source: Source
    folder: Path
    name: str
    target: Target
    precision: str
    form: trt_compile.Form
    quantized: Path | None = None
    """The graph with Q/DQ nodes, where the precision asks for one."""

    @property
    def graph(self) -> Path:
        """The portable graph that ships."""
        return self.folder / f"{self.name}.onnx"


def make(job: Job, progress: Progress) -> Component:
    """Build one component and compare it with its reference.

    Raises:
        EngineError: it fails its parity gate, memory does not suffice, or its compiler gives up.
    """
    shutil.rmtree(job.folder, ignore_errors=True)
    job.folder.mkdir(parents=True)
    made: Component
    try:
        made = _prepare_apart(job, job.precision, progress)
    except parity.NotFiniteError:
        if job.precision == "fp32":
            raise
        made = _prepare_apart(job, "fp32", progress)
    if job.target.backend:
        typed = sum(f.stat().st_size for f in job.folder.glob(f"{TYPED}*"))
        compiled: Compiled = _isolated(int(typed * COMPILING), progress, compile_prepared, job)
        if compiled.weights:
            onnx_graph.copy_graph(job.folder / TYPED, job.folder / compiled.weights)
        made = msgspec.structs.replace(made, compiled=compiled)
        for file in job.folder.glob(f"{TYPED}*"):
            file.unlink()
    return made


def _prepare_apart(job: Job, precision: str, progress: Progress) -> Component:
    size = sum(f.stat().st_size for f in job.source.graph(job.name).parent.glob("model.onnx*"))
    made: Component = _isolated(int(size * NEEDED[precision]), progress, prepare, job, precision)
    return made


def _isolated(weights: int, progress: Progress, stage: Any, job: Job, *rest: Any) -> Any:
    """Run a stage in a process of its own, if the memory that it takes for its weights is there."""
    free = available_memory()
    memory.check(job.name, weights, free)
    try:
        return in_own_process(stage, job, *rest, progress=progress, memory=free)
    except DiedError as error:
        raise EngineError(
            f"{job.name}: {error}. What was finished before is kept for the next run."
        ) from None


def prepare(job: Job, precision: str, progress: Progress) -> Component:
    """Write the portable graph, and a typed one for a compiler; compare what will draw with its reference."""
    source, name, target = job.source, job.name, job.target
    progress("preparing", 0.0)
    source.check_inputs(name, set(onnx_graph.input_shapes(source.graph(name))))
    reference, cases = parity.read_cases(source, name)
    optimized = False
    if target.backend:
        onnx_graph.copy_graph(source.graph(name), job.graph)
        checked = _prepare_typed(job, precision, reference, cases)
    else:
        _write(source.graph(name), job.graph, precision)
        if target.name == "cpu":
            optimized = _optimize(job.graph, cases[0][0])
        progress("comparing", 0.5)
        checked = parity.check(name, Session(job.graph), cases, reference, precision)
    session = Session(job.graph)
    return Component(
        file=job.graph.name,
        inputs={k: Tensor(d, s) for k, (d, s) in session.inputs.items()},
        outputs={k: Tensor(d, s) for k, (d, s) in session.outputs.items()},
        parity=checked,
        precision=precision,
        optimized_for="ONNX Runtime's CPU provider, any processor" if optimized else None,
    )


def _write(source: Path, out: Path, precision: str) -> None:
    """A graph at a precision; inputs and outputs stay float32."""
    if precision == "fp32":
        onnx_graph.copy_graph(source, out)
    else:
        convert = {"fp16": onnx_graph.to_fp16, "bf16": onnx_graph.to_bf16}[precision]
        onnx_graph.save_graph(convert(onnx_graph.load_graph(source)), out)


def _prepare_typed(job: Job, precision: str, reference: str, cases: list[parity.Case]) -> Parity:
    """Write the typed graph. A CPU has no bf16 kernels: there the rounding of the weights is checked."""
    typed, source = job.folder / TYPED, job.source.graph(job.name)
    if precision == "bf16":
        rounded = job.folder / "rounded.onnx"
        onnx_graph.save_graph(onnx_graph.round_weights(onnx_graph.load_graph(source)), rounded)
        checked = parity.check(job.name, Session(rounded), cases, f"{reference}, weights alone", precision)
        for file in job.folder.glob("rounded.onnx*"):
            file.unlink()
        _write(source, typed, precision)
        return checked
    if precision in QUANTIZED:
        assert job.quantized is not None
        onnx_graph.copy_graph(job.quantized, typed)
    else:
        _write(source, typed, precision)
    return parity.check(job.name, Session(typed), cases, reference, precision)


def _optimize(graph: Path, inputs: onnx_graph.Inputs) -> bool:
    """Put ONNX Runtime's own graph in place of a graph, where that is faster."""
    better = graph.with_name(f"optimized-{graph.name}")
    onnx_graph.optimize_offline(graph, better)
    faster = onnx_graph.faster(graph, better, inputs)
    if faster:
        for file in graph.parent.glob(f"{graph.name}*"):
            file.unlink()
        onnx_graph.copy_graph(better, graph)
    for file in graph.parent.glob(f"{better.name}*"):
        file.unlink()
    return faster


def compile_prepared(job: Job, progress: Progress) -> Compiled:
    """Compile the typed graph of a component."""
    shapes = component_shapes(job.source, job.name, job.target)
    return _compile(job.target, job.precision, job.graph, job.folder / TYPED, shapes, job.form, progress)


def step_apart(target: Target, graph: Path, portable: bool, progress: Progress) -> Compiled:
    """:func:`compile_step` in a process of its own.

    Raises:
        EngineError: the compiler gives up.
    """
    try:
        made: Compiled = in_own_process(compile_step, target, graph, portable, progress=progress)
    except DiedError as error:
        raise EngineError(f"{graph.name}: {error}.") from None
    return made


def compile_step(target: Target, graph: Path, portable: bool, progress: Progress) -> Compiled:
    """Compile a step graph beside it; it stays in float32, as the array code is, and has no weights."""
    form = trt_compile.Form(portable=portable)
    shapes = step_shapes(graph, target)
    return _compile(target, "fp32", graph, graph, shapes, form, progress)


def _compile(
    target: Target,
    precision: str,
    graph: Path,
    typed: Path,
    shapes: trt_compile.Profile,
    form: trt_compile.Form,
    progress: Progress,
) -> Compiled:
    """Compile ``typed`` beside the portable graph, with a wrapper for hosts of ONNX Runtime."""
    backend, folder, name = str(target.backend), graph.parent, graph.stem
    own, anywhere = list(capabilities(target, precision)), form.portable and target.machine is None
    free = available_memory() or 8 * 2**30
    recipe = trt_compile.Recipe(
        backend=backend,
        profile=shapes,
        workspace=int(free * target.workspace_share),
        capabilities=() if target.on_device else capabilities(target, precision),
        form=form,
        on_jetson=target.machine is not None,
        timing_cache=folder.parent / "timing.cache" if target.on_device else None,
    )
    engine = folder / f"{name}{SUFFIX[backend]}"
    trt_compile.compile_graph(name, typed, engine, recipe, progress)
    version = str(import_module(backend).__version__)
    readable = ep_context.is_readable(backend, version)
    compiled = Compiled(
        file=engine.name,
        context=f"{name}_ctx.onnx" if readable else None,
        backend=backend,
        version=version,
        capabilities=[ANY_AMPERE] if anywhere else own or [capability_here()],
        profile={name: [list(shape) for shape in rows] for name, rows in shapes.items()},
        weights=f"{name}_typed.onnx" if form.strip else None,
        portable=form.portable,
    )
    if compiled.context:
        ep_context.write(graph, folder / compiled.context, compiled)
    return compiled
