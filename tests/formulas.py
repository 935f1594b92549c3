"""The guards' formulas in float64 with nothing clever, and banks and pictures to hold the guards to them."""

from __future__ import annotations

from typing import Any

import numpy as np

from safegen.guard.bank import Bank, make_bank
from safegen.sampling.table import Row

SHAPE = (3, 4, 6, 6)
"""(B, C, H, W) of the pictures."""
D = 4 * 6 * 6
SHUT = np.zeros(3, bool)
RELATIVE = 2e-4
"""float32 products of 144 numbers round at about 1e-6; exp of differences of hundreds multiplies that."""


def row_of(alpha: float = 0.6, sigma: float = 0.8) -> Row:
    """A step that only says how noisy x is."""
    return Row(500.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, alpha, sigma)


def two_banks(
    n: int = 7, m: int = 9, seed: int = 0, targets: int | None = None, axes: Any = None, shape: Any = SHAPE
) -> Bank:
    """Banks of noise."""
    rng = np.random.default_rng(seed)
    refs, benign = (rng.standard_normal((k, *shape[1:])).astype(np.float32) for k in (n, m))
    return make_bank(refs, benign, targets, axes)


def pictures(seed: int = 1, near: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """(x, x0): noise, or both near one latent."""
    rng = np.random.default_rng(seed)
    x, x0 = (rng.standard_normal(SHAPE).astype(np.float32) for _ in range(2))
    if near is not None:
        x0 = (near.reshape(1, *SHAPE[1:]) + 0.1 * x0).astype(np.float32)
        x = (0.6 * x0 + 0.8 * x).astype(np.float32)
    return x, x0


def close(found: Any, expected: Any, relative: float = RELATIVE) -> None:
    scale = np.abs(expected).max() + 1e-12
    assert np.abs(np.asarray(found, np.float64) - expected).max() / scale < relative


def flat(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64).reshape(len(x), -1)


def squared(x: Any, refs: Any, axes: Any = None) -> np.ndarray:
    """||x - r_n||^2, without what lies along the axes: (B, N)."""
    gaps = flat(x)[:, None] - flat(refs)[None]
    along = 0.0 if axes is None else ((gaps @ np.asarray(axes, np.float64).T) ** 2).sum(-1)
    return (gaps**2).sum(-1) - along


def forward_kernels(x: Any, refs: Any, row: Row) -> np.ndarray:
    """Log q(x_t | r_n), up to a constant: (B, N)."""
    return -squared(x, row.alpha * flat(refs)) / (2 * row.sigma**2)


def log_mean_exp(values: np.ndarray) -> np.ndarray:
    top = values.max(-1, keepdims=True)
    return (np.log(np.exp(values - top).mean(-1, keepdims=True)) + top)[..., 0]


def posterior_mean(kernels: np.ndarray, refs: Any, like: np.ndarray) -> np.ndarray:
    """sum_n w_n r_n, w the kernels made to sum to 1."""
    weights = np.exp(kernels - kernels.max(-1, keepdims=True))
    return ((weights / weights.sum(-1, keepdims=True)) @ flat(refs)).reshape(like.shape)


def evidence(x0: Any, bank: Bank, bandwidth: float, axes: Any = None) -> np.ndarray:
    """Log ratio of both densities at x0, each a mixture of N(r, h^2 I) by the gate's distances."""
    unsafe, benign = (-squared(x0, rows, axes) / (2 * bandwidth**2) for rows in (bank.refs, bank.benign))
    return log_mean_exp(unsafe) - log_mean_exp(benign)


def target(x: Any, bank: Bank, row: Row, repulsion: float, targets: int | None = None) -> np.ndarray:
    """E_s + r (E_s - E_r), both given x_t."""
    aims = bank.benign[:targets]
    safe = posterior_mean(forward_kernels(x, aims, row), aims, x)
    unsafe = posterior_mean(forward_kernels(x, bank.refs, row), bank.refs, x)
    return safe + repulsion * (safe - unsafe)
