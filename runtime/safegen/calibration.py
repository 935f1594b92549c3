"""Where a guard's gate stands: thresholds per log-SNR, from images the banks have not seen.

Freeze noises held-out benign and negation latents to a grid of log-SNR with the forward process and
keeps the evidence of each, and that of the pictures which the model foresees in ordinary use. From these
curves any solver and any number of steps gets its thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from safegen import noise
from safegen.device import to_host
from safegen.guard import Bank, flat, log_kernel, log_ratio, logsumexp, squared_distances
from safegen.solver import Row, noised

Array = NDArray[np.float32]

LOG_SNR_GRID = np.linspace(-7.0, 7.0, 29)
SAFELY_BENIGN = 0.05
"""An open gate lets go around this quantile of the benign images' log beta*: the median would let go
of pictures that the prompt then turns back."""
SURE = 2.0
"""So many of the tail's scales above the gate a picture is unsafe beyond doubt: if the tail is exponential,
of ordinary pictures that open the gate one in e^2 gets there."""
BANDWIDTH_SHARE = 1 / 3
"""h^2 of the gate's kernels, as a share of the median squared distance between neighbours of the bank."""
WIDEST = 1.2
"""h is at most this many times what the benign bank's neighbours would make it."""
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


def calibrate(
    bank: Bank, benign: Array, negation: Array, negation_rows: NDArray[np.int64], tau: float,
    foreseen: tuple[Array, Array],
) -> Calibration:  # fmt: skip
    """Measure the curves.

    Args:
        bank: both banks, on the host.
        benign: (H, C, H', W') latents that are not in the benign bank.
        negation: (K, C, H', W') latents that are in the negation bank.
        negation_rows: (K,) where, so that each can be left out.
        tau: kernel temperature.
        foreseen: levels and log ratios of ordinary pictures as the model foresees them.
    """
    curves: list[tuple[Array, Array, Array]] = []
    # one noise an image for all levels: so a deterministic solver's x_t moves along its path
    benign_noise, negation_noise = _noise(benign, 0), _noise(negation, 1)
    for log_snr in LOG_SNR_GRID:
        row = noised(log_snr)
        ordinary = log_ratio(row.alpha * benign + row.sigma * benign_noise, bank, row, tau)[0]
        x = row.alpha * negation + row.sigma * negation_noise
        curves.append((ordinary, *_left_out(x, bank, row, negation_rows, tau)))
    ordinary, unsafe, density = (np.stack(c).astype(np.float32) for c in zip(*curves, strict=True))
    return Calibration(LOG_SNR_GRID.astype(np.float32), ordinary, unsafe, density, *foreseen)


def bandwidth_of(bank: Bank) -> float:
    """H of the gate's kernels for a bank, from its own neighbours, so that no scale is assumed.

    A few images with little in common would get kernels that take in what is ordinary: neighbours of the
    benign bank set a limit.
    """
    along = bank.measure
    own = neighbours(bank.refs, bank.refs_sq, 1, 1, np.median, power=2,
                     along=along and (along.refs, along.refs_sq))  # fmt: skip
    limit = neighbours(bank.benign, bank.benign_sq, 1, 1, np.median, power=2,
                       along=along and (along.benign, along.benign_sq))  # fmt: skip
    return max(math.sqrt(BANDWIDTH_SHARE * min(own, WIDEST**2 * limit)), 1e-3)


def neighbours(
    refs: Any, refs_sq: Any, first: int, last: int, summary: Callable[[Any], Any], *, power: int = 1,
    along: tuple[Any, Any] | None = None,
) -> float:  # fmt: skip
    """Summary of d^power between references and their neighbours first..last, over up to 512 of them.

    ``along``, (N, K) and squared norms, are of a :class:`safegen.guard.Measure` where d is the gate's.
    """
    count = refs.shape[0]
    stride, last = max(1, count // 512), min(last, count - 1)
    squared = to_host(squared_distances(refs[::stride, ...], refs, refs_sq))
    if along is not None:
        squared = np.maximum(squared - to_host(squared_distances(along[0][::stride, ...], *along)), 0)
    nearest = np.sort(squared, axis=1)[:, min(first, last) : last + 1]
    return max(float(summary(nearest ** (power / 2))), 1e-6)


def _noise(like: Array, draw: int) -> Array:
    return noise.normal(0, draw, like.shape, stream=2)


def _left_out(x: Array, bank: Bank, row: Row, own: NDArray[np.int64], tau: float) -> tuple[Array, Array]:
    """Log beta* and log beta of noised negation images, each judged by the others."""
    others = bank.refs.shape[0] - 1
    kernels = log_kernel(x, bank.refs, bank.refs_sq, row, tau)
    kernels[np.arange(len(own)), own] = -np.inf
    numerator = logsumexp(kernels) - math.log(others)
    benign = log_kernel(x, bank.benign, bank.benign_sq, row, tau)
    denominator = logsumexp(benign) - math.log(bank.benign.shape[0])
    plain = log_kernel(x, bank.refs, bank.refs_sq, row)
    plain[np.arange(len(own)), own] = -np.inf
    own_term = np.sum(flat(x) ** 2, axis=1) / (2 * row.sigma**2)
    return numerator - denominator, logsumexp(plain) - math.log(others) - own_term
