"""The default guard: the density ratio of both banks as the gate, both banks as the direction.

Source: Kim et al., Training-Free Safe Denoisers (arXiv 2502.08011).
"""

from __future__ import annotations

from typing import Any

from safegen.device import Array, array_namespace
from safegen.guard.bank import (
    W_MIN,
    Bank,
    as_kernels,
    flat,
    gate,
    log_ratio,
    mean_of_refs,
    per_sample,
    softmax,
)
from safegen.guard.regions import Regions, cut, join, steered
from safegen.sampling.loop import Evidence
from safegen.sampling.table import Row


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
    x: Array,
    x0: Array,
    row: Row,
    bank: Bank,
    latched: Array,
    *,
    opens: float,
    sure: float,
    releases: float,
    tau: float,
    repulsion: float,
    bandwidth: float,
    aim_bandwidth: float,
    sharpness: float = 1.0,
    doubts: float | None = None,
    plain: Array | None = None,
) -> tuple[Array, Array, Evidence]:
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


def ratio_by_regions(
    x: Array,
    x0: Array,
    row: Row,
    bank: Bank,
    latched: Array,
    regions: Regions,
    *,
    opens: float,
    bandwidth: float,
    plain: Array | None,
    **numbers: Any,
) -> tuple[Array, Evidence]:
    """:func:`ratio` of each region: pictures x0', and the evidence of each region.

    Of regions that overlap there are many, and few are open: the others are left at what the gate needs.

    Args:
        x: (B, C, H, W), as ``x0`` and ``plain``.
        x0: what the model foresees.
        row: the step.
        bank: of regions.
        latched: (B M,) bool.
        regions: how they lie.
        opens: of the gate, as ``bandwidth``.
        bandwidth: h.
        plain: x0 without the text guard beside it.
        numbers: the others of :func:`ratio`.
    """
    of_gate = {"opens": opens, "bandwidth": bandwidth}
    noisy, parts = cut(x, regions), cut(x0, regions)
    asked = parts if plain is None else cut(plain, regions)
    if not regions.anywhere:
        _, moved, evidence = ratio(noisy, parts, row, bank, latched, plain=asked, **of_gate, **numbers)
        return join(moved, regions.sides), evidence
    xp = array_namespace(x)
    near, value = gate(flat(asked), bank, bandwidth)
    value = value - opens
    weight, nearest = xp.zeros_like(value), xp.argmax(near[0], axis=-1)
    (acts,) = xp.nonzero((value > 0.0) | latched)
    if not acts.shape[0]:
        return x0, Evidence(value, weight, nearest)
    x_some, x0_some, asked_some, latched_some = (
        xp.take(v, acts, axis=0) for v in (noisy, parts, asked, latched)
    )
    _, redrawn, seen = ratio(x_some, x0_some, row, bank, latched_some, plain=asked_some, **of_gate, **numbers)
    moved = xp.asarray(parts, copy=True)
    moved[acts, ...], weight[acts], nearest[acts] = redrawn, seen.weight, seen.nearest
    evidence = Evidence(value, weight, nearest)
    return steered(x0, parts, moved, evidence, regions), evidence
