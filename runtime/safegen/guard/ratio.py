"""The default guard: the density ratio of two banks as the gate, both banks as the direction.

    e      = log mean_n K(x0, r_n) - log mean_m K(x0, s_m)     which bank is denser at the foreseen picture?
    if e > threshold(level), or it was at a step before and log-SNR < 0:
        x0 <- E_s + r (E_s - E_r)                              the benign mean, pushed off the negation set

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


def evidence_of(x0: Array, row: Row, bank: Bank, latched: Array, numbers: Numbers) -> Evidence:
    """What the gate sees at clean pictures x0 (B, C, H, W), and where the guard acts: weight 1, else 0.

    Up to log-SNR 0 it acts once the gate has opened: a picture let go just below the threshold would
    still be closer to the negation set than to anything else. From there on the content is settled, and it
    acts where the evidence itself is above the threshold: the model may draw the details of any other.

    Args:
        x0: what the gate looks at.
        row: the step.
        bank: both banks.
        latched: (B,) bool: which gates have opened before.
        numbers: at this step.
    """
    xp = array_namespace(x0)
    unsafe, benign = kernels_at(flat(x0), bank, numbers.bandwidth)
    value = logmeanexp(unsafe) - logmeanexp(benign) - numbers.threshold
    ones, zeros = xp.ones_like(value), xp.zeros_like(value)
    weight = xp.where(value > 0.0, ones, xp.where(latched, ones, zeros) * row.early)
    return Evidence(value, weight, xp.argmax(unsafe, axis=-1))


def replacement(x: Array, row: Row, bank: Bank, repulsion: Any) -> Array:
    """E_s + r (E_s - E_r): the posterior means of both banks given x_t (eq. 6 for each), (B, C, H, W).

    E_s - E_r is -(sigma^2 / alpha) grad log beta*(x_t), so the picture stays among ordinary ones. It starts
    from E_s, since a prompt that asks for the negated thing makes the model's own x0 unsafe.
    """
    benign = log_kernel(x, bank.benign, bank.benign_sq, row)
    benign = benign if bank.target_mask is None else benign + bank.target_mask
    safe = mean_of_refs(softmax(benign), bank.benign, x)
    unsafe = mean_of_refs(softmax(log_kernel(x, bank.refs, bank.refs_sq, row)), bank.refs, x)
    return safe + repulsion * (safe - unsafe)


def ratio(
    x: Array, x0: Array, row: Row, bank: Bank, latched: Array, numbers: Numbers, plain: Array | None = None
) -> tuple[Array, Array, Evidence]:
    """Look at the foreseen picture; where the guard acts, put the :func:`replacement` in its place.

    Args:
        x: (B, C, H, W) noisy latents.
        x0: (B, C, H, W) what the model foresees.
        row: the step.
        bank: both banks.
        latched: (B,) bool: which gates have opened before.
        numbers: at this step.
        plain: x0 without the text guard beside it, which the gate looks at in its place: a text guard
            hides what was asked for from the gate, and need not keep it from being drawn.
    """
    xp = array_namespace(x)
    evidence = evidence_of(x0 if plain is None else plain, row, bank, latched, numbers)
    acts = per_sample(evidence.weight > 0.0, x0)
    return x, xp.where(acts, replacement(x, row, bank, numbers.repulsion), x0), evidence


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
    evidence = evidence_of(look, row, bank, latched, numbers)
    (acts,) = xp.nonzero(evidence.weight > 0.0)
    if not acts.shape[0]:
        return x0, evidence
    moved = xp.asarray(parts, copy=True)
    moved[acts, ...] = replacement(xp.take(noisy, acts, axis=0), row, bank, numbers.repulsion)
    return steered(x0, parts, moved, evidence, regions), evidence
