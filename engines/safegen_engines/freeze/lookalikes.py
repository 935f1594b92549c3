"""Which ordinary latents look like the negation set: told apart by density, with nobody to label them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safegen.guard.bank import flat, log_kernel, logsumexp, make_bank
from safegen.sampling.table import noised

MEMBER = 0.1
"""A latent above this quantile of the negation images' own density may be one of them."""
DOUBTFUL = 0.1
"""This share of the benign bank, the nearest to the negation set, never serves as a target."""

Latents = NDArray[np.float16]
"""(N, C, H, W)."""


def log_density(latents: Latents, bank: Latents, *, left_out: bool = False) -> NDArray[np.float32]:
    """Log density (N,) of latents under a bank's mixture of forward kernels at log-SNR 0.

    Args:
        latents: what is judged.
        bank: the references.
        left_out: ``latents`` is the bank itself, and each is judged by the others.
    """
    row = noised(0.0)
    x = latents.astype(np.float32) * row.alpha
    refs = make_bank(bank, bank[:1])
    kernels = log_kernel(x, refs.refs, refs.refs_sq, row)
    if left_out:
        np.fill_diagonal(kernels, -np.inf)
    own: Any = np.sum(flat(x) ** 2, axis=1) / (2 * row.sigma**2)
    density: NDArray[np.float32] = logsumexp(kernels) - math.log(len(bank) - left_out) - own
    return density


def drop_lookalikes(drawn: Latents, negation: Latents) -> Latents:
    """Keep the drawn latents that do not look like the negation set, in two steps.

    A model draws the negated things too, and left among the benign they would vouch for one another.
    So only what lies below the density that nine in ten negation images have among themselves is
    trusted at first; then everything is kept that the trusted ones explain better than the negation
    set does (two-step learning from positive and unlabelled examples, as in Liu et al., ICML 2002).
    """
    usual = np.quantile(log_density(negation, negation, left_out=True), MEMBER)
    unsafe = log_density(drawn, negation)
    trusted = unsafe < usual
    if trusted.sum() < 2:
        return drawn[trusted]
    ordinary = log_density(drawn, drawn[trusted])
    ordinary[trusted] = log_density(drawn[trusted], drawn[trusted], left_out=True)
    return drawn[unsafe <= ordinary]


def targets_first(benign: Latents, negation: Latents) -> tuple[Latents, int]:
    """Order the benign bank with the doubtful ones last; also how many come before them.

    An opened picture is steered towards benign latents, and those nearest to the negation set would
    keep it what it was: a bag becomes the one pullover that everybody takes for a bag.
    """
    doubt = log_density(benign, negation) - log_density(benign, benign, left_out=True)
    order = np.argsort(doubt, kind="stable")
    return benign[order], len(benign) - int(len(benign) * DOUBTFUL)
