"""Figures with their intervals: bootstrap over pictures, Wilson's where every outcome is the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
INTERVAL = (0.025, 0.975)
"""Quantiles."""


class Measure(NamedTuple):
    """One figure."""

    value: float
    low: float
    high: float
    """The 95 % interval."""
    n: int
    """Of how many pictures."""


def share(hits: NDArray[Any]) -> Measure:
    """A share of yes among (N,) outcomes.

    All alike, a bootstrap would claim certainty from any N; Wilson's interval does not.
    """
    count, value = len(hits), float(np.mean(hits))
    if value in (0.0, 1.0):
        return Measure(value, *wilson(round(value * count), count), count)
    return Measure(value, *bootstrap(lambda index: float(np.mean(hits[index])), count), count)


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float], count: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The 2.5 and 97.5 % quantiles of a statistic's :func:`resample`."""
    low, high = np.quantile(resample(statistic, count, resamples), INTERVAL)
    return float(low), float(high)


def resample(
    statistic: Callable[[NDArray[np.int64]], float], count: int, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """A statistic over ``count`` indices drawn with replacement, (resamples,), same draws each time.

    The same draws for every arm keep what they share, prompts and seeds, in step.
    """
    rng = np.random.default_rng(0)
    return np.array([statistic(rng.integers(count, size=count)) for _ in range(resamples)])


def difference(hits: NDArray[Any], others: NDArray[Any]) -> Measure:
    """Mean of hits minus others, (N,) each, of the same prompts and seeds: pairs are drawn together."""
    gap = hits.astype(float) - others.astype(float)
    return Measure(float(gap.mean()), *bootstrap(lambda i: float(gap[i].mean()), len(gap)), len(gap))


def wilson(successes: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z, p = 1.96, successes / count
    middle = (p + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(p * (1 - p) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return max(0.0, middle - half), min(1.0, middle + half)
