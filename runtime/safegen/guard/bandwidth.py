"""How wide a bank's kernels are: from the distances between its own neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from safegen.device import to_host
from safegen.guard.bank import Bank, squared_distances

BANDWIDTH_SHARE = 1 / 3
"""h^2 of the gate's kernels, as a share of the median squared distance between neighbours of the bank."""


def bandwidth_of(bank: Bank) -> float:
    """H of the gate's kernels for a bank, from its own neighbours, so that no scale is assumed."""
    along = bank.metric and (bank.metric.refs, bank.metric.refs_sq)
    nearest = neighbours(bank.refs, bank.refs_sq, 1, 1, np.median, power=2, along=along)
    return max(math.sqrt(BANDWIDTH_SHARE * nearest), 1e-3)


def neighbours(
    refs: Any,
    refs_sq: Any,
    first: int,
    last: int,
    summary: Callable[[Any], Any],
    *,
    power: int = 1,
    along: tuple[Any, Any] | None = None,
) -> float:
    """Summary of d^power between references and their neighbours first..last, over up to 512 of them.

    ``along``, (N, K) and squared norms, are of a :class:`safegen.guard.bank.Metric` where d is the gate's.
    """
    count = refs.shape[0]
    stride, last = max(1, count // 512), min(last, count - 1)
    squared = to_host(squared_distances(refs[::stride, ...], refs, refs_sq))
    if along is not None:
        squared = np.maximum(squared - to_host(squared_distances(along[0][::stride, ...], *along)), 0)
    nearest = np.sort(squared, axis=1)[:, min(first, last) : last + 1]
    return max(float(summary(nearest ** (power / 2))), 1e-6)
