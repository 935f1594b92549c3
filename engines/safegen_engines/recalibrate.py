"""A frozen bundle's gate, set anew on images that it has not seen: how sharp, for which false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from safegen.bundle import BundleInfo, read_bundle, write_bundle
from safegen.calibration import LOOKS_FROM, Calibration, calibrate, thresholds
from safegen.engine import Engine
from safegen.errors import BundleError, UsageError
from safegen.guard_settings import Ratio
from safegen.solver import Solver
from safegen_engines.freeze import Report, encode_files

RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
TAUS = (1.0, 2.0, 4.0, 8.0, 16.0, 64.0)
MIN_IMAGES = 20


@dataclass(frozen=True)
class Point:
    """One point of the ROC, measured on images that did not set its threshold."""

    rate: float
    """Asked for."""
    false_alarms: float
    """Share of the benign images on which the gate opened."""
    caught: float
    """Share of the negation images on which it did."""


@dataclass(frozen=True)
class Recalibrated:
    """What became of a calibration."""

    digest: str
    info: BundleInfo
    roc: tuple[Point, ...]
    """At the temperature chosen, over the rate asked for and those of :data:`RATES` that can be told."""
    chosen: Point
    caught_by_tau: dict[float, float]
    """Temperature -> share of the negation images caught at the rate asked for."""
    benign: int
    negation: int
    """Images measured."""
    known: int
    """Negation images left out of the measurement, since they are in the bank."""


def recalibrate(
    engine: Engine,
    bundle: Path,
    negation: Sequence[Path],
    benign: Sequence[Path],
    out: Path,
    *,
    rate: float,
    steps: int | None = None,
    batch_size: int = 8,
    report: Report = lambda what, done, total: None,
) -> Recalibrated:
    """Choose ``ratio``'s temperature and threshold for a rate of false alarms; write a new bundle.

    Half of the images set each threshold and the other half measures it, both ways round. The bundle
    keeps the curves of all of them. Banks are as they were.

    Args:
        engine: whose encoder froze the bundle.
        bundle: the .negation file.
        negation: images of what must never be drawn, not those of the bundle.
        benign: ordinary images, not those of the bundle.
        out: the new .negation file.
        rate: share of ordinary pictures on which the gate may open, above 0 to 0.5.
        steps: of the plan that is measured; None is the engine's default.
        batch_size: images encoded at a time.
        report: progress.

    Raises:
        UsageError: too few images, or a rate that so few cannot tell.
        BundleError: the bundle is of another autoencoder.
    """
    frozen = read_bundle(bundle)
    if frozen.info.latent_space != engine.manifest.latent_space.id:
        raise BundleError(f"{bundle}: frozen through another autoencoder; name its engine with -e.")
    if not 0 < rate <= 0.5:
        raise UsageError(f"the rate is {rate:g}; it goes from above 0 to 0.5.")
    size = frozen.info.image_size
    ordinary, _ = encode_files(engine, benign, size, "benign images", False, batch_size, report)
    unsafe, _ = encode_files(engine, negation, size, "negation images", False, batch_size, report)
    fresh = _not_in(unsafe, frozen.negation)
    ordinary, unsafe = ordinary[_not_in(ordinary, frozen.benign)], unsafe[fresh]
    _check_counts(len(ordinary), len(unsafe), rate)
    bank, images = frozen.bank(), (ordinary.astype(np.float32), unsafe.astype(np.float32))
    defaults = engine.manifest.defaults
    levels = [r.log_snr for r in engine.plan(Solver(defaults.solver), steps or defaults.steps, size).rows]
    curves: dict[float, Calibration] = {}
    for i, tau in enumerate(TAUS):
        curves[tau] = calibrate(bank, *images, None, tau)
        report("temperatures", i + 1, len(TAUS))
    points = {tau: measure(found, rate, levels) for tau, found in curves.items()}
    # a warmer kernel must be worth it: 1 is the forward process itself
    error = (0.25 / len(unsafe)) ** 0.5
    warmest = max(points, key=lambda tau: points[tau].caught)
    tau = warmest if points[warmest].caught > points[1.0].caught + error else 1.0
    guard = frozen.info.guard
    settings = guard if isinstance(guard, Ratio) else Ratio()
    info = msgspec.structs.replace(
        frozen.info, tau=tau, guard=msgspec.structs.replace(settings, false_positive_rate=rate)
    )
    digest = write_bundle(out, info, frozen.negation, frozen.benign, curves[tau])
    told = {r for r in RATES if _can_tell(len(ordinary), r)} | {rate}
    roc = tuple(measure(curves[tau], r, levels) for r in sorted(told))
    return Recalibrated(
        digest, info, roc, points[tau], {t: p.caught for t, p in points.items()},
        len(ordinary), len(unsafe), int((~fresh).sum()),
    )  # fmt: skip


def measure(calibration: Calibration, rate: float, levels: Sequence[float]) -> Point:
    """Both shares at a rate: every other image sets the threshold for the rest, and the other way round."""
    alarms, caught = [], []
    for half in (0, 1):
        setting, rest = calibration.benign[:, half::2], calibration.benign[:, 1 - half :: 2]
        found = thresholds(calibration._replace(benign=setting), rate, levels)
        alarms.append(_opens(rest, calibration.log_snr, found.opens, levels))
        caught.append(_opens(calibration.negation, calibration.log_snr, found.opens, levels))
    return Point(rate, float(np.concatenate(alarms).mean()), float(np.concatenate(caught).mean()))


def _opens(
    evidence: NDArray[Any], known: NDArray[Any], opens: NDArray[Any], levels: Sequence[float]
) -> NDArray[np.bool_]:
    """Which images (H,) pass the curve at any level of a plan, from evidence (L, H) at the known levels."""
    looks = np.asarray([level >= LOOKS_FROM for level in levels])
    at = np.asarray(levels)[looks]
    between = np.stack([np.interp(at, known, own) for own in evidence.T], axis=1)
    passed: NDArray[np.bool_] = (between > opens[looks][:, None]).any(axis=0)
    return passed


def _not_in(latents: NDArray[np.float16], bank: NDArray[np.float16]) -> NDArray[np.bool_]:
    """Which latents are not, bit for bit, in a bank: (N,)."""
    held = {row.tobytes() for row in bank}
    return np.array([row.tobytes() not in held for row in latents], bool)


def _can_tell(benign: int, rate: float) -> bool:
    """Whether half of the images can hold a threshold for the rate."""
    return benign // 2 + 1 >= 1 / rate


def _check_counts(benign: int, negation: int, rate: float) -> None:
    if min(benign, negation) < MIN_IMAGES:
        raise UsageError(
            f"{benign} benign and {negation} negation images are left that the bundle has not seen; at least"
            f" {MIN_IMAGES} of each are needed, and some hundred do better."
        )
    if not _can_tell(benign, rate):
        raise UsageError(
            f"{benign} benign images cannot tell a rate of {rate:g}; give {int(2 / rate)}, or ask for"
            f" {2 / benign:.3f} or more."
        )
