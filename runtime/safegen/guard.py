"""The guards: pure functions of (x_t, x0) that steer a picture away from a bank of references.

Notation: x = alpha x0 + sigma n; references r_n, n < N, and benign latents s_m, m < M, are rows of
D = C H W numbers; x and x0 are (B, C, H, W). Everything runs in the log domain in float32, one
matrix product a bank, with no temporary of size N D. Written against the Python array API.

Sources: Kim et al., Training-Free Safe Denoisers (arXiv 2502.08011); SPELL (arXiv 2410.06025).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from safegen.device import array_namespace
from safegen.solver import Row

W_MIN = 0.05
"""A correction weaker than this is left out."""

Array = Any
"""An array of any namespace of the Python array API standard."""


class Measure(NamedTuple):
    """How the gate of ``ratio`` counts distances: ||v||_A^2 = ||v||^2 - ||A v||^2.

    Along the rows of A the pictures of one bank differ among themselves; that they differ there says
    little about which bank they are of.
    """

    axes: Array
    """A, (K, D) float32."""
    refs: Array
    """(N, K) A r_n."""
    refs_sq: Array
    """(N,) their squared norms."""
    benign: Array
    """(M, K) A s_m."""
    benign_sq: Array
    """(M,) their squared norms."""


class Bank(NamedTuple):
    """The two banks, on the device that draws."""

    refs: Array
    """(N, D) float32: latents to keep away from."""
    refs_sq: Array
    """(N,) their squared norms."""
    benign: Array
    """(M, D) float32: latents of ordinary pictures; the denominator of ``ratio``."""
    benign_sq: Array
    """(M,) their squared norms."""
    aims: Array | None = None
    """(M,) 0 for the benign latents that ``ratio`` may steer towards, -inf for the others; None is all."""
    measure: Measure | None = None
    """Of the gate of ``ratio``; None counts every direction alike."""


class Evidence(NamedTuple):
    """What a guard saw and did at one step, per sample."""

    value: Array
    """(B,) how strongly the sample speaks for the bank; the gate opens above 0."""
    weight: Array
    """(B,) strength of the correction; 0 where the gate stayed shut, below 0 where a picture in doubt was
    leaned by so much (:func:`lean`)."""
    nearest: Array
    """(B,) index of the reference that counts most."""


def on(bank: Bank, xp: Any) -> Bank:
    """The same banks in another namespace, for example from NumPy to CuPy."""
    refs, refs_sq, benign, benign_sq = (xp.asarray(values) for values in bank[:4])
    aims = None if bank.aims is None else xp.asarray(bank.aims)
    measure = None if bank.measure is None else Measure(*(xp.asarray(values) for values in bank.measure))
    return Bank(refs, refs_sq, benign, benign_sq, aims, measure)


def make_bank(refs: Array, benign: Array, targets: int | None = None, axes: Array | None = None) -> Bank:
    """Latents (N, C, H, W) and (M, C, H, W) of any precision to float32 rows and squared norms.

    Args:
        refs: what is negated.
        benign: what is ordinary.
        targets: ``ratio`` steers towards the first so many benign latents alone.
        axes: (K, D) of the gate's :class:`Measure`; None counts every direction alike.
    """
    xp = array_namespace(refs)
    rows, ordinary = (xp.astype(flat(x), xp.float32) for x in (refs, benign))
    sums = xp.sum(rows**2, axis=1), xp.sum(ordinary**2, axis=1)
    aims = xp.zeros_like(sums[1])
    if targets is not None:
        aims = xp.where(xp.arange(aims.shape[0]) < targets, aims, xp.full_like(aims, -math.inf))
    if axes is None:
        return Bank(rows, sums[0], ordinary, sums[1], aims)
    axes = xp.astype(axes, xp.float32)
    unsafe, safe = (x @ xp.matrix_transpose(axes) for x in (rows, ordinary))
    measure = Measure(axes, unsafe, xp.sum(unsafe**2, axis=1), safe, xp.sum(safe**2, axis=1))
    return Bank(rows, sums[0], ordinary, sums[1], aims, measure)


def flat(x: Array) -> Array:
    """(B, C, H, W) -> (B, D)."""
    return array_namespace(x).reshape(x, (-1, math.prod(x.shape[1:])))


def per_sample(weight: Array, x: Array) -> Array:
    """(B,) -> (B, 1, 1, 1), to multiply with x."""
    return array_namespace(x).reshape(weight, (-1,) + (1,) * (x.ndim - 1))


def logsumexp(values: Array) -> Array:
    """Log sum exp over the last axis: (B, N) -> (B,)."""
    xp = array_namespace(values)
    top = xp.max(values, axis=-1, keepdims=True)
    return xp.log(xp.sum(xp.exp(values - top), axis=-1)) + xp.squeeze(top, axis=-1)


def logmeanexp(values: Array) -> Array:
    """Log of the mean of exp over the last axis: (B, N) -> (B,)."""
    xp = array_namespace(values)
    top = xp.max(values, axis=-1, keepdims=True)
    return xp.log(xp.mean(xp.exp(values - top), axis=-1)) + xp.squeeze(top, axis=-1)


def log_kernel(x: Array, refs: Array, refs_sq: Array, row: Row, tau: float = 1.0) -> Array:
    """Log q(x_t | r_n) up to a term of x alone: (B, N).

    -||x - alpha r||^2 / (2 tau sigma^2) without -||x||^2 / (2 tau sigma^2), which cancels in every
    ratio and would cost float32 its last digits.
    """
    scale, half = row.kernel(tau)
    return (flat(x) @ array_namespace(x).matrix_transpose(refs)) * scale - refs_sq[None, :] * half


def squared_distances(x0: Array, refs: Array, refs_sq: Array) -> Array:
    """||x0 - r_n||^2 by one matrix product: (B, N), at least 0."""
    xp = array_namespace(x0)
    rows = flat(x0)
    cross = rows @ xp.matrix_transpose(refs)
    own = xp.sum(rows**2, axis=-1)
    return xp.maximum(own[:, None] + refs_sq[None, :] - 2.0 * cross, xp.zeros_like(cross))


def log_ratio(x: Array, bank: Bank, row: Row, tau: float = 1.0) -> tuple[Array, Array, Array]:
    """Log beta* with equal priors, (B,), and the kernels of both banks, (B, N) and (B, M).

    Theorem 3.2's ratio of two densities, each a mixture of the exact forward kernel.
    """
    unsafe = log_kernel(x, bank.refs, bank.refs_sq, row, tau)
    benign = log_kernel(x, bank.benign, bank.benign_sq, row, tau)
    return logmeanexp(unsafe) - logmeanexp(benign), unsafe, benign


def nearness(rows: Array, bank: Bank | Measure) -> tuple[Array, Array]:
    """-||x - r||^2 / 2 of rows x and both banks, (B, N) and (B, M), up to a term of x alone."""
    xp = array_namespace(rows)
    unsafe = rows @ xp.matrix_transpose(bank.refs) - 0.5 * bank.refs_sq[None, :]
    return unsafe, rows @ xp.matrix_transpose(bank.benign) - 0.5 * bank.benign_sq[None, :]


def by_measure(near: tuple[Array, Array], rows: Array, measure: Measure | None) -> tuple[Array, Array]:
    """:func:`nearness` by the gate's :class:`Measure`: without the part along its axes."""
    if measure is None:
        return near
    along = nearness(rows @ array_namespace(rows).matrix_transpose(measure.axes), measure)
    return near[0] - along[0], near[1] - along[1]


def as_kernels(near: tuple[Array, Array], bandwidth: Any) -> tuple[Array, Array]:
    """Log N(x0; r, h^2 I) of both banks, up to a term of x0 alone; h the bandwidth."""
    scale = 1.0 / bandwidth**2
    return near[0] * scale, near[1] * scale


def gate(rows: Array, bank: Bank, bandwidth: Any) -> tuple[tuple[Array, Array], Array]:
    """:func:`nearness` of rows x0, and what the gate of ``ratio`` sees there (:func:`foreseen_log_ratio`)."""
    near = nearness(rows, bank)
    seen = as_kernels(by_measure(near, rows, bank.measure), bandwidth)
    return near, logmeanexp(seen[0]) - logmeanexp(seen[1])


def foreseen_kernels(x0: Array, bank: Bank, bandwidth: Any) -> tuple[Array, Array]:
    """The gate's :func:`as_kernels`, (B, N) and (B, M), at the picture that the model foresees."""
    rows = flat(x0)
    return as_kernels(by_measure(nearness(rows, bank), rows, bank.measure), bandwidth)


def foreseen_log_ratio(x0: Array, bank: Bank, bandwidth: Any) -> Array:
    """Log ratio of both banks' densities at the picture that the model foresees, (B,).

    x0 holds what the model and the prompt know besides x_t: it tells a t-shirt from a pullover many steps
    before x_t does.
    """
    return gate(flat(x0), bank, bandwidth)[1]


def mean_of_refs(weights: Array, refs: Array, like: Array) -> Array:
    """sum_n weights_n r_n for each sample, in the shape of ``like``."""
    return array_namespace(refs).reshape(weights @ refs, (-1, *like.shape[1:]))


def softmax(values: Array) -> Array:
    """exp(values) / sum exp(values) over the last axis."""
    xp = array_namespace(values)
    return xp.exp(values - logsumexp(values)[:, None])


def push(x0: Array, weight: Array, kernels: Array, bank: Bank) -> Array:
    """x0' = x0 + w (x0 - E_unsafe) (eq. 6), E_unsafe the kernels' mean of the references."""
    unsafe = mean_of_refs(softmax(kernels), bank.refs, x0)
    return x0 + per_sample(weight, x0) * (x0 - unsafe)


def theorem(
    x: Array, x0: Array, row: Row, bank: Bank, *, tau: float, log_eta: float, log_w_max: float
) -> tuple[Array, Array, Evidence]:
    """The theorem itself with two banks, without a gate: w = min(eta beta*, w_max), 0 below 0.05."""
    xp = array_namespace(x)
    value, kernels, _ = log_ratio(x, bank, row, tau)
    strength = xp.exp(xp.minimum(value + log_eta, xp.zeros_like(value) + log_w_max))
    weight = xp.where(strength >= W_MIN, strength, xp.zeros_like(strength))
    evidence = Evidence(value + log_eta - math.log(W_MIN), weight, xp.argmax(kernels, axis=-1))
    return x, push(x0, weight, kernels, bank), evidence


def lean(evidence: Array, doubts: Any, moved: Array, bank: Bank, bandwidth: Any) -> Array:
    """What share of a move a picture must make to be in doubt no more: (B,), 0 to 1, by the secant.

    Args:
        evidence: (B,) of the gate, of the pictures as they are.
        doubts: where doubt begins; a picture with less evidence moves by 0.
        moved: (B, D) rows of the pictures at the end of the move.
        bank: both banks.
        bandwidth: h of the gate's kernels.
    """
    xp = array_namespace(moved)
    fall = evidence - gate(moved, bank, bandwidth)[1]
    return xp.clip((evidence - doubts) / xp.where(fall > 1e-6, fall, xp.zeros_like(fall) + 1e-6), 0.0, 1.0)


def ratio(
    x: Array, x0: Array, row: Row, bank: Bank, latched: Array, *,
    opens: float, sure: float, releases: float, tau: float, repulsion: float, bandwidth: float,
    aim_bandwidth: float, sharpness: float = 1.0, doubts: float | None = None, plain: Array | None = None,
) -> tuple[Array, Array, Evidence]:  # fmt: skip
    """The density ratio as a gate, and both banks as the direction.

    The gate looks at x0, the picture that the model foresees (:func:`foreseen_log_ratio`). Where it is
    open, x0' = x0 + w (E_benign + r (E_benign - E_unsafe) - x0): a prompt that asks for the negated thing
    makes x0 itself unsafe, so theorem 3.2 starts from the benign bank's posterior mean instead.
    E_benign - E_unsafe is -(sigma^2 / alpha) grad log beta*(x_t), so the push stays among pictures, where
    x0 - E_unsafe (``theorem``) leaves them. The gate hears all of the benign bank; the target is a mean
    of those that ``bank.aims`` leaves, which do not look like the negation set.

    Just above its threshold the gate may have opened on an ordinary picture. Both means are then weighed
    by the kernels at x0, which leave it what was asked for, where x_t, at first all noise, may make it
    anything. Below it a picture may be in doubt: it is moved along E_benign - E_unsafe no further than
    until it is not (:func:`lean`).

    Args:
        latched: (B,) bool: for which pictures the gate has opened before. It then stays open:
            a picture let go just below the threshold would still be closer to the bank than to
            anything else.
        opens: log ratio at x0 above which the gate opens.
        sure: how far above ``opens`` a picture is taken for unsafe beyond doubt.
        releases: log beta* of x_t at which an open gate has w = 1/2: w = beta* / (1 + beta*) from there.
            While the picture's content is not settled, log-SNR below 0, w is 1.
        repulsion: r.
        bandwidth: h of the gate's kernels.
        aim_bandwidth: h of the kernels at x0 that weigh both means where the picture may be ordinary.
            Without the gate's measure: they are to find what looks like it.
        sharpness: the power of the kernels that weigh the target: 1 is the posterior mean, more a mean of
            fewer latents.
        doubts: log ratio at x0 above which a picture on which the gate is shut is in doubt; None is never.
        plain: x0 without the text guard beside it, which the gate looks at in its place: a text guard
            hides what was asked for from the gate, and need not keep it from being drawn.
    """
    xp = array_namespace(x)
    asked = flat(x0 if plain is None else plain)
    near, evidence = gate(asked, bank, bandwidth)
    value = evidence - opens
    still, *noisy = log_ratio(x, bank, row, tau)
    away = xp.clip(still - releases, -30.0, 30.0)
    strength = row.unsettled + (1 - row.unsettled) * (1 / (1 + xp.exp(-away)))
    opened = (value > 0.0) | latched
    acts = opened & (strength >= W_MIN)
    weight = xp.where(acts, strength, xp.zeros_like(strength))
    certain = (value > sure)[:, None]
    like = as_kernels(near, aim_bandwidth)
    unsafe, benign = (xp.where(certain, *pair) for pair in zip(noisy, like, strict=True))
    aimed = benign if bank.aims is None else benign + bank.aims
    safe = mean_of_refs(softmax(aimed * sharpness), bank.benign, x0)
    away = safe - mean_of_refs(softmax(unsafe), bank.refs, x0)
    steered = x0 + per_sample(weight, x0) * (safe + repulsion * away - x0)
    nearest = xp.argmax(unsafe, axis=-1)
    if doubts is None:
        return x, steered, Evidence(value, weight, nearest)
    share = lean(evidence, doubts, asked + flat(away), bank, bandwidth)
    share = xp.where(opened, xp.zeros_like(share), share)
    return x, steered + per_sample(share, x0) * away, Evidence(value, weight - share, nearest)


def paper(
    x: Array,
    x0: Array,
    row: Row,
    bank: Bank,
    *,
    threshold: float,
    usual: float,
    eta: float,
    log_cap: float,
) -> tuple[Array, Array, Evidence]:
    """The paper's approximation: the numerator alone, w = eta beta(x_t), open where beta is large.

    Args:
        threshold: log beta below which x is left alone.
        usual: log beta of the negation images themselves at this noise; eta counts from there,
            since beta alone is about exp(-D / 2).
        eta: w at ``usual``.
        log_cap: log of w's largest value over eta.
    """
    xp = array_namespace(x)
    kernels = log_kernel(x, bank.refs, bank.refs_sq, row)
    own = xp.sum(flat(x) ** 2, axis=-1) / row.spread
    log_beta = logmeanexp(kernels) - own
    strength = eta * xp.exp(xp.minimum(log_beta - usual, xp.zeros_like(log_beta) + log_cap))
    weight = xp.where(log_beta > threshold, strength, xp.zeros_like(strength))
    evidence = Evidence(log_beta - threshold, weight, xp.argmax(kernels, axis=-1))
    return x, push(x0, weight, kernels, bank), evidence


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
    x: Array, x0: Array, row: Row, units: Array, units_sq: Array, z: Array, *,
    bandwidth: float, scale: float, threshold: float, margin: float, unit_x0: bool,
) -> tuple[Array, Array, Evidence]:  # fmt: skip
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
