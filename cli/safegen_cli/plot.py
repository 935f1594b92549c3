"""A picture of what the guard saw: evidence and strength over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safegen.errors import UsageError

if TYPE_CHECKING:
    from safegen.picture import Picture


def plot_traces(pictures: Sequence[Picture], path: Path) -> None:
    """Draw one line a picture.

    Raises:
        UsageError: matplotlib is not installed, or the suffix is no image format.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("--plot needs matplotlib: pip install 'safegen[eval]'.") from None
    figure = Figure(figsize=(8, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for picture in pictures:
        trace = picture.verdict.trace
        steps = [w.step + 1 for w in trace]
        label = f"{picture.title} ({picture.settings['seed']})"
        above.plot(steps, [w.evidence for w in trace], marker=".", label=label)
        below.plot(steps, [w.weight for w in trace], marker=".")
    above.axhline(0, color="black", linewidth=0.8)
    above.set_yscale("symlog", linthresh=1)
    above.set_ylabel("evidence (gate opens above 0)")
    below.set_ylabel("strength")
    below.set_xlabel("step")
    if len(pictures) <= 8:
        above.legend(fontsize="small")
    try:
        figure.savefig(path)
    except ValueError as error:
        raise UsageError(f"{path}: {error}.") from None
