"""What the guard ``paper`` is calibrated on: how dense negation images lie among one another."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from safegen.guard.bank import Bank, flat, log_kernel, logsumexp
from safegen.guard.gate import Density
from safegen.sampling import noise
from safegen.sampling.table import noised

LOG_SNR_GRID = np.linspace(-7.0, 7.0, 29)
SHARES = np.linspace(0.0, 1.0, 101)


def density_of(bank: Bank, negation: NDArray[np.float32], rows: NDArray[np.int64]) -> Density:
    """Quantiles of log beta of negation images, noised to each level of a grid.

    Args:
        bank: both banks, on the host.
        negation: (K, C, H', W') latents that are in the negation bank.
        rows: (K,) where, so that each is left out of the bank that judges it.
    """
    # one noise an image for all levels: so a deterministic solver's x_t moves along its path
    z, quantiles = noise.normal(0, 1, negation.shape, stream=2), []
    for log_snr in LOG_SNR_GRID:
        row = noised(log_snr)
        x = row.alpha * negation + row.sigma * z
        kernels = log_kernel(x, bank.refs, bank.refs_sq, row)
        kernels[np.arange(len(rows)), rows] = -np.inf
        norm = np.sum(flat(x) ** 2, axis=1) / row.spread
        log_beta = logsumexp(kernels) - math.log(len(bank.refs) - 1) - norm
        quantiles.append(np.quantile(log_beta.astype(np.float64), SHARES))
    return Density(LOG_SNR_GRID, np.stack(quantiles))
