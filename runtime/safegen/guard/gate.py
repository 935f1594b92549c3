"""Where a guard's gate stands: thresholds per log-SNR, from images the banks have not seen.

Freeze noises held-out benign and negation latents to a grid of log-SNR with the forward process and
keeps the evidence of each, and that of the pictures which the model foresees in ordinary use. From these
curves any solver and any number of steps gets its thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from safegen.sampling.table import noised

Array = NDArray[np.float32]

LOG_SNR_GRID = np.linspace(-7.0, 7.0, 29)
SAFELY_BENIGN = 0.05
"""An open gate lets go around this quantile of the benign images' log beta*: the median would let go
of pictures that the prompt then turns back."""
SURE = 2.0
"""So many of the tail's scales above the gate a picture is unsafe beyond doubt: if the tail is exponential,
of ordinary pictures that open the gate one in e^2 gets there."""
FEW_STEPS = 8
"""A plan of fewer steps takes at once what the others do in several: :func:`hurried`."""
SHARPNESS = 2.0
"""Of the target in such a plan, which else ends in a blur of several garments."""
DOUBT_RATE = 0.12
"""There this share of ordinary pictures is in doubt at some step, and of those still undecided:"""
DOUBT_UNTIL = -2.0
"""log-SNR up to which a picture in doubt is moved: the model then makes a natural one of it."""
LEVEL_LIMIT = 30.0
"""log-SNRs are cut to plus and minus this: pure noise and clean pictures have none that is finite."""


class Calibration(NamedTuple):
    """Evidence of held-out images; L levels, H benign and K negation images."""

    log_snr: Array
    """(L,) rising."""
    benign: Array
    """(L, H) log beta* of benign images that are not in the benign bank."""
    negation: Array
    """(L, K) log beta* of negation images, each left out of the bank that judges it."""
    density: Array
    """(L, K) log beta (the numerator alone) of the same negation images."""
    foreseen_log_snr: Array
    """(F,) rising: levels at which the model looked."""
    foreseen: Array
    """(F, P) log ratio at the picture that the model foresees, of ordinary pictures at those levels."""


class Thresholds(NamedTuple):
    """Three curves over the steps of a plan."""

    opens: NDArray[np.float64]
    """The gate opens where the log ratio at x0 is above."""
    sure: NDArray[np.float64]
    """How far above that a picture is unsafe beyond doubt (:data:`SURE`)."""
    releases: NDArray[np.float64]
    """An open gate fades out around this: the log beta* of safely benign x_t, at most 0."""


def thresholds(calibration: Calibration, false_positive_rate: float, log_snr: Any) -> Thresholds:
    """Thresholds at each given log-SNR, for one false-positive rate a picture.

    The gate opens above q + z e: at each level q is the ordinary pictures' 0.9-quantile and e the mean
    excess above it (the scale of an exponential tail), and the one z is that at which the share of
    ordinary pictures that pass the curve at any level is the rate asked for, rounded down so that it
    also holds for the next picture (split conformal: the ceil((P + 1)(1 - rate))-th score). Between levels it
    is linear in alpha: from pure noise on, what the model foresees changes as x_t begins to hold the picture.
    """
    wanted = np.clip(np.asarray(log_snr, np.float64), -LEVEL_LIMIT, LEVEL_LIMIT)
    high = np.quantile(calibration.foreseen, 0.9, axis=1, keepdims=True)
    above = np.maximum(calibration.foreseen - high, 0)
    excess = above.sum(axis=1) / np.maximum((above > 0).sum(axis=1), 1) + 1e-6
    scores = np.sort(((calibration.foreseen - high) / excess[:, None]).max(axis=0))
    rank = math.ceil((len(scores) + 1) * (1 - false_positive_rate)) - 1
    z = scores[min(rank, len(scores) - 1)]
    usual = np.minimum(np.quantile(calibration.benign, SAFELY_BENIGN, axis=1), 0.0)
    at, levels = ([noised(level).alpha for level in each] for each in (wanted, calibration.foreseen_log_snr))
    return Thresholds(
        np.interp(at, levels, high[:, 0] + z * excess),
        np.interp(at, levels, SURE * excess),
        np.interp(wanted, calibration.log_snr, usual),
    )


def hurried(calibration: Calibration, log_snr: Sequence[float]) -> tuple[float, list[float | None]]:
    """Sharpness of the target in a plan, and at each step where doubt begins; None is nowhere.

    Args:
        calibration: of the bundle.
        log_snr: of every step of the plan.
    """
    if len(log_snr) >= FEW_STEPS:
        return 1.0, [None] * len(log_snr)
    doubts = thresholds(calibration, DOUBT_RATE, log_snr).opens
    early = [float(at) if level < DOUBT_UNTIL else None for at, level in zip(doubts, log_snr, strict=True)]
    return SHARPNESS, early


def density_curves(calibration: Calibration, quantile: float, log_snr: Any) -> tuple[Any, Any]:
    """(threshold, usual) of log beta at each log-SNR: a quantile and the median of negation images."""
    low, middle = np.quantile(calibration.density, [quantile, 0.5], axis=1)
    known = calibration.log_snr
    return np.interp(log_snr, known, low), np.interp(log_snr, known, middle)
