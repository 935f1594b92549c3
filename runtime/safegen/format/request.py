"""One call's request, worked out: what all of its pictures share."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from safegen.errors import UsageError
from safegen.format.image import flatten
from safegen.guard.settings import Settings
from safegen.guard.text import TextGuard
from safegen.sampling.conditioning import Subject
from safegen.sampling.init_image import Init, partway
from safegen.sampling.solver import Solver
from safegen.sampling.table import Table


@dataclass(frozen=True)
class Job:
    """What all pictures of one call share."""

    table: Table
    steps: int
    """As asked for; the table has fewer where the picture starts from an image."""
    guard: Settings
    solver: Solver
    guidance_scale: float
    width: int
    height: int
    negative_prompt: str
    text_guard: TextGuard | None
    init: Init | None = None

    def record(self, subject: Subject, seed: int, engine: str, bundle: str | None) -> dict[str, Any]:
        """All that draws one picture again, the digests of engine and bundle included."""
        text = {"prompt": subject, "negative_prompt": self.negative_prompt}
        settings = {f: getattr(self.guard, f) for f in self.guard.__struct_fields__}
        return {
            **(text if isinstance(subject, str) else {"class_label": subject}),
            "seed": seed,
            "steps": self.steps,
            "solver": asdict(self.solver),
            "guidance_scale": self.guidance_scale,
            **(_init_record(self.init) if self.init else {}),
            **({"text_guard": msgspec.to_builtins(self.text_guard)} if self.text_guard else {}),
            "size": [self.width, self.height],
            "guard": {"mode": self.guard.mode, **settings},
            "guarded": self.guard.mode != "off",
            "engine": engine,
            "bundle": bundle if self.guard.mode != "off" else None,
        }


def start_from(job: Job, image: Image.Image, strength: float, mask: Image.Image | None) -> Job:
    """The same job on the last part of its table, from an image."""
    if job.solver.name == "lcm":
        raise UsageError("the solver lcm starts from noise alone; use another with an image.")
    size = (job.width, job.height)
    pixels = np.asarray(flatten(image).resize(size, Image.Resampling.LANCZOS))
    white = None
    if mask is not None:
        white = np.asarray(mask.convert("L").resize(size, Image.Resampling.NEAREST)) >= 128
    return replace(job, table=partway(job.table, strength), init=Init(pixels, strength, white))


def _init_record(init: Init) -> dict[str, Any]:
    """Digests over the pixels as used, so that a picture can be drawn again from the right image."""
    mask = None if init.mask is None else sha256(init.mask.tobytes()).hexdigest()
    pixels = sha256(init.pixels.tobytes()).hexdigest()
    return {"init": {"pixels_sha256": pixels, "mask_sha256": mask, "strength": init.strength}}
