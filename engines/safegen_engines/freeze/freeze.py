"""Images that must never be drawn to one negation bundle, through an engine's VAE encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from safegen.device import to_host
from safegen.engine.engine import Engine
from safegen.files import file_sha256
from safegen.format.bundle import BundleInfo, write_bundle
from safegen.guard.gate import Gate, fit_gate, thresholds
from safegen.guard.regions import at_random, cut, strongest_evidence
from safegen.guard.settings import Ratio, Settings
from safegen.sampling.conditioning import Subject
from safegen.sampling.solver import Solver
from safegen_engines.freeze.banks import Banks, make_banks
from safegen_engines.freeze.curves import density_of
from safegen_engines.freeze.images import encode_files
from safegen_engines.freeze.lookalikes import drop_lookalikes
from safegen_engines.freeze.options import Options, check_counts, check_request
from safegen_engines.freeze.ordinary import (
    Evidence,
    Report,
    Setup,
    from_subjects,
    knows_nothing,
    measure_ordinary,
    unguarded,
)
from safegen_engines.freeze.rate import (
    GateReport,
    caught_share,
    check_rate,
    opened_by_others,
    rate_for,
    rate_promised,
    worst_kind,
)

HELD_OUT = 1 / 3
"""This share of the benign images, drawn by lot, is kept out of the bank to calibrate the gate."""
DRAWN_STEPS = 20
DRAWN_OF_NOTHING = 60


@dataclass(frozen=True)
class Frozen:
    """What became of a freeze."""

    digest: str
    info: BundleInfo
    bad: tuple[str, ...]
    """Unreadable images that were left out, one line each."""
    lookalikes: int
    """Pictures drawn for the benign side and dropped, since they look like the negation set."""
    held_out: int
    """Benign latents that are kept out of the bank."""
    judged: int
    """Ordinary pictures that set the gate's rate."""
    gate: GateReport | None
    """Where the bundle's guard is ``ratio``."""


class _Latents(NamedTuple):
    """Images, encoded."""

    negation: NDArray[np.float16]
    bank: NDArray[np.float16]
    """Ordinary ones of the benign bank."""
    held_out: NDArray[np.float16]
    """Ordinary ones outside of it."""
    bad: list[str]
    lookalikes: int


def freeze(
    engine: Engine,
    images: Sequence[Path],
    out: Path,
    *,
    report: Report = lambda what, done, total: None,
    **chosen: Any,
) -> Frozen:
    """Freeze a bundle.

    Args:
        engine: its encoder makes the latents, and the bundle fits engines of the same autoencoder.
        images: what must never be drawn; at least 2.
        out: the ``.negation`` file.
        report: progress.
        chosen: of :class:`Options`.

    Raises:
        ImageError: unreadable images, all named.
        UsageError: too few images, prompts for a model that takes none, a rate that the ordinary pictures
            cannot tell, regions that the latents, the guard, or benign pictures drawn by the engine do not
            allow, or no place to write to.
    """
    options, defaults = Options(**chosen), engine.manifest.defaults
    setup = Setup(engine, options.size or (defaults.width, defaults.height), options.batch_size, report)
    check_request(setup, out, options)
    latents = _encode(setup, images, options)
    lot = np.random.default_rng(0)
    unsafe = latents.negation if options.anywhere else cut(latents.negation, options.layout)
    banks = make_banks(unsafe, at_random(latents.bank, options.layout, lot), options.layout.rows)
    at = partial(strongest_evidence, bank=banks.bank, bandwidth=banks.bandwidth, regions=options.layout)
    (signal, evidence), origin = measure_ordinary(
        setup, at, options.benign_prompts, options.benign_labels, latents.held_out, options.benign_count
    )
    limit = _highest(at, latents.held_out, options.batch_size)
    report("calibration", 0, 1)
    gate = fit_gate(signal, evidence)
    guard, measured = _set_rate(options, banks, gate, evidence, limit)
    if measured and not options.subjects() and knows_nothing(engine):
        measured = measured._replace(drawn=_beyond_unasked(setup, at, limit))
    rows = banks.judged()
    density = density_of(banks.bank, banks.negation[rows].astype(np.float32), rows)
    report("calibration", 1, 1)
    info = _info(setup, options, latents, guard, banks, origin, _digest(images, options, latents.bad))
    digest = write_bundle(
        out, info, negation=banks.negation, benign=banks.benign, axes=banks.axes, gate=gate, density=density
    )
    judged = evidence.shape[1]
    return Frozen(
        digest, info, tuple(latents.bad), latents.lookalikes, len(latents.held_out), judged, measured
    )


def _highest(at: Evidence, latents: NDArray[np.float16], batch_size: int) -> float:
    """The highest evidence of some images, a few at a time: regions that overlap are many."""
    starts = range(0, len(latents), batch_size)
    return max(float(at(latents[i : i + batch_size].astype(np.float32)).max()) for i in starts)


def _beyond_unasked(setup: Setup, at: Evidence, limit: float) -> float:
    """Share of pictures drawn of nothing that lie beyond every benign image outside of the bank."""
    nothing: Subject = "" if setup.engine.manifest.conditioning.text else None
    evidence = from_subjects(setup, [nothing] * DRAWN_OF_NOTHING, at)[1]
    return float((evidence > limit).any(axis=0).mean())


def _encode(setup: Setup, images: Sequence[Path], options: Options) -> _Latents:
    """All images to latents; without ordinary ones the engine draws them."""
    width, height = setup.size
    alone = (width // options.regions, height // options.regions) if options.anywhere else setup.size
    negation, bad = encode_files(
        replace(setup, size=alone), images, "negation images", skip_bad=options.skip_bad
    )
    lookalikes = 0
    if options.benign is None:
        drawn = _draw(setup, options.benign_count)
        ordinary = drop_lookalikes(drawn, negation)
        lookalikes = len(drawn) - len(ordinary)
    else:
        ordinary, more = encode_files(setup, options.benign, "benign images", skip_bad=options.skip_bad)
        bad += more
    check_counts(len(negation), len(ordinary))
    held_out = _held_out(len(ordinary))
    return _Latents(negation, ordinary[~held_out], ordinary[held_out], bad, lookalikes)


def _set_rate(
    options: Options, banks: Banks, gate: Gate, evidence: NDArray[np.float32], limit: float
) -> tuple[Settings, GateReport | None]:
    """The bundle's guard, and what the rate of its gate promises where it is ``ratio``.

    Args:
        options: of the freeze.
        banks: both.
        gate: fitted.
        evidence: (F, P) of the ordinary pictures.
        limit: the highest evidence of a benign image outside of the bank.
    """
    guard, ordinary = options.guard, evidence.shape[1]
    if guard is not None and not isinstance(guard, Ratio):
        return guard, None
    guard = guard or Ratio(false_positive_rate=rate_for(ordinary))
    rate = guard.false_positive_rate
    check_rate(ordinary, rate)
    [clean] = thresholds(gate, rate, [1.0])
    caught = caught_share(banks.bank, banks.judged(), banks.bandwidth, clean, banks.rows_per_image)
    opened = opened_by_others(gate.signal, evidence, rate)
    beyond: NDArray[np.bool_] = np.any(evidence > limit, axis=0)
    subjects = options.subjects()
    first = ordinary - len(subjects)  # pictures of labels come after the images beside them
    worst, furthest = (worst_kind(subjects, hits[first:]) for hits in (opened, beyond))
    return guard, GateReport(
        rate,
        *rate_promised(ordinary, rate),
        caught=caught,
        false_alarms=float(opened.mean()),
        worst=worst,
        beyond=float(beyond.mean()),
        beyond_kind=furthest,
    )


def _info(
    setup: Setup,
    options: Options,
    latents: _Latents,
    guard: Settings,
    banks: Banks,
    origin: str,
    source_digest: str,
) -> BundleInfo:
    return BundleInfo(
        name=options.name,
        latent_space=setup.engine.manifest.latent_space.id,
        latent_shape=setup.engine.latent_shape(*setup.size),
        image_size=setup.size,
        regions=options.regions,
        anywhere=options.anywhere,
        negation_count=len(latents.negation),
        benign_count=len(latents.bank),
        target_count=banks.targets,
        benign_source="drawn by the engine" if options.benign is None else "images",
        source_digest=source_digest,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        guard=guard,
        bandwidth=banks.bandwidth,
        foreseen_from=origin,
    )


def _held_out(benign: int) -> NDArray[np.bool_]:
    """Which of the benign images are kept out of the bank."""
    chosen = np.zeros(benign, bool)
    chosen[np.random.default_rng(0).permutation(benign)[: round(benign * HELD_OUT)]] = True
    return chosen


def _draw(setup: Setup, count: int) -> NDArray[np.float16]:
    """Latents of pictures of no prompt, drawn without a guard and never decoded."""
    engine, defaults = setup.engine, setup.engine.manifest.defaults
    table = engine.plan(Solver(defaults.solver), min(defaults.steps, DRAWN_STEPS), setup.size)
    parts: list[Any] = []
    for start in range(0, count, setup.batch_size):
        seeds = range(start, min(start + setup.batch_size, count))
        with engine.device.active():
            nothing = engine.uncondition("", len(seeds), setup.size, 1.0)
            *_, last = unguarded(setup, table, (nothing, None, 1.0), seeds)
            parts.append(to_host(last.x).astype(np.float16))
        setup.report("drawing benign pictures", seeds[-1] + 1, count)
    return np.concatenate(parts)


def _digest(images: Sequence[Path], options: Options, bad: Sequence[str]) -> str:
    """SHA-256 over the digests of the images that went in, in order."""
    skipped = {line.split(": ")[0] for line in bad}
    used = (p for p in [*images, *(options.benign or [])] if str(p) not in skipped)
    return hashlib.sha256("\n".join(file_sha256(p) for p in used).encode()).hexdigest()
