"""A request worked out against an engine and a bundle, and refused where it has no meaning."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from PIL import Image

from safegen.errors import BundleError, GuardError, UsageError
from safegen.format.bundle import Bundle
from safegen.format.image import flatten
from safegen.format.manifest import Manifest
from safegen.format.request import Request
from safegen.guard.settings import SIGNABLE, Settings, parse_guard
from safegen.guard.text import TextGuard, check_text_guard, parse_text_guard
from safegen.sampling.conditioning import Subject
from safegen.sampling.init_image import Init, partway
from safegen.sampling.noise import MAX_SEED
from safegen.sampling.solver import Solver
from safegen.sampling.table import Table

if TYPE_CHECKING:
    from safegen.engine.engine import Engine

STRENGTH = 0.8
"""How much of an image is drawn anew where the request does not say."""


@dataclass(frozen=True)
class Job:
    """What all pictures of a batch share."""

    table: Table
    steps: int
    """As requested; the table has fewer where the picture starts from an image."""
    guard: Settings
    solver: Solver
    guidance_scale: float
    size: tuple[int, int]
    """(width, height) in pixels."""
    negative_prompt: str
    text_guard: TextGuard | None
    init: Init | None
    batch_size: int

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
            "size": list(self.size),
            "guard": {"mode": self.guard.mode, **settings},
            "guarded": self.guard.mode != "off",
            "engine": engine,
            "bundle": bundle if self.guard.mode != "off" else None,
        }


def _init_record(init: Init) -> dict[str, Any]:
    """Digests over the pixels as used, so that a picture can be drawn again from the right image."""
    mask = None if init.mask is None else sha256(init.mask.tobytes()).hexdigest()
    pixels = sha256(init.pixels.tobytes()).hexdigest()
    return {"init": {"pixels_sha256": pixels, "mask_sha256": mask, "strength": init.strength}}


def work_out(request: Request, engine: Engine, bundle: Bundle | None) -> Job:
    """What the pictures of a request share.

    Raises:
        UsageError: a value outside its range, or one that this model does not take.
        GuardError: the engine does not allow the guard, or it has no bundle.
        BundleError: the bundle is for another size.
    """
    if request.batch_size < 1:
        raise UsageError(f"batch_size is {request.batch_size}; it is at least 1.")
    manifest = engine.manifest
    defaults, named = manifest.defaults, request.solver
    solver = named if isinstance(named, Solver) else Solver(defaults.solver if named is None else named)
    guard = _guard(request.guard, manifest, bundle)
    scale = _guidance_scale(request, manifest)
    worded = _text_guard(request, bundle)
    if worded is not None:
        check_text_guard(worded, manifest.text_guards, scale)
    size = _size(request, guard, engine, bundle)
    steps = defaults.steps if request.steps is None else request.steps
    table, init = engine.plan(solver, steps, size), _init(request, solver, size)
    if init is not None:
        table = partway(table, init.strength)
    return Job(
        table=table,
        steps=steps,
        guard=guard,
        solver=solver,
        guidance_scale=scale,
        size=size,
        negative_prompt=request.negative_prompt,
        text_guard=worded,
        init=init,
        batch_size=request.batch_size,
    )


def check_seeds(request: Request) -> None:
    """Refuse pictures of no number, or of seeds that there are none of.

    Raises:
        UsageError: either.
    """
    if request.n < 1:
        raise UsageError(f"n is {request.n}; it is at least 1.")
    if not 0 <= request.seed <= MAX_SEED - request.n + 1:
        raise UsageError("seed goes from 0 to 2^64 - 1.")


def subject_of(request: Request, manifest: Manifest) -> Subject:
    """The prompt, the label, or None, as the model takes it.

    Raises:
        UsageError: what the model does not take, or nothing though it needs something.
    """
    spec, name, label = manifest.conditioning, manifest.name, request.class_label
    if request.prompt is not None and not spec.text:
        instead = "a class label" if spec.classes else "no prompt"
        raise UsageError(f"the engine {name!r} takes {instead}; its model knows no text.")
    if label is not None and not spec.classes:
        raise UsageError(f"the engine {name!r} knows no classes; leave the class label out.")
    if spec.text:
        if request.prompt is None:
            raise UsageError(f"nothing to draw: the engine {name!r} needs a prompt.")
        return request.prompt
    if label is None and spec.classes and spec.null_class is None:
        raise UsageError(f"the engine {name!r} needs a class label, 0 to {spec.classes - 1}.")
    if label is not None and not 0 <= label < spec.classes:
        raise UsageError(f"class label is {label}; this model knows 0 to {spec.classes - 1}.")
    return label


def _guard(guard: str | Settings | None, manifest: Manifest, bundle: Bundle | None) -> Settings:
    frozen = bundle.info.guard if bundle else None
    if frozen and guard in (None, frozen.mode):
        settings = frozen
    elif guard is None:
        raise GuardError("no bundle is open; to draw without a guard say so with guard 'off'.")
    else:
        settings = parse_guard(guard) if isinstance(guard, str) else guard
    allowed = manifest.guards
    # what ratio is compared with may stop nothing: it is no more than drawing without a guard
    if (settings.mode if settings.mode in SIGNABLE else "off") not in allowed:
        how = "" if settings.mode in SIGNABLE else " It was not built with --allow-unguarded."
        raise GuardError(
            f"this engine does not allow the guard {settings.mode!r}; it allows {', '.join(allowed)}.{how}"
        )
    return settings


def _guidance_scale(request: Request, manifest: Manifest) -> float:
    scale, how = request.guidance_scale, manifest.conditioning.guidance
    if scale is None:
        scale = manifest.defaults.guidance_scale
    if not np.isfinite(scale) or scale < 0:
        raise UsageError(f"guidance_scale is {scale}; it is 0 or more, 1 is none.")
    if how == "none" and scale != 1.0:
        raise UsageError(f"guidance_scale is {scale}; this model takes none. Leave it out, or give 1.")
    if request.negative_prompt and (how != "classifier-free" or not manifest.conditioning.text):
        raise UsageError("negative_prompt: this model is not guided by text, so it takes none.")
    if request.negative_prompt and scale <= 1:
        raise UsageError(
            f"negative_prompt: guidance_scale is {scale}, which leaves it out; give one above 1."
        )
    return scale


def _text_guard(request: Request, bundle: Bundle | None) -> TextGuard | None:
    """Settings of a text guard; named alone, it turns from the concepts, else from the bundle's name."""
    named = request.text_guard
    if isinstance(named, str):
        return parse_text_guard(named, request.concepts or ([bundle.info.name] if bundle else []))
    if request.concepts:
        raise UsageError("concepts are what a text guard turns from; name one, safree or sld.")
    return named


def _size(request: Request, guard: Settings, engine: Engine, bundle: Bundle | None) -> tuple[int, int]:
    defaults, space = engine.manifest.defaults, engine.manifest.latent_space
    width, height = request.size or (defaults.width, defaults.height)
    multiple = space.downscale * space.patch
    if any(side < multiple or side % multiple for side in (width, height)):
        raise UsageError(f"size is {width}x{height}; both sides must be multiples of {multiple}.")
    shape = engine.latent_shape(width, height)
    engine.check_shape(shape)
    if guard.mode != "off" and bundle and bundle.info.latent_shape != shape:
        frozen = "x".join(map(str, bundle.info.image_size))
        raise BundleError(
            f"the bundle {bundle.info.name!r} is for {frozen} pictures, not {width}x{height}."
            f" Freeze one with 'safegen freeze --size {width}x{height}'."
        )
    return width, height


def _init(request: Request, solver: Solver, size: tuple[int, int]) -> Init | None:
    if request.init is None:
        if request.mask is not None or request.strength is not None:
            raise UsageError("mask and strength say what to redraw of an image; give the image, too.")
        return None
    if solver.name == "lcm":
        raise UsageError("the solver lcm starts from noise alone; use another with an image.")
    pixels = np.asarray(flatten(request.init).resize(size, Image.Resampling.LANCZOS))
    white = None
    if request.mask is not None:
        white = np.asarray(request.mask.convert("L").resize(size, Image.Resampling.NEAREST)) >= 128
    return Init(pixels, STRENGTH if request.strength is None else request.strength, white)
