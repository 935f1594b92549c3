"""What the model foresees of ordinary pictures, level by level: what the gate must let pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safegen.device import to_host
from safegen.engine.bind import open_guard
from safegen.engine.engine import Engine
from safegen.errors import UsageError
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
Curves = tuple[NDArray[np.float64], NDArray[np.float32]]
"""Levels of signal (F,), rising, and the evidence at each: (F, P, ...)."""


@dataclass(frozen=True)
class Setup:
    """Through which engine, at which size and in which batches."""

    engine: Engine
    size: tuple[int, int]
    """(width, height) in pixels."""
    batch_size: int
    """Pictures at a time."""
    report: Report
    """Progress."""


def knows_nothing(engine: Engine) -> bool:
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
    setup: Setup,
    evidence: Evidence,
    prompts: Sequence[str],
    labels: Sequence[int],
    latents: NDArray[np.float16],
    drawn: int,
) -> tuple[Curves, str]:
    """Evidence of what is ordinary for an engine, and how a bundle says where it is from.

    Args:
        setup: its engine foresees.
        evidence: what is wanted of each picture foreseen.
        prompts: ordinary prompts; where there are some, nothing else is looked at.
        labels: ordinary labels of a model of classes, beside the latents, since it also draws of no class.
        latents: (P, C, H', W') of ordinary images.
        drawn: how many pictures of the labels.
    """
    if prompts:
        return from_subjects(setup, prompts, evidence), "prompts"
    levels, seen = from_latents(setup, latents, evidence, plainer=plainer(setup.engine, labels))
    origin = "images" if knows_nothing(setup.engine) else "images, unseen by the model"
    if labels:
        cycled = [labels[i % len(labels)] for i in range(drawn)]
        seen = np.concatenate([seen, from_subjects(setup, cycled, evidence)[1]], axis=1)
        origin = f"labels and {origin}"
    return (levels, seen), origin


def unguarded(
    setup: Setup,
    table: Table,
    told: tuple[Conditioning, Conditioning | None, float],
    seeds: Sequence[int],
) -> Iterator[Step]:
    """Draw without a guard; ``told``: conditioning, what guidance leads away from, and its scale."""
    engine, shape = setup.engine, setup.engine.latent_shape(*setup.size)
    x = first_latents(table, seeds, shape, engine.device.xp)
    return denoise(guided(engine.predict, *told), x, table, open_guard(Off(), None, None, table), seeds)


def plan(setup: Setup) -> Table:
    """The default solver's plan of :data:`LEVELS` steps."""
    return setup.engine.plan(Solver(setup.engine.manifest.defaults.solver), LEVELS, setup.size)


def from_subjects(setup: Setup, subjects: Sequence[Subject], evidence: Evidence) -> Curves:
    """Evidence along unguarded pictures of ordinary prompts or labels, drawn as ``generate`` draws them."""
    engine, size = setup.engine, setup.size
    table, scale = plan(setup), engine.manifest.defaults.guidance_scale
    how, parts = engine.manifest.conditioning.guidance, []
    for start in range(0, len(subjects), setup.batch_size):
        some = subjects[start : start + setup.batch_size]
        chunks = engine.count_chunks(*(subject for subject in some if isinstance(subject, str)))
        with engine.device.active():
            cond = engine.condition(some, size, scale, chunks)
            uncond = None
            if how == "classifier-free" and scale > 1.0:
                uncond = engine.uncondition("", len(some), size, scale, chunks)
            seeds = [SEED + start + i for i in range(len(some))]
            steps = unguarded(setup, table, (cond, uncond, scale), seeds)
            parts.append(np.stack([evidence(to_host(step.x0)) for step in steps]))
        setup.report("foreseeing ordinary pictures", start + len(some), len(subjects))
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
    """What stands for ordinary prompts or labels where none are named, by trial (research/tried.md)."""
    spec = engine.manifest.conditioning
    if spec.text:
        return the_higher
    return halfway if spec.classes and not labels else as_foreseen


def from_latents(
    setup: Setup, latents: NDArray[np.float16], evidence: Evidence, *, plainer: Plainer
) -> Curves:
    """Evidence of what the model foresees in noised latents (P, C, H', W').

    It is told nothing in particular; ``plainer`` adds what a prompt or label would. A model that knows no
    null class is not asked: the latents stand for all of it.
    """
    table, blind = plan(setup), not knows_nothing(setup.engine)
    parts = []
    for start in range(0, len(latents), setup.batch_size):
        x0 = latents[start : start + setup.batch_size].astype(np.float32)
        if blind:
            parts.append(np.stack([evidence(x0)] * len(table)))
        else:
            # one noise a picture for all levels, as along a deterministic solver's path
            seeds = range(start, start + len(x0))
            draws = np.stack([noise.normal(seed, 0, x0.shape[1:], stream=4) for seed in seeds])
            parts.append(_foreseen(setup, table, x0, draws, evidence, plainer))
        setup.report("foreseeing ordinary pictures", start + len(x0), len(latents))
    return _levels(table), np.concatenate(parts, axis=1).astype(np.float32)


def _foreseen(
    setup: Setup,
    table: Table,
    x0: NDArray[Any],
    draws: NDArray[Any],
    evidence: Evidence,
    plainer: Plainer,
) -> NDArray[Any]:
    engine, found = setup.engine, []
    xp = engine.device.xp
    with engine.device.active():
        nothing = engine.uncondition("", len(x0), setup.size, 1.0)
        for row in table.rows:
            x = xp.asarray((row.alpha * x0 + row.sigma * draws).astype(np.float32))
            out = engine.predict(x * row.input_scale, row.timestep, nothing)
            foreseen = row.x0_x * x + row.x0_out * out
            if table.clip is not None:
                foreseen = xp.clip(foreseen, -table.clip, table.clip)
            found.append(plainer(evidence, to_host(foreseen), x0))
    return np.stack(found)


def _levels(table: Table) -> NDArray[np.float64]:
    return np.array([row.signal for row in table.rows], np.float64)
