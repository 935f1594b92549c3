"""Both banks of references: their kernels, densities and distances, from which every guard is made.

Notation: x = alpha x0 + sigma n; references r_n, n < N, and benign latents s_m, m < M, are rows of
D = C H W numbers; x and x0 are (B, C, H, W). Everything runs in the log domain in float32, one
matrix product a bank, with no temporary of size N D. Written against the Python array API.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from safegen.device import Array, array_namespace
from safegen.sampling.table import Row


class Metric(NamedTuple):
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
    target_mask: Array | None = None
    """(M,) 0 for the benign latents that ``ratio`` may steer towards, -inf for the others; None is all."""
    metric: Metric | None = None
    """Of the gate of ``ratio``; None counts every direction alike."""


def on(bank: Bank, xp: Any) -> Bank:
    """The same banks in another namespace, for example from NumPy to CuPy."""
    refs, refs_sq, benign, benign_sq = (xp.asarray(values) for values in bank[:4])
    mask = None if bank.target_mask is None else xp.asarray(bank.target_mask)
    metric = None if bank.metric is None else Metric(*(xp.asarray(values) for values in bank.metric))
    return Bank(refs, refs_sq, benign, benign_sq, mask, metric)


def make_bank(refs: Array, benign: Array, targets: int | None = None, axes: Array | None = None) -> Bank:
    """Latents (N, C, H, W) and (M, C, H, W) of any precision to float32 rows and squared norms.

    Args:
        refs: what is negated.
        benign: what is ordinary.
        targets: ``ratio`` steers towards the first so many benign latents alone.
        axes: (K, D) of the gate's :class:`Metric`; None counts every direction alike.
    """
    xp = array_namespace(refs)
    rows, ordinary = (xp.astype(flat(x), xp.float32) for x in (refs, benign))
    sums = xp.sum(rows**2, axis=1), xp.sum(ordinary**2, axis=1)
    mask = xp.zeros_like(sums[1])
    if targets is not None:
        mask = xp.where(xp.arange(mask.shape[0]) < targets, mask, xp.full_like(mask, -math.inf))
    if axes is None:
        return Bank(rows, sums[0], ordinary, sums[1], mask)
    axes = xp.astype(axes, xp.float32)
    unsafe, safe = (x @ xp.matrix_transpose(axes) for x in (rows, ordinary))
    metric = Metric(axes, unsafe, xp.sum(unsafe**2, axis=1), safe, xp.sum(safe**2, axis=1))
    return Bank(rows, sums[0], ordinary, sums[1], mask, metric)


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


def log_kernel(x: Array, refs: Array, refs_sq: Array, row: Row) -> Array:
    """Log q(x_t | r_n) up to a term of x alone: (B, N).

    -||x - alpha r||^2 / (2 sigma^2) without -||x||^2 / (2 sigma^2), which cancels in every
    ratio and would cost float32 its last digits.
    """
    scale, half = row.kernel()
    return (flat(x) @ array_namespace(x).matrix_transpose(refs)) * scale - refs_sq[None, :] * half


def squared_distances(x0: Array, refs: Array, refs_sq: Array) -> Array:
    """||x0 - r_n||^2 by one matrix product: (B, N), at least 0."""
    xp = array_namespace(x0)
    rows = flat(x0)
    cross = rows @ xp.matrix_transpose(refs)
    own = xp.sum(rows**2, axis=-1)
    return xp.maximum(own[:, None] + refs_sq[None, :] - 2.0 * cross, xp.zeros_like(cross))


def log_ratio(x: Array, bank: Bank, row: Row) -> tuple[Array, Array, Array]:
    """Log beta* with equal priors, (B,), and the kernels of both banks, (B, N) and (B, M).

    Theorem 3.2's ratio of two densities, each a mixture of the exact forward kernel.
    """
    unsafe = log_kernel(x, bank.refs, bank.refs_sq, row)
    benign = log_kernel(x, bank.benign, bank.benign_sq, row)
    return logmeanexp(unsafe) - logmeanexp(benign), unsafe, benign


def kernels_at(rows: Array, bank: Bank, bandwidth: Any) -> tuple[Array, Array]:
    """Log kernels exp(-||x0 - r||_A^2 / 2 h^2) of both banks, (B, N) and (B, M), up to a term of x0 alone.

    Args:
        rows: (B, D) clean pictures.
        bank: both banks; distances are by its metric.
        bandwidth: h.
    """
    unsafe, benign = _nearness(rows, bank)
    if bank.metric is not None:
        along = _nearness(rows @ array_namespace(rows).matrix_transpose(bank.metric.axes), bank.metric)
        unsafe, benign = unsafe - along[0], benign - along[1]
    scale = 1.0 / bandwidth**2
    return unsafe * scale, benign * scale


def _nearness(rows: Array, bank: Bank | Metric) -> tuple[Array, Array]:
    """-||x - r||^2 / 2 of rows x and both banks, up to a term of x alone."""
    xp = array_namespace(rows)
    unsafe = rows @ xp.matrix_transpose(bank.refs) - 0.5 * bank.refs_sq[None, :]
    return unsafe, rows @ xp.matrix_transpose(bank.benign) - 0.5 * bank.benign_sq[None, :]


def evidence_at(x0: Array, bank: Bank, bandwidth: Any) -> Array:
    """Log ratio of both banks' densities at clean pictures x0 (B, C, H, W): (B,).

    x0 holds what the model and the prompt know besides x_t: it tells a t-shirt from a pullover many steps
    before x_t does.
    """
    unsafe, benign = kernels_at(flat(x0), bank, bandwidth)
    return logmeanexp(unsafe) - logmeanexp(benign)


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
