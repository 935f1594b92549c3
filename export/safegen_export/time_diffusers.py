"""An engine beside its checkpoint in diffusers, for ``safegen bench --against``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safegen.engine.engine import Engine
from safegen.engine.pipeline import EMBEDDED, Pipeline
from safegen.errors import ExportError, first_line
from safegen.format.request import any_subject

PAUSE = 0.3
"""Seconds before each batch: threads of the other library go on waiting for work, on the same cores."""

Draw = Callable[[], object]


@dataclass(frozen=True)
class Against:
    """Both drew the same number of pictures a round, in turn, on as many threads."""

    threads: int
    """Of the CPU, for each."""
    rounds: int
    images_per_second_beside: float
    """Median of this, in the same rounds as diffusers'."""
    diffusers_images_per_second: float
    times_diffusers: float
    """How many times as fast this is: the median over the rounds of diffusers' time by ours."""


def compare(
    engine: Path | str | None,
    bundle: Path | str | None,
    checkpoint: Path,
    *,
    steps: int,
    batch: int,
    rounds: int,
    threads: int | None = None,
    cuda_graphs: bool = False,
) -> Against:
    """Draw batches with an engine, guarded, and with diffusers, by the engine's default size and guidance.

    Diffusers runs where the engine does: on the GPU in float16, or on the CPU in float32.

    Args:
        engine: an engine folder; None is the embedded one.
        bundle: a .negation file; None is the engine's own.
        checkpoint: what the engine was built from.
        steps: model evaluations.
        batch: pictures drawn at a time.
        rounds: batches of each, after one that warms up.
        threads: of the CPU, for both; None is torch's choice, which OMP_NUM_THREADS sets.
        cuda_graphs: let a compiled engine replay captured launches.

    Raises:
        ExportError: diffusers is not installed, or does not open the checkpoint.
    """
    try:
        import torch
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise ExportError(
            f"comparing needs the extra 'export' ({first_line(error)}): pip install 'safegen[export]'."
        ) from None
    torch.set_num_threads(threads or torch.get_num_threads())
    threads, where = torch.get_num_threads(), engine if engine is not None else EMBEDDED
    opened = Engine.open(where, cuda_graphs=cuda_graphs, threads=threads)
    ours = Pipeline.over(opened, bundle)
    device, dtype = ("cpu", torch.float32) if opened.device.name == "cpu" else ("cuda", torch.float16)
    try:
        theirs = DiffusionPipeline.from_pretrained(checkpoint, torch_dtype=dtype).to(device)
    except (OSError, ValueError, RuntimeError) as error:
        raise ExportError(f"{checkpoint}: diffusers does not open it ({first_line(error)}).") from None
    theirs.set_progress_bar_config(disable=True)
    subject, asked = any_subject(opened.manifest), _asked(theirs, opened, batch)
    pairs = in_turn(
        lambda: ours(**subject, n=batch, steps=steps, batch_size=batch),
        lambda: theirs(**asked, num_inference_steps=steps, output_type="np"),
        rounds,
    )
    return Against(
        threads,
        rounds,
        batch / statistics.median(ours for ours, _ in pairs),
        batch / statistics.median(theirs for _, theirs in pairs),
        statistics.median(theirs / ours for ours, theirs in pairs),
    )


def _asked(theirs: Any, opened: Engine, batch: int) -> dict[str, Any]:
    """What diffusers is told: the same kind of thing as the engine, where its pipeline takes text."""
    if not hasattr(theirs, "text_encoder"):
        return {"batch_size": batch}
    defaults = opened.manifest.defaults
    size = {"width": defaults.width, "height": defaults.height}
    return {"prompt": ["a photo of a coat"] * batch, "guidance_scale": defaults.guidance_scale, **size}


def in_turn(ours: Draw, theirs: Draw, rounds: int, pause: float = PAUSE) -> list[tuple[float, float]]:
    """Seconds of each, round by round, after a round that warms up; who begins changes every round."""
    pairs = []
    for i in range(rounds + 1):
        seconds = [0.0, 0.0]
        for which in (0, 1) if i % 2 else (1, 0):
            time.sleep(pause)
            began = time.perf_counter()
            (ours, theirs)[which]()
            seconds[which] = time.perf_counter() - began
        pairs.append((seconds[0], seconds[1]))
    return pairs[1:]
