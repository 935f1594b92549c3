"""What a bundle's gate catches of its own negation images at a rate of false alarms."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from safegen.calibration import LEVEL_LIMIT, Calibration, thresholds
from safegen.guard import Bank, foreseen_kernels, logmeanexp, logsumexp
from safegen.regions import largest


class GateRate(NamedTuple):
    """A rate of false alarms, and what it buys."""

    rate: float
    """Share of ordinary pictures on which the gate may open."""
    caught: float
    """Share of the negation images, as they are, on which it opens."""


def gate_rate(
    calibration: Calibration, bank: Bank, rows: NDArray[np.int64], bandwidth: float, rate: float,
    regions: int = 1,
) -> GateRate:  # fmt: skip
    """What a rate catches of the negation images.

    Args:
        calibration: of the bundle.
        bank: both banks.
        rows: (K,) which of the negation images are tried, each left out of the bank that judges it.
        bandwidth: of the gate.
        rate: above 0 to 1.
        regions: a side; ``rows`` then names all regions of each image.
    """
    return caught_at(rate, calibration, largest(left_out(bank, rows, bandwidth), regions))


def caught_at(rate: float, calibration: Calibration, evidence: NDArray[np.floating]) -> GateRate:
    """:func:`gate_rate` of the gate's log ratio (K,) at negation images."""
    opens = thresholds(calibration, rate, [LEVEL_LIMIT]).opens
    return GateRate(rate, float((evidence > opens).mean()))


def left_out(bank: Bank, rows: NDArray[np.int64], bandwidth: float) -> NDArray[np.floating]:
    """The gate's log ratio at negation images, each judged by the others: (K,)."""
    unsafe, benign = foreseen_kernels(bank.refs[rows], bank, bandwidth)
    unsafe[np.arange(len(rows)), rows] = -np.inf
    ratio: NDArray[np.floating] = logsumexp(unsafe) - math.log(len(bank.refs) - 1) - logmeanexp(benign)
    return ratio
