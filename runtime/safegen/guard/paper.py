"""The paper's own approximation: the numerator of its density ratio alone (arXiv 2502.08011)."""

from __future__ import annotations

from safegen.device import Array, array_namespace
from safegen.guard.bank import Bank, flat, log_kernel, logmeanexp, push
from safegen.sampling.loop import Evidence
from safegen.sampling.table import Row


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
