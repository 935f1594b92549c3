"""The curves that a bundle keeps: evidence of held-out images over a grid of log-SNR."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from safegen.guard.bank import Bank, flat, log_kernel, log_ratio, logsumexp
from safegen.guard.gate import LOG_SNR_GRID, Calibration
from safegen.sampling import noise
from safegen.sampling.table import Row, noised

Array = NDArray[np.float32]


def calibrate(
    bank: Bank,
    benign: Array,
    negation: Array,
    negation_rows: NDArray[np.int64],
    tau: float,
    foreseen: tuple[Array, Array],
) -> Calibration:
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
