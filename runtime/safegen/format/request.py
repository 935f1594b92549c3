"""One call's request, worked out: what all of its pictures share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from safegen.errors import UsageError
from safegen.format.image import flatten
from safegen.format.manifest import Manifest
from safegen.guard.settings import Settings
from safegen.guard.text import TextGuard, parse_text_guard
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


def subjects_of(
    manifest: Manifest, prompt: str | Sequence[str] | None, class_label: int | Sequence[int] | None
) -> list[Subject]:
    """The prompts, the labels, or one None, as the model takes them.

    Raises:
        UsageError: what the model does not take, or nothing though it needs something.
    """
    spec, name = manifest.conditioning, manifest.name
    if prompt is not None and not spec.text:
        instead = "a class label" if spec.classes else "no prompt"
        raise UsageError(f"the engine {name!r} takes {instead}; its model knows no text.")
    if class_label is not None and not spec.classes:
        raise UsageError(f"the engine {name!r} knows no classes; leave the class label out.")
    if spec.text:
        if prompt is None:
            raise UsageError(f"nothing to draw: the engine {name!r} needs a prompt.")
        return [prompt] if isinstance(prompt, str) else list(prompt)
    if class_label is None:
        if spec.classes and spec.null_class is None:
            raise UsageError(f"the engine {name!r} needs a class label, 0 to {spec.classes - 1}.")
        return [None]
    labels = [class_label] if isinstance(class_label, int) else list(class_label)
    for wrong in (label for label in labels if not 0 <= label < spec.classes):
        raise UsageError(f"class label is {wrong}; this model knows 0 to {spec.classes - 1}.")
    return list(labels)


def any_subject(manifest: Manifest) -> dict[str, Any]:
    """What every engine of a kind can draw, to time it: a prompt, a class label, or nothing in particular."""
    spec = manifest.conditioning
    return {"prompt": "a photo of a coat"} if spec.text else {"class_label": 0} if spec.classes else {}


def text_guard_of(
    text_guard: str | TextGuard | None, concepts: Sequence[str] | None, bundle: str | None
) -> TextGuard | None:
    """Settings of a text guard; where it is named alone it turns from ``concepts``, else the bundle's name.

    Raises:
        UsageError: an unknown name, or concepts without one.
    """
    if concepts and not isinstance(text_guard, str):
        raise UsageError("concepts are what a text guard turns from; name one, safree or sld.")
    if not isinstance(text_guard, str):
        return text_guard
    return parse_text_guard(text_guard, concepts or ([bundle] if bundle else []))


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
