"""What ``ratio`` is compared with, in Python alone: the bare theorem, two peers, and a control.

Sources: SPELL (arXiv 2410.06025), Safety-Guided Flow (SGF, arXiv 2603.13300).
"""

from __future__ import annotations

import math

from safegen.device import Array, array_namespace
from safegen.guard.bank import Bank, log_ratio, mean_of_refs, per_sample, push, squared_distances
from safegen.sampling.loop import Evidence
from safegen.sampling.table import Row

W_MIN = 0.05
"""A correction weaker than this is left out."""


def theorem(
    x: Array, x0: Array, row: Row, bank: Bank, *, log_eta: float, log_w_max: float
) -> tuple[Array, Array, Evidence]:
    """The theorem itself with two banks, without a gate: w = min(eta beta*, w_max), 0 below 0.05."""
    xp = array_namespace(x)
    value, kernels, _ = log_ratio(x, bank, row)
    strength = xp.exp(xp.minimum(value + log_eta, xp.zeros_like(value) + log_w_max))
    weight = xp.where(strength >= W_MIN, strength, xp.zeros_like(strength))
    evidence = Evidence(value + log_eta - math.log(W_MIN), weight, xp.argmax(kernels, axis=-1))
    return x, push(x0, weight, kernels, bank), evidence


def spell(
    x: Array, x0: Array, bank: Bank, *, radius: float, overcompensation: float
) -> tuple[Array, Array, Evidence]:
    """Sparse repellency: x0' = x0 + o sum_k relu(radius / ||x0 - r_k|| - 1) (x0 - r_k)."""
    xp = array_namespace(x0)
    distances = xp.sqrt(squared_distances(x0, bank.refs, bank.refs_sq))
    inside = radius / xp.maximum(distances, xp.full_like(distances, 1e-6)) - 1
    weights = overcompensation * xp.maximum(inside, xp.zeros_like(inside))
    total = xp.sum(weights, axis=-1)
    moved = x0 + per_sample(total, x0) * x0 - mean_of_refs(weights, bank.refs, x0)
    return x, moved, Evidence(xp.max(inside, axis=-1), total, xp.argmin(distances, axis=-1))


def sgf(x: Array, x0: Array, bank: Bank, *, gamma: float, step: float) -> tuple[Array, Array, Evidence]:
    """Descent on a kernel density: x0' = x0 + step 2 gamma mean_k exp(-gamma d_k^2) (x0 - r_k)."""
    xp = array_namespace(x0)
    distances = squared_distances(x0, bank.refs, bank.refs_sq)
    kernels = xp.exp(-gamma * distances)
    weights = kernels * (step * 2 * gamma) / xp.sum(xp.ones_like(bank.refs_sq), axis=0)
    total = xp.sum(weights, axis=-1)
    moved = x0 + per_sample(total, x0) * x0 - mean_of_refs(weights, bank.refs, x0)
    return x, moved, Evidence(total, total, xp.argmin(distances, axis=-1))


def bank_mean(x: Array, x0: Array, bank: Bank, *, scale: float) -> tuple[Array, Array, Evidence]:
    """Control: the same push for every picture, away from the mean of the bank."""
    xp = array_namespace(x0)
    mean = xp.reshape(xp.mean(bank.refs, axis=0), (1, *x0.shape[1:]))
    distances = squared_distances(x0, bank.refs, bank.refs_sq)
    nearest = xp.argmin(distances, axis=-1)
    weight = xp.zeros_like(xp.max(distances, axis=-1)) + scale
    return x, x0 - scale * mean, Evidence(weight, weight, nearest)
