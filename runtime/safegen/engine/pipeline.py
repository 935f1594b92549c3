"""Prompt in, picture and verdict out; never without the guard that the engine demands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from safegen.device import open_device
from safegen.engine.bind import open_guard
from safegen.engine.engine import MODELS, Engine, is_finite
from safegen.engine.text_states import filtered_conditioning
from safegen.errors import BundleError, GuardError, UsageError
from safegen.format.bundle import Bundle, read_bundle
from safegen.format.request import Job, start_from, subjects_of, text_guard_of
from safegen.format.result import Picture, judge, watch
from safegen.guard.bank import Bank, on
from safegen.guard.settings import Settings, parse_guard
from safegen.guard.text import Safree, Sld, TextGuard, check_text_guard, sld, switched
from safegen.sampling.conditioning import Conditioning, Subject
from safegen.sampling.guidance import guided
from safegen.sampling.init_image import keep_outside, noised_to
from safegen.sampling.loop import Model, OpenGuard, Step, denoise, first_latents
from safegen.sampling.noise import MAX_SEED, normal_batch
from safegen.sampling.solver import Solver

EMBEDDED = MODELS / "fashion"


class Pipeline:
    """An engine, a bundle, and the rule that one does not draw without the other."""

    def __init__(self, engine: Engine, bundle: Bundle | None) -> None:
        """Match a bundle with an engine.

        Raises:
            BundleError: none, though the engine demands a guard, or one of another autoencoder.
        """
        self.engine = engine
        self.bundle = bundle
        self.bank: Bank | None = None
        if bundle is None and not engine.manifest.allow_unguarded:
            raise BundleError(
                f"{engine.folder}: this engine draws only with a negation bundle and carries none."
                " Make one with 'safegen freeze IMAGES -e ENGINE -o FILE' and pass it with -b."
            )
        if bundle is not None:
            self._match(bundle)
            self.bank = on(bundle.bank(), engine.device.xp)

    @classmethod
    def load(
        cls,
        engine: Path | str | None = None,
        bundle: Path | str | None = None,
        *,
        device: str | None = None,
        cuda_graphs: bool = False,
    ) -> Pipeline:
        """Open and verify both.

        Args:
            engine: an engine folder, or ``fashion`` or ``pixels``, which are embedded; None is the first.
            bundle: a .negation file; None is the engine's own, if it carries one.
            device: ``cpu``, ``cuda`` or ``tensorrt`` (graphs that are not compiled by ONNX Runtime's
                TensorRT provider); None is the CPU for the target ``cpu``, else ``cuda``.
            cuda_graphs: let compiled engines replay captured launches: faster, for more memory.

        Raises:
            EngineError: the engine is missing, changed or unknown.
            BundleError: the bundle is missing, changed, or made for another autoencoder.
        """
        where = open_device(device) if device else None
        opened = Engine.open(
            engine if engine is not None else EMBEDDED, device=where, cuda_graphs=cuda_graphs
        )
        return cls.over(opened, bundle)

    @classmethod
    def over(cls, engine: Engine, bundle: Path | str | None = None) -> Pipeline:
        """As :meth:`load`, over an engine that is open already."""
        own = engine.manifest.bundle
        path = Path(bundle) if bundle is not None else engine.folder / own if own else None
        return cls(engine, read_bundle(path) if path else None)

    def _match(self, bundle: Bundle) -> None:
        if bundle.info.latent_space != self.engine.manifest.latent_space.id:
            raise BundleError(
                f"the bundle {bundle.info.name!r} was frozen through another autoencoder than this"
                " engine's. Freeze it again with 'safegen freeze IMAGES -e ENGINE -o FILE'."
            )

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        class_label: int | Sequence[int] | None = None,
        negative_prompt: str = "",
        text_guard: str | TextGuard | None = None,
        concepts: Sequence[str] | None = None,
        n: int = 1,
        seed: int | Sequence[int] = 0,
        steps: int | None = None,
        solver: str | Solver | None = None,
        guidance_scale: float | None = None,
        size: tuple[int, int] | None = None,
        guard: str | Settings | None = None,
        init: Image.Image | None = None,
        strength: float | None = None,
        mask: Image.Image | None = None,
        batch_size: int = 4,
        on_step: Callable[[Step], None] | None = None,
    ) -> list[Picture]:
        """Draw.

        Args:
            prompt: one prompt, or several; None for a model without text.
            class_label: one label, or several, for a model of classes; None draws of no class.
            negative_prompt: takes the place of the empty prompt in guidance.
            text_guard: ``safree``, ``sld:medium`` and so on, or settings; alone or beside any guard.
            concepts: what a text guard named by a string turns from; None is the bundle's name.
            n: pictures a prompt or label; picture i of it has seed + i.
            seed: 0 to 2^64 - 1, or one for each prompt, or for each picture of no prompt. The same seed
                gives the same picture at every batch size.
            steps: model evaluations; None is the engine's default.
            solver: a name of :data:`safegen.sampling.solver.SOLVERS`, or a :class:`Solver`.
            guidance_scale: above 1 the prompt is followed more closely at twice the cost.
            size: (width, height) in pixels; None is the engine's default.
            guard: ``ratio``, ``official:nudity``, … or settings; None, or the name of the bundle's own
                guard, is that with the bundle's settings.
            init: an image to start from, resized to the size.
            strength: how much of ``init`` is drawn anew, above 0 to 1; None is 0.8.
            mask: white where ``init`` is redrawn; None redraws all of it.
            batch_size: pictures drawn at a time.
            on_step: called after each step of each batch.

        Returns:
            ``n`` pictures for the first prompt or label, then ``n`` for the next.

        Raises:
            UsageError: a value outside its range.
            GuardError: the engine does not allow the guard, or it has no bundle.
            BundleError: the bundle is for another size.
        """
        subjects = subjects_of(self.engine.manifest, prompt, class_label)
        if subjects == [None] and not isinstance(seed, int):
            subjects = [None] * len(seed)
        seeds = [seed] * len(subjects) if isinstance(seed, int) else list(seed)
        if n < 1 or batch_size < 1 or len(seeds) != len(subjects):
            raise UsageError("n and batch_size are at least 1, and seed is one number or one a prompt.")
        if not all(0 <= first <= MAX_SEED - n + 1 for first in seeds):
            raise UsageError("seed goes from 0 to 2^64 - 1.")
        worded = text_guard_of(text_guard, concepts, self.bundle.info.name if self.bundle else None)
        job = self._job(negative_prompt, steps, solver, guidance_scale, size, guard, worded)
        if init is None and (mask is not None or strength is not None):
            raise UsageError("mask and strength say what to redraw of an image; give the image, too.")
        if init is not None:
            job = start_from(job, init, 0.8 if strength is None else strength, mask)
        todo = [(s, first + i) for s, first in zip(subjects, seeds, strict=True) for i in range(n)]
        opened = open_guard(job.guard, self.bundle, self.bank, job.table)
        pictures: list[Picture] = []
        with self.engine.device.active():
            for chunks, same in groupby(todo, key=lambda one: self._count_chunks(job, one[0])):
                alike = list(same)
                for start in range(0, len(alike), batch_size):
                    pictures += self._draw(job, opened, alike[start : start + batch_size], chunks, on_step)
        return pictures

    def _count_chunks(self, job: Job, subject: Subject) -> int:
        """Windows of text for one picture: a batch shares them, and may not change what it draws."""
        if not isinstance(subject, str):
            return 1
        concepts = [job.text_guard.text] if isinstance(job.text_guard, Sld) else []
        return self.engine.count_chunks(subject, job.negative_prompt, *concepts)

    def _job(
        self,
        negative_prompt: str,
        steps: int | None,
        solver: str | Solver | None,
        guidance_scale: float | None,
        size: tuple[int, int] | None,
        guard: str | Settings | None,
        text_guard: TextGuard | None,
    ) -> Job:
        defaults = self.engine.manifest.defaults
        named = Solver(solver or defaults.solver) if solver is None or isinstance(solver, str) else solver
        settings = self._guard_settings(guard)
        scale = defaults.guidance_scale if guidance_scale is None else guidance_scale
        if not np.isfinite(scale) or scale < 0:
            raise UsageError(f"guidance_scale is {scale}; it is 0 or more, 1 is none.")
        how = self.engine.manifest.conditioning.guidance
        if how == "none" and scale != 1.0:
            raise UsageError(f"guidance_scale is {scale}; this model takes none. Leave it out, or give 1.")
        if negative_prompt and (how != "classifier-free" or not self.engine.manifest.conditioning.text):
            raise UsageError("negative_prompt: this model is not guided by text, so it takes none.")
        if negative_prompt and scale <= 1:
            raise UsageError(
                f"negative_prompt: guidance_scale is {scale}, which leaves it out; give one above 1."
            )
        if text_guard is not None:
            check_text_guard(text_guard, self.engine.manifest.text_guards, scale)
        width, height = self._check_size(size or (defaults.width, defaults.height), settings)
        table = self.engine.plan(named, steps or defaults.steps, (width, height))
        asked = steps or defaults.steps
        return Job(table, asked, settings, named, scale, width, height, negative_prompt, text_guard)

    def _guard_settings(self, guard: str | Settings | None) -> Settings:
        own = self.bundle and self.bundle.info.guard
        if own and guard in (None, own.mode):
            settings = own
        elif guard is None:
            raise GuardError("no bundle is open; to draw without a guard say so with guard 'off'.")
        else:
            settings = parse_guard(guard) if isinstance(guard, str) else guard
        allowed = self.engine.manifest.guards
        if settings.mode not in allowed:
            how = " It was not built with --allow-unguarded." if settings.mode == "off" else ""
            raise GuardError(
                f"this engine does not allow the guard {settings.mode!r}; it allows"
                f" {', '.join(allowed)}.{how}"
            )
        return settings

    def _check_size(self, size: tuple[int, int], settings: Settings) -> tuple[int, int]:
        space = self.engine.manifest.latent_space
        multiple = space.downscale * space.patch
        if any(side < multiple or side % multiple for side in size):
            raise UsageError(f"size is {size[0]}x{size[1]}; both sides must be multiples of {multiple}.")
        shape = self.engine.latent_shape(*size)
        self.engine.check_shape(shape)
        if settings.mode != "off" and self.bundle and self.bundle.info.latent_shape != shape:
            width, height = self.bundle.info.image_size
            raise BundleError(
                f"the bundle {self.bundle.info.name!r} is for {width}x{height} pictures, not"
                f" {size[0]}x{size[1]}. Freeze one with 'safegen freeze --size {size[0]}x{size[1]}'."
            )
        return size

    def _draw(
        self,
        job: Job,
        guard: OpenGuard,
        todo: list[tuple[Subject, int]],
        chunks: int,
        on_step: Callable[[Step], None] | None,
    ) -> list[Picture]:
        seeds, shape = [seed for _, seed in todo], self.engine.latent_shape(job.width, job.height)
        asked = ((job.width, job.height), job.guidance_scale, chunks)
        cond = self.engine.condition([subject for subject, _ in todo], *asked)
        uncond, asks = None, any(subject is not None for subject, _ in todo)
        how = self.engine.manifest.conditioning.guidance
        if asks and job.guidance_scale > 1.0 and how == "classifier-free":
            uncond = self.engine.uncondition(job.negative_prompt, len(todo), *asked)
        model = self._model(job, [subject for subject, _ in todo], cond, uncond, chunks)
        xp = self.engine.device.xp
        x, keep = first_latents(job.table, seeds, shape, xp), None
        if job.init is not None:
            latents = xp.repeat(self.engine.encode_images(job.init.pixels[None]), len(seeds), axis=0)
            noise = xp.asarray(normal_batch(seeds, 0, shape))
            if job.init.mask is not None:
                keep = keep_outside(latents, noise, job.init.mask, job.table)
            # where part is redrawn at full strength, nothing of it is to shine through
            if job.init.mask is None or job.init.strength < 1.0:
                x = noised_to(latents, noise, job.table, 0)
        seen_by_step: list[Step] = []
        for step in denoise(model, x, job.table, guard, seeds, keep):
            x = step.x
            seen_by_step.append(replace(step, x=None, x0=None))
            if on_step:
                on_step(step)
        if not is_finite(x):
            self.engine.fall_back(self.engine.manifest.model)
            return self._draw(job, guard, todo, chunks, on_step)
        watches = watch(seen_by_step, len(todo))
        images = [Image.fromarray(pixels) for pixels in self.engine.decode(x)]
        digests = self.engine.manifest.digest, self.bundle.digest if self.bundle else None
        return [
            Picture(image, judge(job.guard.mode, len(job.table), seen), job.record(subject, seed, *digests))
            for image, seen, (subject, seed) in zip(images, watches, todo, strict=True)
        ]

    def _model(
        self, job: Job, subjects: list[Subject], cond: Conditioning, uncond: Conditioning | None, chunks: int
    ) -> Model:
        """What is sampled, guidance and text guard included."""
        predict, scale = self.engine.predict, job.guidance_scale
        if isinstance(job.text_guard, Sld) and uncond is not None:
            asked = ((job.width, job.height), scale, chunks)
            unsafe = self.engine.uncondition(job.text_guard.text, len(subjects), *asked)
            return sld(predict, cond, uncond, unsafe, scale, job.text_guard, job.table.rows)
        if isinstance(job.text_guard, Safree):
            prompts = [str(subject) for subject in subjects]
            text, last = filtered_conditioning(self.engine, prompts, job.text_guard, chunks)
            return switched(predict, {**cond, **text}, cond, last, uncond, scale)
        return guided(predict, cond, uncond, scale)
