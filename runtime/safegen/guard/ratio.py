"""The default guard: the density ratio of two banks as the gate, both banks as the direction.

    e      = log mean_n K(x0, r_n) - log mean_m K(x0, s_m)     which bank is denser at the foreseen picture?
    opened = opened or e > threshold(level)
    if opened and log-SNR < 0:  x0 <- E_s + r (E_s - E_r)      the benign mean, pushed off the negation set

Source of the ratio: Kim et al., Training-Free Safe Denoisers (arXiv 2502.08011), theorem 3.2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from safegen.device import Array, array_namespace
from safegen.guard.bank import (
    Bank,
    flat,
    kernels_at,
    log_kernel,
    logmeanexp,
    mean_of_refs,
    per_sample,
    softmax,
)
from safegen.guard.regions import Regions, cut, join, steered
from safegen.sampling.loop import Evidence
from safegen.sampling.table import Row


class Numbers(NamedTuple):
    """The guard's numbers at one step: floats, or scalars of a graph."""

    threshold: Any
    """The gate opens where the evidence is above."""
    bandwidth: Any
    """h of the gate's kernels."""
    repulsion: Any
    """r."""


def ratio(
    x: Array, x0: Array, row: Row, bank: Bank, latched: Array, numbers: Numbers, plain: Array | None = None
) -> tuple[Array, Array, Evidence]:
    """Look at the foreseen picture; where the gate is open, put the benign bank's mean in its place.

    The means are those of the posterior given x_t (eq. 6 for each bank): E_s - E_r is
    -(sigma^2 / alpha) grad log beta*(x_t), so the picture stays among ordinary ones. It starts from E_s,
    since a prompt that asks for the negated thing makes the model's own x0 unsafe. From log-SNR 0 on the
    content of the picture is settled, and the model finishes the details alone.

    Args:
        x: (B, C, H, W) noisy latents.
        x0: (B, C, H, W) what the model foresees.
        row: the step.
        bank: both banks.
        latched: (B,) bool: which gates have opened before. They stay open: a picture let go just below
            the threshold would still be closer to the negation set than to anything else.
        numbers: at this step.
        plain: x0 without the text guard beside it, which the gate looks at in its place: a text guard
            hides what was asked for from the gate, and need not keep it from being drawn.
    """
    xp = array_namespace(x)
    seen = kernels_at(flat(x0 if plain is None else plain), bank, numbers.bandwidth)
    value = logmeanexp(seen[0]) - logmeanexp(seen[1]) - numbers.threshold
    opened = (value > 0.0) | latched
    benign = log_kernel(x, bank.benign, bank.benign_sq, row)
    benign = benign if bank.target_mask is None else benign + bank.target_mask
    safe = mean_of_refs(softmax(benign), bank.benign, x0)
    unsafe = mean_of_refs(softmax(log_kernel(x, bank.refs, bank.refs_sq, row)), bank.refs, x0)
    target = safe + numbers.repulsion * (safe - unsafe)
    weight = xp.where(opened, xp.ones_like(value), xp.zeros_like(value)) * row.early
    evidence = Evidence(value, weight, xp.argmax(seen[0], axis=-1))
    return x, xp.where(per_sample(weight > 0.0, x0), target, x0), evidence


def ratio_by_regions(
    x: Array,
    x0: Array,
    row: Row,
    bank: Bank,
    latched: Array,
    numbers: Numbers,
    regions: Regions,
    plain: Array | None = None,
) -> tuple[Array, Evidence]:
    """:func:`ratio` of each region: pictures x0', and the evidence of each region.

    Of regions that overlap there are many, and few are open: the others are left at what the gate needs.

    Args:
        x: (B, C, H, W), as ``x0`` and ``plain``.
        x0: what the model foresees.
        row: the step.
        bank: of regions.
        latched: (B M,) bool.
        numbers: at this step.
        regions: how they lie.
        plain: x0 without the text guard beside it.
    """
    noisy, parts = cut(x, regions), cut(x0, regions)
    look = parts if plain is None else cut(plain, regions)
    if not regions.anywhere:
        _, moved, evidence = ratio(noisy, parts, row, bank, latched, numbers, look)
        return join(moved, regions.sides), evidence
    xp = array_namespace(x)
    seen = kernels_at(flat(look), bank, numbers.bandwidth)
    value = logmeanexp(seen[0]) - logmeanexp(seen[1]) - numbers.threshold
    weight, nearest = xp.zeros_like(value), xp.argmax(seen[0], axis=-1)
    (acts,) = xp.nonzero((value > 0.0) | latched)
    if not acts.shape[0]:
        return x0, Evidence(value, weight, nearest)
    x_some, x0_some = (xp.take(values, acts, axis=0) for values in (noisy, parts))
    moved = xp.asarray(parts, copy=True)
    moved[acts, ...] = ratio(x_some, x0_some, row, bank, xp.ones_like(acts, dtype=xp.bool), numbers)[1]
    weight[acts] = row.early
    evidence = Evidence(value, weight, nearest)
    return steered(x0, parts, moved, evidence, regions), evidence
