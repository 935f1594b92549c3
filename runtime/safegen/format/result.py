"""What drawing gives: a picture, how it came about, and what the guard did to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from operator import or_
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from safegen.device import to_host
from safegen.format.image import save_png
from safegen.sampling.loop import Step


@dataclass(frozen=True)
class Watch:
    """What the guard saw and did at one step of one picture."""

    step: int
    timestep: float
    log_snr: float | None
    """None for pure noise."""
    evidence: float
    """The gate opens above 0."""
    weight: float
    """Strength of the correction; 0 where the gate stayed shut."""
    nearest: int
    """Index of the reference that counts most."""


@dataclass(frozen=True)
class Verdict:
    """What the guard did to one picture."""

    guard: str
    steps: int
    opened: int
    """At how many steps the gate was open: evidence above 0 or, for a gate that then stays open, before."""
    corrected: int
    """At how many steps the guard changed the picture: a weight above 0."""
    strongest_evidence: float | None
    nearest_reference: int | None
    """Index of the reference at the step of the strongest evidence."""
    trace: tuple[Watch, ...] = field(repr=False)

    def summary(self) -> dict[str, Any]:
        """The verdict without its trace."""
        return {k: v for k, v in asdict(self).items() if k != "trace"}


@dataclass(frozen=True)
class Picture:
    """One drawn picture and how it came about."""

    image: Image.Image
    verdict: Verdict
    settings: dict[str, Any]
    """Prompt, seed and everything else that draws this picture again."""

    @property
    def title(self) -> str:
        """The prompt, or what stands for it where the model takes none."""
        if "prompt" in self.settings:
            return str(self.settings["prompt"])
        label = self.settings["class_label"]
        return "picture" if label is None else f"class {label}"

    def metadata(self) -> dict[str, Any]:
        """What a saved PNG records."""
        return {**self.settings, "verdict": self.verdict.summary()}

    def save(self, path: Path | str) -> None:
        """Write a PNG with :meth:`metadata` under the key ``safegen``."""
        save_png(self.image, Path(path), self.metadata())


def watch(steps: Sequence[Step], count: int) -> list[list[Watch]]:
    """What the guard saw of each of ``count`` pictures; read from the device here, after the last step."""
    watches: list[list[Watch]] = [[] for _ in range(count)]
    for step in (step for step in steps if step.evidence is not None):
        level = step.row.log_snr if np.isfinite(step.row.log_snr) else None
        for seen, value, weight, nearest in zip(watches, *map(to_host, step.evidence or ()), strict=True):
            seen.append(
                Watch(step.index, step.row.timestep, level, float(value), float(weight), int(nearest))
            )
    return watches


def judge(guard: str, steps: int, seen: list[Watch], *, latches: bool) -> Verdict:
    """Sum up what the guard saw over ``steps`` steps of one picture; ``latches``: an open gate stays open."""
    top = max(seen, key=lambda w: w.evidence, default=None)
    above = [w.evidence > 0 for w in seen]
    return Verdict(
        guard=guard,
        steps=steps,
        opened=sum(accumulate(above, or_)) if latches else sum(above),
        corrected=sum(w.weight > 0 for w in seen),
        strongest_evidence=top.evidence if top else None,
        nearest_reference=top.nearest if top else None,
        trace=tuple(seen),
    )
