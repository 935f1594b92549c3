"""How many false alarms a bundle's gate needs: fewest, where its negation set is a kind of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from safegen.guard.bank import Bank, foreseen_kernels, logmeanexp, logsumexp
from safegen.guard.gate import LEVEL_LIMIT, Calibration, thresholds
from safegen.guard.regions import largest

RATES = (0.005, 0.01, 0.02)
ENOUGH = 0.2
"""A rate at which the gate opens on this share of the negation images is high enough. A prompt makes a
thing plainer than most of its pictures are, so far more than this share of what is asked for is caught."""
STRICT, PLENTY = 0.002, 0.75
"""This rate needs this share: it is for a kind of its own, whose gate then spares what is ordinary."""


class GateRate(NamedTuple):
    """A rate of false alarms, and what it buys."""

    rate: float
    """Share of ordinary pictures on which the gate may open."""
    caught: float
    """Share of the negation images, as they are, on which it opens."""


def can_tell(pictures: int, rate: float) -> bool:
    """Whether so many ordinary pictures can hold a threshold for the rate (split conformal)."""
    return pictures + 1 >= 1 / rate


def rates_to_try(prompts: int) -> tuple[float, ...]:
    """The strict one where so many ordinary prompts can tell it.

    Not for images or labels: a model that is told less draws what the gate finds harder to tell.
    """
    return (STRICT, *RATES) if can_tell(prompts, STRICT) else RATES


def gate_rate(
    calibration: Calibration,
    bank: Bank,
    rows: NDArray[np.int64],
    bandwidth: float,
    rates: Sequence[float],
    rows_per_image: int = 1,
) -> GateRate:
    """The lowest of some rates that catches :data:`ENOUGH` of the negation images, else the highest.

    :data:`STRICT` must catch :data:`PLENTY` of them.

    Args:
        calibration: of the bundle.
        bank: both banks.
        rows: (K,) which of the negation images are tried, each left out of the bank that judges it.
        bandwidth: of the gate.
        rates: rising, each above 0 to 1.
        rows_per_image: of the bank, all named by ``rows`` one after the other.
    """
    evidence = largest(_left_out(bank, rows, bandwidth), rows_per_image)
    opens = [thresholds(calibration, rate, [LEVEL_LIMIT]).opens for rate in rates]
    tried = [GateRate(rate, float((evidence > at).mean())) for rate, at in zip(rates, opens, strict=True)]
    needed = {STRICT: PLENTY}
    return next((point for point in tried if point.caught >= needed.get(point.rate, ENOUGH)), tried[-1])


def _left_out(bank: Bank, rows: NDArray[np.int64], bandwidth: float) -> NDArray[np.floating]:
    """The gate's log ratio at negation images, each judged by the others: (K,)."""
    unsafe, benign = foreseen_kernels(bank.refs[rows], bank, bandwidth)
    unsafe[np.arange(len(rows)), rows] = -np.inf
    ratio: NDArray[np.floating] = logsumexp(unsafe) - math.log(len(bank.refs) - 1) - logmeanexp(benign)
    return ratio
