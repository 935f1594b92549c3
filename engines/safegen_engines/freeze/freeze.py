"""Images that must never be drawn to one negation bundle, through an engine's VAE encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safegen.device import to_host
from safegen.engine.engine import Engine
from safegen.errors import UsageError
from safegen.files import check_place, file_sha256
from safegen.format.bundle import BundleInfo, write_bundle
from safegen.guard.gate import Calibration
from safegen.guard.regions import SIDES, WHOLE, Regions, at_random, cut, strongest_foreseen
from safegen.guard.settings import Ratio, Settings, check_whole
from safegen.sampling.solver import Solver
from safegen_engines.freeze.banks import Banks, calibrated, make_banks, rate_of
from safegen_engines.freeze.images import encode_files
from safegen_engines.freeze.lookalikes import drop_lookalikes
from safegen_engines.freeze.ordinary import Report, check_subjects, measure_ordinary, unguarded
from safegen_engines.freeze.rate import GateRate, rates_to_try

HELD_OUT = 1 / 3
"""This share of the benign images, drawn by lot, is kept out of the bank to calibrate the gate."""
MIN_BENIGN = 6
DRAWN_STEPS = 20


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
    gate: GateRate | None
    """Where the bundle's guard is ``ratio``."""


def freeze(
    engine: Engine,
    images: Sequence[Path],
    out: Path,
    *,
    name: str,
    benign: Sequence[Path] | None = None,
    benign_count: int = 600,
    benign_prompts: Sequence[str] = (),
    benign_labels: Sequence[int] = (),
    size: tuple[int, int] | None = None,
    regions: int = 1,
    anywhere: bool = False,
    guard: Settings | None = None,
    skip_bad: bool = False,
    batch_size: int = 8,
    report: Report = lambda what, done, total: None,
) -> Frozen:
    """Freeze a bundle.

    Args:
        engine: its encoder makes the latents, and the bundle fits engines of the same autoencoder.
        images: what must never be drawn; at least 2.
        out: the ``.negation`` file.
        name: what is negated, for people.
        benign: ordinary images; None draws ``benign_count`` from the engine, of no prompt.
        benign_count: how many to draw.
        benign_prompts: what ordinary users ask for: the gate's rate is set on what the model foresees for
            them, else on what it foresees in noised images of the benign side, made as plain
            as a prompt would (:func:`safegen_engines.freeze.ordinary.plainer`).
        benign_labels: the same for a model of classes, ``benign_count`` pictures in all; beside the images,
            since such a model also draws of no class.
        size: (width, height) of the pictures to guard; None is the engine's default.
        regions: a side, that ``ratio`` judges one by one (:mod:`safegen.guard.regions`): for pictures of
            several things. Nobody need say which regions of the images show what must never be drawn.
        anywhere: the regions overlap, and find it wherever it lies; ``images`` then show it alone, and are
            taken for as large as a region.
        guard: the bundle's default guard; None is ``ratio`` at the rate of false alarms that it needs
            (:func:`safegen_engines.freeze.rate.gate_rate`).
        skip_bad: leave out unreadable images instead of stopping.
        batch_size: images encoded at a time.
        report: progress.

    Raises:
        ImageError: unreadable images, all named.
        UsageError: too few images, prompts for a model that takes none, regions that the latents, the
            guard, or benign pictures drawn by the engine do not allow, or no place to write to.
    """
    check_place(out)
    check_subjects(engine, benign_prompts, benign_labels)
    defaults = engine.manifest.defaults
    size, layout = size or (defaults.width, defaults.height), Regions(regions, anywhere)
    _check_regions(layout, engine.latent_shape(*size), guard, drawn=benign is None)
    _check_encoder(engine, layout, size)
    shown = (size[0] // regions, size[1] // regions) if anywhere else size
    negation, bad = encode_files(engine, images, shown, "negation images", skip_bad, batch_size, report)
    lookalikes = 0
    if benign is None:
        drawn = _draw(engine, benign_count, size, batch_size, report)
        ordinary = drop_lookalikes(drawn, negation)
        lookalikes = len(drawn) - len(ordinary)
    else:
        ordinary, more = encode_files(engine, benign, size, "benign images", skip_bad, batch_size, report)
        bad += more
    _check_counts(len(negation), len(ordinary))
    held_out = _held_out(len(ordinary))
    unsafe = negation if anywhere else cut(negation, layout)
    lot = np.random.default_rng(0)
    usual = at_random(ordinary[~held_out], layout, lot)
    banks = make_banks(unsafe, usual, layout.rows, text=bool(engine.manifest.conditioning.text))
    at = partial(strongest_foreseen, bank=banks.bank, bandwidth=banks.bandwidth, regions=layout)
    foreseen, foreseen_from = measure_ordinary(
        engine, benign_prompts, benign_labels, ordinary[held_out], benign_count, size, at, batch_size, report
    )
    report("calibration", 0, 1)
    calibration = calibrated(banks, at_random(ordinary[held_out], layout, lot), foreseen)
    guard, gate = _set_rate(guard, banks, calibration, len(benign_prompts))
    report("calibration", 1, 1)
    info = BundleInfo(
        name=name,
        latent_space=engine.manifest.latent_space.id,
        latent_shape=engine.latent_shape(*size),
        image_size=size,
        regions=regions,
        anywhere=anywhere,
        negation_count=len(negation),
        benign_count=int((~held_out).sum()),
        target_count=banks.targets,
        benign_source="images" if benign is not None else "drawn by the engine",
        source_digest=_digest([*images, *(benign or [])], bad),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        guard=guard,
        bandwidth=banks.bandwidth,
        aim_bandwidth=banks.aim_bandwidth,
        foreseen_from=foreseen_from,
    )
    digest = write_bundle(out, info, banks.negation, banks.benign, banks.axes, calibration)
    return Frozen(digest, info, tuple(bad), lookalikes, int(held_out.sum()), foreseen[1].shape[1], gate)


def _check_counts(negation: int, benign: int) -> None:
    if negation < 2 or benign < MIN_BENIGN:
        raise UsageError(
            f"{negation} negation and {benign} benign images are too few; at least 2 and"
            f" {MIN_BENIGN} are needed, and some hundred of each do better."
        )


def _held_out(benign: int) -> NDArray[np.bool_]:
    """Which of the benign images are kept out of the bank."""
    chosen = np.zeros(benign, bool)
    chosen[np.random.default_rng(0).permutation(benign)[: round(benign * HELD_OUT)]] = True
    return chosen


def _set_rate(
    guard: Settings | None, banks: Banks, calibration: Calibration, prompts: int
) -> tuple[Settings, GateRate | None]:
    """The bundle's guard, and what the rate of its gate buys where it is ``ratio``."""
    if guard is not None and not isinstance(guard, Ratio):
        return guard, None
    rates = (guard.false_positive_rate,) if guard else rates_to_try(prompts)
    gate = rate_of(banks, calibration, rates)
    return guard or Ratio(false_positive_rate=gate.rate), gate


def _check_regions(
    regions: Regions, latent_shape: tuple[int, int, int], guard: Settings | None, *, drawn: bool
) -> None:
    if regions == WHOLE:
        return
    if regions.sides == 1:
        raise UsageError("a thing is looked for anywhere in regions of 2 or 4 a side; name --regions, too.")
    if not regions.fits(latent_shape):
        raise UsageError(
            f"{regions.sides} regions a side do not fit latents of {latent_shape[1]}x{latent_shape[2]};"
            f" known are {', '.join(map(str, SIDES))}, where they divide both sides."
        )
    if guard:
        check_whole(guard.mode, regions.sides)
    if drawn:
        raise UsageError(
            "with regions the engine cannot draw the benign pictures itself: most regions of the negation"
            " images are ordinary, so nothing tells which drawn ones are. Give --benign."
        )


def _check_encoder(engine: Engine, regions: Regions, size: tuple[int, int]) -> None:
    """Things that are looked for anywhere are encoded as large as a region."""
    encoder = engine.manifest.components.get("vae_encoder")
    if not regions.anywhere or encoder is None:
        return
    height, width = next(iter(encoder.inputs.values())).shape[2:]
    if any(
        isinstance(known, int) and known * regions.sides != side
        for known, side in zip((width, height), size, strict=True)
    ):
        raise UsageError(
            f"this engine's encoder takes {width}x{height} pictures alone, and a thing that is looked for"
            " anywhere is smaller. Freeze with an engine of the same checkpoint for the target cpu."
        )


def _draw(
    engine: Engine, count: int, size: tuple[int, int], batch_size: int, report: Report
) -> NDArray[np.float16]:
    """Latents of pictures of no prompt, drawn without a guard and never decoded."""
    defaults = engine.manifest.defaults
    table = engine.plan(Solver(defaults.solver), min(defaults.steps, DRAWN_STEPS), size)
    parts: list[Any] = []
    for start in range(0, count, batch_size):
        seeds = range(start, min(start + batch_size, count))
        with engine.device.active():
            nothing = engine.uncondition("", len(seeds), size, 1.0)
            *_, last = unguarded(engine, table, (nothing, None, 1.0), seeds, size)
            parts.append(to_host(last.x).astype(np.float16))
        report("drawing benign pictures", seeds[-1] + 1, count)
    return np.concatenate(parts)


def _digest(paths: Sequence[Path], bad: Sequence[str]) -> str:
    """SHA-256 over the digests of the images that went in, in order."""
    skipped = {line.split(": ")[0] for line in bad}
    used = (p for p in paths if str(p) not in skipped)
    return hashlib.sha256("\n".join(file_sha256(p) for p in used).encode()).hexdigest()
