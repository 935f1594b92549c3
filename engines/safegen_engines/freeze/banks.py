"""Both banks of a bundle, and how the gate measures in them: what freeze makes of latents."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from safegen.guard.bandwidth import bandwidth_of
from safegen.guard.bank import Bank, make_bank
from safegen_engines.freeze.axes import gate_axes
from safegen_engines.freeze.lookalikes import Latents, targets_first

JUDGED = 512
"""At most so many negation images, divided by the regions a side, are judged by the others."""


class Banks(NamedTuple):
    """Both banks, and how the gate measures in them."""

    negation: Latents
    """(N P, C, H, W): the P regions of each of N images one after the other; P is 1 for whole pictures."""
    benign: Latents
    """(M, C, H, W), targets first."""
    targets: int
    """How many of ``benign`` may be steered towards."""
    axes: NDArray[np.float16]
    """(K, D) of the gate's metric."""
    bank: Bank
    """The same as the guard reads them."""
    bandwidth: float
    """Of the gate."""
    rows_per_image: int
    """P."""

    def judged(self) -> NDArray[np.int64]:
        """Rows of the negation bank that the others judge: all of some images."""
        parts = self.rows_per_image
        images = len(self.negation) // parts
        some = np.arange(images)[:: max(1, math.ceil(images * math.isqrt(parts) / JUDGED))]
        return (some[:, None] * parts + np.arange(parts)).ravel()


def make_banks(negation: Latents, benign: Latents, rows_per_image: int) -> Banks:
    """Order the benign bank, and choose the gate's axes and bandwidth.

    Args:
        negation: (N P, C, H, W), the regions of an image one after the other.
        benign: (M, C, H, W).
        rows_per_image: P.
    """
    ordered, targets = targets_first(benign, negation)
    axes = gate_axes(negation, ordered)
    bank = make_bank(negation, ordered, targets, axes)
    return Banks(negation, ordered, targets, axes, bank, bandwidth_of(bank), rows_per_image)
