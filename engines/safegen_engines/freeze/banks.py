"""Both banks of a bundle and the gate between them: what freeze makes of latents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from safegen.guard.bandwidth import bandwidth_of
from safegen.guard.bank import Bank, make_bank
from safegen.guard.gate import Calibration
from safegen_engines.freeze.axes import gate_axes, no_axes
from safegen_engines.freeze.curves import calibrate
from safegen_engines.freeze.lookalikes import Latents, targets_first
from safegen_engines.freeze.ordinary import Curves
from safegen_engines.freeze.rate import GateRate, gate_rate

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
    """(K, D) of the gate's measure."""
    bank: Bank
    """The same as the guard reads them."""
    bandwidth: float
    """Of the gate."""
    rows_per_image: int
    """P."""

    @property
    def aim_bandwidth(self) -> float:
        """The bandwidth by plain distances, which weigh what is steered towards."""
        return bandwidth_of(self.bank._replace(measure=None))


def make_banks(negation: Latents, benign: Latents, rows_per_image: int, *, text: bool) -> Banks:
    """Order the benign bank, and choose the gate's axes and bandwidth.

    Args:
        negation: (N P, C, H, W), the regions of an image one after the other.
        benign: (M, C, H, W).
        rows_per_image: P.
        text: whether the model reads prompts.
    """
    ordered, targets = targets_first(benign, negation)
    # told nothing, a model without text draws what these axes tell apart less well (docs/tried.md)
    axes = gate_axes(negation, ordered) if text else no_axes(negation)
    bank = make_bank(negation, ordered, axes=axes)
    return Banks(negation, ordered, targets, axes, bank, bandwidth_of(bank), rows_per_image)


def calibrated(banks: Banks, held_out: Latents, foreseen: Curves) -> Calibration:
    """The curves that a bundle keeps.

    Args:
        banks: both.
        held_out: (H, C, H', W') ordinary latents that are not in the benign bank.
        foreseen: the gate's evidence of ordinary pictures, level by level.
    """
    rows = _judged(banks)
    shown = banks.negation[rows].astype(np.float32)
    return calibrate(banks.bank, held_out.astype(np.float32), shown, rows, tau=1.0, foreseen=foreseen)


def rate_of(banks: Banks, calibration: Calibration, rates: Sequence[float]) -> GateRate:
    """Which of some rates the gate needs: :func:`safegen_engines.freeze.rate.gate_rate`."""
    rows = _judged(banks)
    return gate_rate(calibration, banks.bank, rows, banks.bandwidth, rates, banks.rows_per_image)


def _judged(banks: Banks) -> NDArray[np.int64]:
    """Rows of the negation bank that the others judge: all of some images."""
    parts = banks.rows_per_image
    images = len(banks.negation) // parts
    some = np.arange(images)[:: max(1, math.ceil(images * math.isqrt(parts) / JUDGED))]
    return (some[:, None] * parts + np.arange(parts)).ravel()
