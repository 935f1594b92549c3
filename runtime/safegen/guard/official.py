"""The released program of Training-Free Safe Denoisers (arXiv 2502.08011), as it runs."""

from __future__ import annotations

from safegen.device import Array, array_namespace
from safegen.guard.bank import flat, logsumexp, mean_of_refs, per_sample, softmax, squared_distances
from safegen.sampling.loop import Evidence
from safegen.sampling.table import Row


def unit_pixels(rows: Array, channels: int) -> Array:
    """Divide each pixel's channel vector by its L2 norm: (N, D) -> (N, D). A zero pixel stays zero."""
    xp = array_namespace(rows)
    pixels = xp.reshape(rows, (-1, channels, rows.shape[1] // channels))
    norm = xp.sqrt(xp.sum(pixels**2, axis=1, keepdims=True))
    return xp.reshape(pixels / xp.where(norm > 0, norm, xp.ones_like(norm)), (-1, rows.shape[1]))


def official_log_kernel(
    x0: Array, units: Array, units_sq: Array, bandwidth: float, *, unit_x0: bool
) -> Array:
    """-||x0 - r_n|| / (2 s^2), the distance not squared, r_n with unit pixels: (B, N)."""
    xp = array_namespace(x0)
    seen = unit_pixels(flat(x0), x0.shape[1]) if unit_x0 else flat(x0)
    return xp.sqrt(squared_distances(seen, units, units_sq)) * (-0.5 / bandwidth**2)


def official(
    x: Array,
    x0: Array,
    row: Row,
    units: Array,
    units_sq: Array,
    z: Array,
    *,
    bandwidth: float,
    scale: float,
    threshold: float,
    margin: float,
    unit_x0: bool,
) -> tuple[Array, Array, Evidence]:
    """The released program's step: x0' = x0 - scale E_unsafe, fresh noise, and the old eps.

    Args:
        units: (N, D) references with unit pixels.
        units_sq: (N,) their squared norms.
        z: (B, C, H, W) fresh standard normal noise.
        threshold: the gate opens where den = sum_n w_n + 1e-8 exceeds it; -1 is always open.
        margin: what the evidence counts from: the threshold, or 0 where the gate is always open.
    """
    xp = array_namespace(x)
    kernels = official_log_kernel(x0, units, units_sq, bandwidth, unit_x0=unit_x0)
    den = xp.exp(logsumexp(kernels)) + 1e-8
    # den's 1e-8 shrinks E_unsafe where every kernel is tiny
    unsafe = mean_of_refs(softmax(kernels) * ((den - 1e-8) / den)[:, None], units, x0)
    weight = xp.where(den > threshold, xp.zeros_like(den) + scale, xp.zeros_like(den))
    eps = (x - row.alpha * x0) / row.sigma
    noised = row.alpha * (x0 - per_sample(weight, x0) * unsafe) + row.sigma * z
    value = den - margin
    evidence = Evidence(value, weight, xp.argmax(kernels, axis=-1))
    return noised, (noised - row.sigma * eps) / row.alpha, evidence
