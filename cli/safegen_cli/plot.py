"""Charts: what the guard saw, evidence and strength over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safegen.errors import UsageError
from safegen.files import check_place, replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from safegen.format.result import Watch


def figure() -> Figure:
    """An empty figure."""
    from matplotlib.figure import Figure

    return Figure(figsize=(8, 5), layout="constrained")


def save(drawn: Figure, path: Path) -> None:
    """Write a figure whole or not at all, as what its suffix says."""
    with replacing(path) as scratch:
        drawn.savefig(scratch, format=path.suffix[1:].lower())


def check_plot(path: Path | None) -> None:
    """Refuse a chart that could not be written, before what it is to show.

    Raises:
        UsageError: the suffix is no image format, or there is no place to write to.
    """
    if path is None:
        return
    check_place(path)
    known = figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise UsageError(
            f"{path}: charts are written as {', '.join(sorted(known))}; name it {path.stem}.png."
        )


def plot_traces(traces: Sequence[tuple[str, Sequence[Watch]]], path: Path) -> None:
    """Draw one line for each (label, what the guard saw of a picture)."""
    canvas = figure()
    above, below = canvas.subplots(2, 1, sharex=True)
    for label, trace in traces:
        steps = [w.step + 1 for w in trace]
        above.plot(steps, [w.evidence for w in trace], marker=".", label=label)
        below.plot(steps, [w.weight for w in trace], marker=".")
    above.axhline(0, color="black", linewidth=0.8)
    above.set_yscale("symlog", linthresh=1)
    above.set_ylabel("evidence (gate opens above 0)")
    below.set_ylabel("strength")
    below.set_xlabel("step")
    if 1 <= len(traces) <= 8:
        above.legend(fontsize="small")
    save(canvas, path)
