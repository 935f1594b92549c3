"""Where the gate of ``ratio`` stands: thresholds for any plan and any rate, from what freeze stored.

Freeze looks at what the model foresees of ordinary pictures, level by level. A bundle keeps what a
threshold needs of that: where the evidence lies at each level, and how far out each ordinary picture came.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

HIGH = 0.9
"""Scores count from this quantile of the evidence of ordinary pictures."""


class Gate(NamedTuple):
    """The calibrated gate of a bundle; F levels, P ordinary pictures."""

    signal: Array
    """(F,) rising: the levels, alpha of x_t = alpha x0 + sigma n with alpha^2 + sigma^2 = 1."""
    location: Array
    """(F,) the 0.9-quantile of the evidence of ordinary pictures."""
    scores: Array
    """(P,) rising: how far above the location each ordinary picture came, at its highest level."""


def fit_gate(signal: Any, evidence: Any) -> Gate:
    """A gate from the evidence of ordinary pictures.

    Args:
        signal: (F,) rising levels.
        evidence: (F, P).
    """
    evidence = np.asarray(evidence, np.float64)
    location = np.quantile(evidence, HIGH, axis=1)
    scores = np.sort((evidence - location[:, None]).max(axis=0))
    return Gate(*(np.asarray(values, np.float64) for values in (signal, location, scores)))


def conformal_rank(count: int, rate: float) -> int:
    """Which of so many rising scores, from 1 on, is the threshold of a rate: ceil((P + 1)(1 - rate)).

    The next ordinary picture then passes it with probability at most ``rate`` (split conformal
    prediction). Fewer than 1 / rate - 1 pictures cannot tell the rate; the highest score then stands in.
    """
    # rounded first: (P + 1)(1 - rate) may be a hair above a whole number
    return min(max(math.ceil(round((count + 1) * (1 - rate), 9)), 1), count)


def thresholds(gate: Gate, rate: float, signal: Any) -> Array:
    """The gate opens where the evidence at x0 is above: one threshold for each level of a plan.

    Args:
        gate: of the bundle.
        rate: share of ordinary pictures that may pass at any level.
        signal: (S,) levels. Between two of the gate's the threshold is linear in alpha: what the model
            foresees changes as x_t begins to hold the picture.
    """
    score = gate.scores[conformal_rank(len(gate.scores), rate) - 1]
    return np.asarray(np.interp(signal, gate.signal, gate.location + score))


class Density(NamedTuple):
    """What the guard ``paper`` needs: log beta, the numerator alone, of the negation images themselves."""

    log_snr: Array
    """(L,) rising."""
    quantiles: Array
    """(L, Q) of log beta at Q shares from 0 to 1, evenly apart."""


def density_curves(density: Density, quantile: float, log_snr: Any) -> tuple[Array, Array]:
    """(threshold, usual) of log beta at each log-SNR: a quantile and the median of negation images."""
    shares = np.linspace(0, 1, density.quantiles.shape[1])
    low, middle = (
        np.array([np.interp(share, shares, row) for row in density.quantiles]) for share in (quantile, 0.5)
    )
    return np.interp(log_snr, density.log_snr, low), np.interp(log_snr, density.log_snr, middle)
