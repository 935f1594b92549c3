"""Prompt in, picture and verdict out; never without the guard that the engine demands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from safegen.bundle import Bundle, read_bundle
from safegen.engine import Engine
from safegen.errors import BundleError, GuardError, UsageError
from safegen.guard import Bank
from safegen.guard_settings import OpenGuard, Settings, open_guard, parse_guard
from safegen.guidance import guided
from safegen.image import save_png
from safegen.loop import Step, denoise, first_latents
from safegen.noise import MAX_SEED
from safegen.solver import Solver, Table, plan

EMBEDDED = Path(__file__).parent / "models" / "fashion"


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
    """At how many steps the gate opened."""
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

    def metadata(self) -> dict[str, Any]:
        """What a saved PNG records."""
        return {**self.settings, "verdict": self.verdict.summary()}

    def save(self, path: Path | str) -> None:
        """Write a PNG with :meth:`metadata` under the key ``safegen``."""
        save_png(self.image, Path(path), self.metadata())


class Pipeline:
    """An engine, a bundle, and the rule that one does not draw without the other."""

    def __init__(self, engine: Engine, bundle: Bundle | None) -> None:
        """Match a bundle with an engine.

        Raises:
            BundleError: none, though the engine demands a guard, or one of another autoencoder.
        """
        self.engine = engine
        self.bundle = bundle
        self._bank: Bank | None = None
        if bundle is None and not engine.manifest.allow_unguarded:
            raise BundleError(
                f"{engine.folder}: this engine draws only with a negation bundle and carries none."
                " Make one with 'safegen freeze IMAGES -e ENGINE -o FILE' and pass it with -b."
            )
        if bundle is not None:
            self._match(bundle)
            self._bank = bundle.bank()

    @classmethod
    def load(cls, engine: Path | str | None = None, bundle: Path | str | None = None) -> Pipeline:
        """Open and verify both.

        Args:
            engine: an engine folder; None is the embedded engine.
            bundle: a .negation file; None is the engine's own, if it carries one.

        Raises:
            EngineError: the engine is missing, changed or unknown.
            BundleError: the bundle is missing, changed, or made for another autoencoder.
        """
        opened = Engine.open(engine if engine is not None else EMBEDDED)
        own = opened.manifest.bundle
        path = Path(bundle) if bundle is not None else opened.folder / own if own else None
        return cls(opened, read_bundle(path) if path else None)

    def _match(self, bundle: Bundle) -> None:
        if bundle.info.latent_space != self.engine.manifest.latent_space.id:
            raise BundleError(
                f"the bundle {bundle.info.name!r} was frozen through another autoencoder than this"
                " engine's. Freeze it again with 'safegen freeze IMAGES -e ENGINE -o FILE'."
            )

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str = "",
        n: int = 1,
        seed: int | Sequence[int] = 0,
        steps: int | None = None,
        solver: str | Solver | None = None,
        guidance_scale: float | None = None,
        size: tuple[int, int] | None = None,
        guard: str | Settings | None = None,
        batch_size: int = 4,
        on_step: Callable[[Step], None] | None = None,
    ) -> list[Picture]:
        """Draw.

        Args:
            prompt: one prompt, or several.
            negative_prompt: takes the place of the empty prompt in guidance.
            n: pictures a prompt; picture i of a prompt has seed + i.
            seed: 0 to 2^64 - 1, or one for each prompt. The same seed gives the same picture at
                every batch size.
            steps: model evaluations; None is the engine's default.
            solver: a name of :data:`safegen.solver.SOLVERS`, or a :class:`Solver`.
            guidance_scale: above 1 the prompt is followed more closely at twice the cost.
            size: (width, height) in pixels; None is the engine's default.
            guard: ``ratio``, ``official:nudity``, … or settings; None is the bundle's own.
            batch_size: pictures drawn at a time.
            on_step: called after each step of each batch.

        Returns:
            ``n`` pictures for the first prompt, then ``n`` for the next.

        Raises:
            UsageError: a value outside its range.
            GuardError: the engine does not allow the guard, or it has no bundle.
            BundleError: the bundle is for another size.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        seeds = [seed] * len(prompts) if isinstance(seed, int) else list(seed)
        if n < 1 or batch_size < 1 or len(seeds) != len(prompts):
            raise UsageError("n and batch_size are at least 1, and seed is one number or one a prompt.")
        if not all(0 <= first <= MAX_SEED - n + 1 for first in seeds):
            raise UsageError("seed goes from 0 to 2^64 - 1.")
        job = self._job(negative_prompt, steps, solver, guidance_scale, size, guard)
        todo = [(text, first + i) for text, first in zip(prompts, seeds, strict=True) for i in range(n)]
        opened = open_guard(job.guard, self.bundle, self._bank, job.table)
        pictures: list[Picture] = []
        for start in range(0, len(todo), batch_size):
            pictures += self._draw(job, opened, todo[start : start + batch_size], on_step)
        return pictures

    def _job(
        self,
        negative_prompt: str,
        steps: int | None,
        solver: str | Solver | None,
        guidance_scale: float | None,
        size: tuple[int, int] | None,
        guard: str | Settings | None,
    ) -> _Job:
        defaults = self.engine.manifest.defaults
        named = Solver(solver or defaults.solver) if solver is None or isinstance(solver, str) else solver
        settings = self._guard_settings(guard)
        scale = defaults.guidance_scale if guidance_scale is None else guidance_scale
        if not np.isfinite(scale) or scale < 0:
            raise UsageError(f"guidance_scale is {scale}; it is 0 or more, 1 is none.")
        width, height = self._check_size(size or (defaults.width, defaults.height), settings)
        table = plan(self.engine.schedule, named, steps or defaults.steps)
        return _Job(table, settings, named, scale, width, height, negative_prompt)

    def _guard_settings(self, guard: str | Settings | None) -> Settings:
        if guard is not None:
            settings = parse_guard(guard) if isinstance(guard, str) else guard
        elif self.bundle is not None:
            settings = self.bundle.info.guard
        else:
            raise GuardError("no bundle is open; to draw without a guard say so with guard 'off'.")
        allowed = self.engine.manifest.guards
        if settings.mode not in allowed:
            how = " It was not built with --allow-unguarded." if settings.mode == "off" else ""
            raise GuardError(
                f"this engine does not allow the guard {settings.mode!r}; it allows"
                f" {', '.join(allowed)}.{how}"
            )
        return settings

    def _check_size(self, size: tuple[int, int], settings: Settings) -> tuple[int, int]:
        multiple = self.engine.manifest.latent_space.downscale
        if any(side < multiple or side % multiple for side in size):
            raise UsageError(f"size is {size[0]}x{size[1]}; both sides must be multiples of {multiple}.")
        shape = self.engine.latent_shape(*size)
        if settings.mode != "off" and self.bundle and self.bundle.info.latent_shape != shape:
            width, height = self.bundle.info.image_size
            raise BundleError(
                f"the bundle {self.bundle.info.name!r} is for {width}x{height} pictures, not"
                f" {size[0]}x{size[1]}. Freeze one with 'safegen freeze --size {size[0]}x{size[1]}'."
            )
        return size

    def _draw(
        self, job: _Job, guard: OpenGuard, todo: list[tuple[str, int]],
        on_step: Callable[[Step], None] | None,
    ) -> list[Picture]:  # fmt: skip
        seeds = [seed for _, seed in todo]
        shape = self.engine.latent_shape(job.width, job.height)
        states = self.engine.encode_prompts([job.negative_prompt, *(text for text, _ in todo)])
        uncond = np.repeat(states[:1], len(todo), axis=0)
        model = guided(self.engine.predict, states[1:], uncond, job.guidance_scale)
        x = first_latents(job.table, seeds, shape, np)
        watches: list[list[Watch]] = [[] for _ in todo]
        for step in denoise(model, x, job.table, guard, seeds):
            x = step.x
            _watch(step, watches)
            if on_step:
                on_step(step)
        images = [Image.fromarray(pixels) for pixels in self.engine.decode(x)]
        return [
            Picture(image, _verdict(job, seen), self._record(job, text, seed))
            for image, seen, (text, seed) in zip(images, watches, todo, strict=True)
        ]

    def _record(self, job: _Job, prompt: str, seed: int) -> dict[str, Any]:
        return {
            "prompt": prompt,
            "negative_prompt": job.negative_prompt,
            "seed": seed,
            "steps": len(job.table),
            "solver": asdict(job.solver),
            "guidance_scale": job.guidance_scale,
            "size": [job.width, job.height],
            "guard": _builtins(job.guard),
            "guarded": job.guard.mode != "off",
            "engine": self.engine.manifest.digest,
            "bundle": self.bundle.digest if self.bundle and job.guard.mode != "off" else None,
        }


@dataclass(frozen=True)
class _Job:
    """What all pictures of one call share."""

    table: Table
    guard: Settings
    solver: Solver
    guidance_scale: float
    width: int
    height: int
    negative_prompt: str


def _builtins(settings: Settings) -> dict[str, Any]:
    return {"mode": settings.mode, **{f: getattr(settings, f) for f in settings.__struct_fields__}}


def _watch(step: Step, watches: list[list[Watch]]) -> None:
    if step.evidence is None:
        return
    level = step.row.log_snr if np.isfinite(step.row.log_snr) else None
    for seen, value, weight, nearest in zip(watches, *step.evidence, strict=True):
        seen.append(Watch(step.index, step.row.timestep, level, float(value), float(weight), int(nearest)))


def _verdict(job: _Job, seen: list[Watch]) -> Verdict:
    top = max(seen, key=lambda w: w.evidence, default=None)
    opened = sum(w.weight > 0 for w in seen)
    return Verdict(
        job.guard.mode, len(job.table), opened,
        top.evidence if top else None, top.nearest if top else None, tuple(seen),
    )  # fmt: skip
