"""Prompt in, picture and verdict out; never without the guard that the engine demands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from safegen.device import Array, is_finite, open_device
from safegen.engine.bind import open_guard
from safegen.engine.check_request import Job, check_seeds, subject_of, work_out
from safegen.engine.engine import MODELS, Engine
from safegen.engine.text_states import filtered_conditioning
from safegen.errors import BundleError
from safegen.format.bundle import Bundle, read_bundle
from safegen.format.request import Common, Request, requests_of
from safegen.format.result import Picture, Watch, judge, watch
from safegen.guard.bank import Bank, on
from safegen.guard.text import Safree, Sld, sld, switched
from safegen.sampling.conditioning import Conditioning, Subject
from safegen.sampling.guidance import guided
from safegen.sampling.init_image import keep_outside, noised_to
from safegen.sampling.loop import Keep, Model, OpenGuard, Step, denoise, first_latents
from safegen.sampling.noise import normal_batch

if TYPE_CHECKING:
    from typing_extensions import Unpack

EMBEDDED = MODELS / "fashion"
OnStep = Callable[[Step], None]


class Group(NamedTuple):
    """Requests whose pictures are drawn together: what they share, its guard, and what they show."""

    job: Job
    guard: OpenGuard
    wanted: list[tuple[Subject, int, int]]
    """(subject, first seed, count) of each request."""


class Batch(NamedTuple):
    """Pictures that are drawn at a time."""

    subjects: list[Subject]
    seeds: list[int]
    chunks: int
    """Windows of text for one picture."""


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
        threads: int | None = None,
    ) -> Pipeline:
        """Open and verify both.

        Args:
            engine: an engine folder, or ``fashion`` or ``pixels``, which are embedded; None is the first.
            bundle: a .negation file; None is the engine's own, if it carries one.
            device: ``cpu``, ``cuda`` or ``tensorrt`` (graphs that are not compiled by ONNX Runtime's
                TensorRT provider); None is the CPU for the target ``cpu``, else ``cuda``.
            cuda_graphs: let compiled engines replay captured launches: faster, for more memory.
            threads: of the CPU for each run of a graph, 1 or more; None is ONNX Runtime's choice.

        Raises:
            UsageError: no such device, or no number of threads.
            EngineError: the engine is missing, changed or unknown.
            BundleError: the bundle is missing, changed, or made for another autoencoder.
        """
        where = open_device(device) if device else None
        found = engine if engine is not None else EMBEDDED
        opened = Engine.open(found, device=where, cuda_graphs=cuda_graphs, threads=threads)
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
        seed: int | Sequence[int] = 0,
        on_step: OnStep | None = None,
        **common: Unpack[Common],
    ) -> list[Picture]:
        """Draw, and return the pictures when all are finished; :meth:`draw` hands them out one by one.

        Args:
            prompt: one, or several.
            class_label: one, or several.
            seed: one, or one for each prompt, for each label, or for each picture of neither.
            on_step: called after each step of each batch.
            common: the other fields of :class:`Request`.

        Returns:
            ``n`` pictures for the first prompt or label, then ``n`` for the next.

        Raises:
            UsageError, GuardError, BundleError: as :meth:`draw`.
        """
        return list(self.draw(requests_of(prompt, class_label, seed, common), on_step))

    def draw(self, request: Request | Iterable[Request], on_step: OnStep | None = None) -> Iterator[Picture]:
        """Draw one request, or several, and hand out each picture as soon as its batch is finished.

        Everything is checked before this returns. Neighbours that differ in prompt, label, seed or ``n``
        alone are drawn in common batches. Memory grows with ``batch_size``, not with ``n``.

        Args:
            request: what to draw.
            on_step: called after each step of each batch.

        Raises:
            UsageError: a value outside its range, or one that the model does not take.
            GuardError: the engine does not allow the guard, or it has no bundle.
            BundleError: the bundle is for another size.
        """
        requests = [request] if isinstance(request, Request) else request
        alike = groupby(requests, key=Request.common)
        return self._draw([self._group(common, list(some)) for common, some in alike], on_step)

    def _group(self, common: Request, requests: list[Request]) -> Group:
        wanted = []
        for request in requests:
            check_seeds(request)
            wanted.append((subject_of(request, self.engine.manifest), request.seed, request.n))
        job = work_out(common, self.engine, self.bundle)
        return Group(job, open_guard(job.guard, self.bundle, self.bank, job.table), wanted)

    def _draw(self, groups: list[Group], on_step: OnStep | None) -> Iterator[Picture]:
        for group in groups:
            for batch in self._batches(group):
                yield from self._draw_batch(group.job, group.guard, batch, on_step)

    def _batches(self, group: Group) -> Iterator[Batch]:
        """Neighbours that need as many windows of text: a batch shares them, and may not change a picture."""
        one_by_one = (
            (subject, first + i, chunks)
            for subject, first, count in group.wanted
            for chunks in [self._count_chunks(group.job, subject)]
            for i in range(count)
        )
        for chunks, alike in groupby(one_by_one, key=lambda one: one[2]):
            while some := list(islice(alike, group.job.batch_size)):
                yield Batch([subject for subject, _, _ in some], [seed for _, seed, _ in some], chunks)

    def _count_chunks(self, job: Job, subject: Subject) -> int:
        if not isinstance(subject, str):
            return 1
        concepts = [job.text_guard.text] if isinstance(job.text_guard, Sld) else []
        return self.engine.count_chunks(subject, job.negative_prompt, *concepts)

    def _draw_batch(self, job: Job, guard: OpenGuard, batch: Batch, on_step: OnStep | None) -> list[Picture]:
        with self.engine.device.active():
            latents, watches = self._sample(job, guard, batch, on_step)
            images = [Image.fromarray(pixels) for pixels in self.engine.decode(latents)]
        digests = self.engine.manifest.digest, self.bundle.digest if self.bundle else None
        return [
            Picture(
                image,
                judge(job.guard.mode, len(job.table), seen, latches=guard.latches),
                job.record(subject, seed, *digests),
            )
            for image, seen, subject, seed in zip(images, watches, batch.subjects, batch.seeds, strict=True)
        ]

    def _sample(
        self, job: Job, guard: OpenGuard, batch: Batch, on_step: OnStep | None
    ) -> tuple[Array, list[list[Watch]]]:
        """Latents, and what the guard saw of each picture; where they are not finite, in float32 again."""
        model, (x, keep) = self._model(job, batch), self._start(job, batch)
        steps: list[Step] = []
        for step in denoise(model, x, job.table, guard, batch.seeds, keep):
            x = step.x
            steps.append(replace(step, x=None, x0=None))
            if on_step:
                on_step(step)
        if is_finite(x):
            return x, watch(steps, len(batch.seeds))
        self.engine.fall_back(self.engine.manifest.model)
        return self._sample(job, guard, batch, on_step)

    def _start(self, job: Job, batch: Batch) -> tuple[Array, Keep | None]:
        """The first latents, of noise or of an image, and what puts back what is not redrawn of it."""
        xp, shape = self.engine.device.xp, self.engine.latent_shape(*job.size)
        x, keep = first_latents(job.table, batch.seeds, shape, xp), None
        if job.init is None:
            return x, None
        latents = xp.repeat(self.engine.encode_images(job.init.pixels[None]), len(batch.seeds), axis=0)
        noise = xp.asarray(normal_batch(batch.seeds, 0, shape))
        if job.init.mask is not None:
            keep = keep_outside(latents, noise, job.init.mask, job.table)
        # where part is redrawn at full strength, nothing of it is to shine through
        if job.init.mask is None or job.init.strength < 1.0:
            x = noised_to(latents, noise, job.table, 0)
        return x, keep

    def _model(self, job: Job, batch: Batch) -> Model:
        """What is sampled, guidance and text guard included."""
        predict, scale = self.engine.predict, job.guidance_scale
        sizes = (job.size, scale, batch.chunks)
        cond = self.engine.condition(batch.subjects, *sizes)
        uncond: Conditioning | None = None
        named = any(subject is not None for subject in batch.subjects)
        if named and scale > 1.0 and self.engine.manifest.conditioning.guidance == "classifier-free":
            uncond = self.engine.uncondition(job.negative_prompt, len(batch.seeds), *sizes)
        if isinstance(job.text_guard, Sld) and uncond is not None:
            unsafe = self.engine.uncondition(job.text_guard.text, len(batch.seeds), *sizes)
            return sld(predict, cond, uncond, unsafe, scale, job.text_guard)
        if isinstance(job.text_guard, Safree):
            prompts = [str(subject) for subject in batch.subjects]
            text, last = filtered_conditioning(self.engine, prompts, job.text_guard, batch.chunks)
            return switched(predict, {**cond, **text}, cond, last, uncond, scale)
        return guided(predict, cond, uncond, scale)
