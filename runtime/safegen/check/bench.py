"""How long each part of drawing takes on this machine, and what memory it needs."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from safegen.engine.bind import open_guard
from safegen.engine.engine import Engine
from safegen.engine.pipeline import EMBEDDED, Pipeline
from safegen.format.request import any_subject
from safegen.guard.settings import Settings
from safegen.sampling.loop import first_latents
from safegen.sampling.solver import Solver


@dataclass(frozen=True)
class Bench:
    """Medians on this machine."""

    engine: str
    target: str
    device: str
    size: tuple[int, int]
    steps: int
    batch: int
    """Pictures drawn at a time."""
    open_seconds: float
    """Verifying the folder and loading every graph."""
    components_ms: dict[str, float]
    """One run of each component, at the shapes of such a batch."""
    step_ms: float
    """One step of the batch: model, guidance, guard and solver."""
    guard_ms: float
    """The guard's part of a step at which it looks."""
    guard_share: float
    """``guard_ms`` over ``step_ms``."""
    images_per_second: float
    peak_memory_mib: float
    """Of this process, on the CPU's side."""
    gpu_memory_mib: float | None
    """Taken on the GPU, by all programs together."""


class _Timed:
    """A session that notes how long each run took."""

    def __init__(self, session: Any, seconds: list[float], wait: Callable[[], None]) -> None:
        self._session, self._seconds, self._wait = session, seconds, wait
        self.inputs, self.outputs = session.inputs, session.outputs

    def run(self, **inputs: Any) -> dict[str, Any]:
        """Run once, and wait for the device."""
        began = time.perf_counter()
        outputs: dict[str, Any] = self._session.run(**inputs)
        self._wait()
        self._seconds.append(time.perf_counter() - began)
        return outputs


class _TimedEngine(Engine):
    """An engine whose sessions are timed."""

    @cached_property
    def seconds(self) -> dict[str, list[float]]:
        """How long each run of each component took."""
        return {}

    def _open_session(self, component: str) -> Any:
        seconds = self.seconds.setdefault(component, [])
        return _Timed(super()._open_session(component), seconds, self.device.wait)


def bench(
    engine: Path | str | None,
    bundle: Path | str | None,
    *,
    steps: int | None = None,
    batch: int = 1,
    runs: int = 3,
    cuda_graphs: bool = False,
    threads: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Bench:
    """Draw ``runs`` batches after one that warms up, and report medians.

    Args:
        engine: an engine folder; None is the embedded one.
        bundle: a .negation file; None is the engine's own.
        steps: model evaluations; None is the engine's default.
        batch: pictures drawn at a time.
        runs: batches to take the median of.
        cuda_graphs: let compiled engines replay captured launches.
        threads: of the CPU for each run of a graph; None is ONNX Runtime's choice.
        progress: called after each batch.

    Raises:
        EngineError: the engine does not open here.
        BundleError: it carries no bundle, and none is given.
    """
    began = time.perf_counter()
    where = engine if engine is not None else EMBEDDED
    opened = cast("_TimedEngine", _TimedEngine.open(where, cuda_graphs=cuda_graphs, threads=threads))
    pipeline = Pipeline.over(opened, bundle)
    for component in opened.manifest.components:
        opened.session(component)
    open_seconds = time.perf_counter() - began
    defaults = opened.manifest.defaults
    count, size = steps or defaults.steps, (defaults.width, defaults.height)
    whole: list[float] = []
    each: list[float] = []
    for run in range(runs + 1):
        marks = [time.perf_counter()]
        pictures = pipeline(
            **any_subject(opened.manifest),
            n=batch,
            steps=count,
            batch_size=batch,
            on_step=lambda step, marks=marks: marks.append(_now(opened)),  # type: ignore[misc]
        )
        if run:
            whole.append(time.perf_counter() - marks[0])
            each += np.diff(marks[1:]).tolist() or [marks[-1] - marks[0]]
        progress(run + 1)
    settings = pipeline.bundle.info.guard if pipeline.bundle else None
    guard_ms = _guard_ms(pipeline, settings, count, batch) if settings else 0.0
    step_ms = statistics.median(each) * 1000
    return Bench(
        engine=opened.manifest.name,
        target=opened.manifest.target,
        device=opened.device.name,
        size=size,
        steps=count,
        batch=len(pictures),
        open_seconds=open_seconds,
        # the first run of each sets things up
        components_ms={k: statistics.median(v[1:] or v) * 1000 for k, v in opened.seconds.items() if v},
        step_ms=step_ms,
        guard_ms=guard_ms,
        guard_share=guard_ms / step_ms,
        images_per_second=batch / statistics.median(whole),
        peak_memory_mib=_peak_memory(),
        gpu_memory_mib=_gpu_memory(opened),
    )


def _now(engine: Engine) -> float:
    engine.device.wait()
    return time.perf_counter()


def _guard_ms(pipeline: Pipeline, settings: Settings, steps: int, batch: int, runs: int = 20) -> float:
    """The guard alone, at the last step of a plan, where every guard but those of early steps looks."""
    engine = pipeline.engine
    defaults = engine.manifest.defaults
    table = engine.plan(Solver(defaults.solver), steps, (defaults.width, defaults.height))
    shape, xp = engine.latent_shape(defaults.width, defaults.height), engine.device.xp
    seeds, seconds = list(range(batch)), []
    with engine.device.active():
        guard = open_guard(settings, pipeline.bundle, pipeline.bank, table)
        x = first_latents(table, seeds, shape, xp)
        state = guard(x, x, 0, guard.start(x, seeds))[-1]
        for _ in range(runs):
            began = time.perf_counter()
            guard(x, x, len(table) - 1, state)
            engine.device.wait()
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds) * 1000


def _peak_memory() -> float:
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _gpu_memory(engine: Engine) -> float | None:
    if engine.device.stream is None:
        return None
    import cupy

    free, total = cupy.cuda.runtime.memGetInfo()
    return float(total - free) / 2**20
