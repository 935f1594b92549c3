"""The released program of Training-Free Safe Denoisers (arXiv 2502.08011), as it runs."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from safegen.device import Array, array_namespace
from safegen.guard.bank import flat, logsumexp, mean_of_refs, per_sample, softmax, squared_distances
from safegen.sampling.loop import Evidence
from safegen.sampling.table import Row


class Units(NamedTuple):
    """References whose pixels have length 1."""

    refs: Array
    """(N, D)."""
    refs_sq: Array
    """(N,) their squared norms."""


class Numbers(NamedTuple):
    """What a preset, its calibration and the step give: numbers, or scalars of a graph."""

    bandwidth: Any
    """s of the kernels exp(-d / 2 s^2)."""
    scale: Any
    """x0' = x0 - scale E_unsafe."""
    threshold: Any
    """The gate opens where den = sum_n w_n + 1e-8 exceeds it; 0 is always open."""
    kept: Any = 0.0
    """Share of eps in the noise of the new x (:func:`noise_shares`)."""
    fresh: Any = 1.0
    """Share of fresh noise in it."""


def unit_pixels(rows: Array, channels: int) -> Array:
    """Divide each pixel's channel vector by its L2 norm: (N, D) -> (N, D). A zero pixel stays zero."""
    xp = array_namespace(rows)
    pixels = xp.reshape(rows, (-1, channels, rows.shape[1] // channels))
    norm = xp.sqrt(xp.sum(pixels**2, axis=1, keepdims=True))
    return xp.reshape(pixels / xp.where(norm > 0, norm, xp.ones_like(norm)), (-1, rows.shape[1]))


def official_log_kernel(x0: Array, units: Units, bandwidth: Any, *, sd3: bool) -> Array:
    """-||x0 - r_n|| / (2 s^2), the distance not squared, r_n with unit pixels: (B, N).

    For SD3 x0 is compared with unit pixels, too.
    """
    xp = array_namespace(x0)
    seen = unit_pixels(flat(x0), x0.shape[1]) if sd3 else flat(x0)
    return xp.sqrt(squared_distances(seen, *units)) * (-0.5 / bandwidth**2)


def official(
    x: Array, x0: Array, row: Row, units: Units, z: Array, numbers: Numbers, *, sd3: bool = False
) -> tuple[Array, Array, Evidence]:
    """The released program's step: x0' = x0 - scale E_unsafe, then x from x0' with fresh noise.

    The solver steps on with the old eps; for SD3 with x0' itself. Where the gate is shut, x and x0 stay as
    they are.

    Args:
        x: (B, C, H, W) noisy latents.
        x0: (B, C, H, W) what the model foresees.
        row: the step.
        units: the references.
        z: (B, C, H, W) fresh standard normal noise.
        numbers: of the preset and the step.
        sd3: as the program does for SD3.
    """
    xp = array_namespace(x)
    kernels = official_log_kernel(x0, units, numbers.bandwidth, sd3=sd3)
    den = xp.exp(logsumexp(kernels)) + 1e-8
    # den's 1e-8 shrinks E_unsafe where every kernel is tiny
    unsafe = mean_of_refs(softmax(kernels) * ((den - 1e-8) / den)[:, None], units.refs, x0)
    corrected = x0 - numbers.scale * unsafe
    eps = (x - row.alpha * x0) / row.sigma
    noised = row.alpha * corrected + row.sigma * (numbers.kept * eps + numbers.fresh * z)
    foreseen = corrected if sd3 else (noised - row.sigma * eps) / row.alpha
    value = den - numbers.threshold
    weight = xp.where(value > 0.0, xp.zeros_like(den) + numbers.scale, xp.zeros_like(den))
    opened = per_sample(value > 0.0, x)
    evidence = Evidence(value, weight, xp.argmax(kernels, axis=-1))
    return xp.where(opened, noised, x), xp.where(opened, foreseen, x0), evidence


def noise_shares(row: Row, *, sd3: bool) -> tuple[float, float]:
    """How much of eps is kept, and how much fresh noise comes in: (0, 1), but for SD3.

    SD3's program steps to x0' + s' (n - x0'), n = sqrt(s') eps + sqrt(1 - s') z, with s' the next noise
    level. An Euler step x' = a x + (1 - a) x0, a = s' / s, lands there from x = (1 - s) x0' + s n.
    """
    following = row.a * row.sigma
    return (math.sqrt(following), math.sqrt(1.0 - following)) if sd3 else (0.0, 1.0)
