"""What the model foresees of ordinary pictures, level by level: what the gate must let pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safegen.device import to_host
from safegen.engine.bind import open_guard
from safegen.engine.engine import Engine
from safegen.errors import UsageError
from safegen.guard.gate import LEVEL_LIMIT
from safegen.guard.settings import Off
from safegen.sampling import noise
from safegen.sampling.conditioning import Conditioning, Subject
from safegen.sampling.guidance import guided
from safegen.sampling.loop import Step, denoise, first_latents
from safegen.sampling.solver import Solver
from safegen.sampling.table import Table

LEVELS = 12
"""Steps of the plan whose levels are looked at."""
SEED = 700_000
"""First seed of the pictures that prompts and labels draw."""

Evidence = Callable[[NDArray[Any]], NDArray[Any]]
"""x0 (B, C, H, W) to one number, or one row of numbers, each: (B, ...)."""
Plainer = Callable[[Evidence, NDArray[Any], NDArray[Any]], NDArray[Any]]
"""(evidence, what the model foresees told nothing, the picture itself) to the evidence that counts."""
Report = Callable[[str, int, int], None]
"""(what, done, of how many)."""
Curves = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Levels of log-SNR (F,), rising, and the evidence at each: (F, P, ...)."""


def _knows_nothing(engine: Engine) -> bool:
    """Whether the model can be told nothing in particular."""
    spec = engine.manifest.conditioning
    return not spec.classes or spec.null_class is not None


def check_subjects(engine: Engine, prompts: Sequence[str], labels: Sequence[int]) -> None:
    """Refuse ordinary prompts or labels that the model does not take.

    Raises:
        UsageError: prompts for a model without text, or a label that it does not know.
    """
    spec, name = engine.manifest.conditioning, engine.manifest.name
    if prompts and not spec.text:
        raise UsageError(f"benign prompts: the engine {name!r} knows no text.")
    for wrong in (label for label in labels if not 0 <= label < spec.classes):
        raise UsageError(f"benign label is {wrong}; the engine {name!r} knows {spec.classes} classes.")


def measure_ordinary(
    engine: Engine,
    prompts: Sequence[str],
    labels: Sequence[int],
    latents: NDArray[np.float16],
    drawn: int,
    size: tuple[int, int],
    evidence: Evidence,
    batch_size: int,
    report: Report,
) -> tuple[Curves, str]:
    """Evidence of what is ordinary for an engine, and how a bundle says where it is from.

    Args:
        engine: it foresees.
        prompts: ordinary prompts; where there are some, nothing else is looked at.
        labels: ordinary labels of a model of classes, beside the latents, since it also draws of no class.
        latents: (P, C, H', W') of ordinary images.
        drawn: how many pictures of the labels.
        size: (width, height) in pixels.
        evidence: what is asked of each picture foreseen.
        batch_size: pictures at a time.
        report: progress.
    """
    asked = size, evidence, batch_size, report
    if prompts:
        return from_subjects(engine, prompts, *asked), "prompts"
    levels, found = from_latents(engine, latents, *asked, plainer=plainer(engine, labels))
    origin = "images" if _knows_nothing(engine) else "images, unseen by the model"
    if labels:
        cycled = [labels[i % len(labels)] for i in range(drawn)]
        found = np.concatenate([found, from_subjects(engine, cycled, *asked)[1]], axis=1)
        origin = f"labels and {origin}"
    return (levels, found), origin


def unguarded(
    engine: Engine,
    table: Table,
    told: tuple[Conditioning, Conditioning | None, float],
    seeds: Sequence[int],
    size: tuple[int, int],
) -> Iterator[Step]:
    """Draw without a guard; ``told``: conditioning, what guidance leads away from, and its scale."""
    shape = engine.latent_shape(*size)
    x = first_latents(table, seeds, shape, engine.device.xp)
    return denoise(guided(engine.predict, *told), x, table, open_guard(Off(), None, None, table), seeds)


def plan(engine: Engine, size: tuple[int, int]) -> Table:
    """The default solver's plan of :data:`LEVELS` steps."""
    return engine.plan(Solver(engine.manifest.defaults.solver), LEVELS, size)


def from_subjects(
    engine: Engine,
    subjects: Sequence[Subject],
    size: tuple[int, int],
    evidence: Evidence,
    batch_size: int,
    report: Report,
) -> Curves:
    """Evidence along unguarded pictures of ordinary prompts or labels, drawn as ``generate`` draws them."""
    table, scale = plan(engine, size), engine.manifest.defaults.guidance_scale
    how, parts = engine.manifest.conditioning.guidance, []
    for start in range(0, len(subjects), batch_size):
        some = subjects[start : start + batch_size]
        chunks = engine.count_chunks(*(subject for subject in some if isinstance(subject, str)))
        with engine.device.active():
            cond = engine.condition(some, size, scale, chunks)
            uncond = None
            if how == "classifier-free" and scale > 1.0:
                uncond = engine.uncondition("", len(some), size, scale, chunks)
            seeds = [SEED + start + i for i in range(len(some))]
            steps = unguarded(engine, table, (cond, uncond, scale), seeds, size)
            parts.append(np.stack([evidence(to_host(step.x0)) for step in steps]))
        report("foreseeing ordinary pictures", start + len(some), len(subjects))
    return _levels(table), np.concatenate(parts, axis=1).astype(np.float32)


def as_foreseen(evidence: Evidence, seen: NDArray[Any], x0: NDArray[Any]) -> NDArray[Any]:
    """As the model draws when it is told nothing."""
    return evidence(seen)


def halfway(evidence: Evidence, seen: NDArray[Any], x0: NDArray[Any]) -> NDArray[Any]:
    """A label that fits a picture moves what the model foresees towards it."""
    return evidence(seen + 0.5 * (x0 - seen))


def the_higher(evidence: Evidence, seen: NDArray[Any], x0: NDArray[Any]) -> NDArray[Any]:
    """A prompt does, too, and guidance takes it further."""
    return np.maximum(evidence(seen), evidence(x0))


def plainer(engine: Engine, labels: Sequence[int]) -> Plainer:
    """What stands for ordinary prompts or labels where none are named; chosen by trial (docs/tried.md)."""
    spec = engine.manifest.conditioning
    if spec.text:
        return the_higher
    return halfway if spec.classes and not labels else as_foreseen


def from_latents(
    engine: Engine,
    latents: NDArray[np.float16],
    size: tuple[int, int],
    evidence: Evidence,
    batch_size: int,
    report: Report,
    *,
    plainer: Plainer,
) -> Curves:
    """Evidence of what the model foresees in noised latents (P, C, H', W').

    It is told nothing in particular; ``plainer`` adds what a prompt or label would. A model that knows no
    null class is not asked: the latents stand for all of it.
    """
    table, blind = plan(engine, size), not _knows_nothing(engine)
    parts = []
    for start in range(0, len(latents), batch_size):
        x0 = latents[start : start + batch_size].astype(np.float32)
        if blind:
            parts.append(np.stack([evidence(x0)] * len(table)))
        else:
            # one noise a picture for all levels, as along a deterministic solver's path
            seeds = range(start, start + len(x0))
            draws = np.stack([noise.normal(seed, 0, x0.shape[1:], stream=4) for seed in seeds])
            parts.append(_foreseen(engine, table, x0, draws, size, evidence, plainer))
        report("foreseeing ordinary pictures", start + len(x0), len(latents))
    return _levels(table), np.concatenate(parts, axis=1).astype(np.float32)


def _foreseen(
    engine: Engine,
    table: Table,
    x0: NDArray[Any],
    draws: NDArray[Any],
    size: tuple[int, int],
    evidence: Evidence,
    plainer: Plainer,
) -> NDArray[Any]:
    xp, found = engine.device.xp, []
    with engine.device.active():
        nothing = engine.uncondition("", len(x0), size, 1.0)
        for row in table.rows:
            x = xp.asarray((row.alpha * x0 + row.sigma * draws).astype(np.float32))
            out = engine.predict(x * row.input_scale, row.timestep, nothing)
            foreseen = row.x0_x * x + row.x0_out * out
            if table.clip is not None:
                foreseen = xp.clip(foreseen, -table.clip, table.clip)
            found.append(plainer(evidence, to_host(foreseen), x0))
    return np.stack(found)


def _levels(table: Table) -> NDArray[np.float32]:
    levels = np.array([row.log_snr for row in table.rows], np.float32)
    return levels.clip(-LEVEL_LIMIT, LEVEL_LIMIT)
