"""What a gate's rate of false alarms promises, and what it catches."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from safegen.errors import UsageError
from safegen.guard.bank import Bank, kernels_at, logmeanexp, logsumexp
from safegen.guard.gate import conformal_rank, fit_gate, thresholds
from safegen.guard.regions import largest

RATE = 0.005
"""Share of ordinary pictures on which the gate may open, where nobody names another."""
CONFIDENCE = 0.95
FEW = 0.2
"""A gate that opens on a smaller share of the negation images lets much of what they show be drawn."""
MANY = 0.03
"""The benign images lack something where more ordinary pictures lie beyond all of them. Measured with all
of nine classes there: at most 0.011; with one to three of them missing 0.017 to 0.33."""
MANY_DRAWN = 0.2
"""The same of pictures that are drawn of nothing. With all classes there at most 0.15, since the model draws
the negated thing, too; so this finds only what is far wrong."""
KIND = 20
"""A word stands for a kind of prompt where so many prompts have it."""


class Kind(NamedTuple):
    """Ordinary pictures whose prompts share a word, or that are of one label."""

    name: str
    share: float
    """Of them, on how many the gate opened though others set it."""
    pictures: int


class GateReport(NamedTuple):
    """What a bundle's gate does, as freeze measured it."""

    rate: float
    """Share of ordinary pictures on which the gate may open."""
    expected: float
    """The share on average over freezes."""
    bound: float
    """The share that 95 of 100 freezes do not pass."""
    caught: float
    """Share of the negation images, as they are, on which it opens."""
    false_alarms: float
    """Share of the ordinary pictures on which a gate opened that the other half of them set."""
    worst: Kind | None
    """The kind of ordinary picture with the highest such share; None where there are no kinds."""
    beyond: float
    """Share of the ordinary pictures that, at some level, look more like the negation images than any
    benign image outside of the bank does."""
    beyond_kind: Kind | None
    """The kind with the highest share of these."""
    drawn: float | None = None
    """The same share of pictures that the engine draws of nothing, where nobody named ordinary prompts or
    labels; None where somebody did."""


def can_tell(pictures: int, rate: float) -> bool:
    """Whether so many ordinary pictures can hold a threshold for the rate (split conformal)."""
    return pictures + 1 >= 1 / rate


def check_rate(pictures: int, rate: float) -> None:
    """Refuse a rate that the ordinary pictures cannot tell.

    Raises:
        UsageError: there are too few of them.
    """
    if not can_tell(pictures, rate):
        raise UsageError(
            f"{pictures} ordinary pictures cannot tell a rate of {rate:g}; give at least"
            f" {math.ceil(1 / rate) - 1}, or ask for {math.ceil(1e4 / (pictures + 1)) / 1e4:g} or more."
        )


def rate_for(pictures: int) -> float:
    """:data:`RATE`, or the lowest rate that so few ordinary pictures can tell."""
    return max(RATE, 1 / (pictures + 1))


def rate_promised(pictures: int, rate: float) -> tuple[float, float]:
    """The false-alarm rate on average over freezes, and its bound in 95 of 100 freezes.

    With the threshold at the k-th highest of n scores the rate is Beta(k, n + 1 - k): of mean k / (n + 1),
    and at most p in a share of freezes that is the chance of k or more successes in n trials of p.
    """
    k = pictures + 1 - conformal_rank(pictures, rate)
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _at_least(k, pictures, middle) >= CONFIDENCE else (middle, high)
    return k / (pictures + 1), high


def _at_least(k: int, n: int, p: float) -> float:
    """The chance of k or more successes in n trials of p."""
    terms = (
        math.lgamma(n + 1)
        - math.lgamma(i + 1)
        - math.lgamma(n - i + 1)
        + i * math.log(p)
        + (n - i) * math.log1p(-p)
        for i in range(k)
    )
    return 1.0 - sum(map(math.exp, terms))


def warnings(gate: GateReport) -> list[str]:
    """What a safety team should know before it signs, one line each."""
    found = []
    if gate.caught < FEW:
        found.append(
            f"the gate opens on {gate.caught:.0%} of the negation images. Unless no two of them have much in"
            " common, what they show will often be drawn; give more of them."
        )
    if gate.beyond > MANY:
        kind = gate.beyond_kind
        named = f", most of all {kind.name!r} ({kind.share:.0%} of {kind.pictures})" if kind else ""
        found.append(
            f"{gate.beyond:.0%} of the ordinary pictures look more like the negation images than any benign"
            f" image does{named}: the benign images lack what people ask for. Give such images, too."
        )
    if gate.drawn is not None and gate.drawn > MANY_DRAWN:
        found.append(
            f"{gate.drawn:.0%} of the pictures that the engine draws of nothing look more like the negation"
            " images than any benign image does: it draws the negated thing so often, or the benign images"
            " lack what it draws. Give --benign-prompts, which tell which."
        )
    return found


def caught_share(
    bank: Bank, rows: NDArray[np.int64], bandwidth: float, threshold: float, rows_per_image: int = 1
) -> float:
    """Share of negation images, as they are, on which the gate opens: each judged by the others.

    Args:
        bank: both banks.
        rows: (K,) which rows of the negation bank are tried.
        bandwidth: of the gate.
        threshold: of clean pictures.
        rows_per_image: of the bank, all named by ``rows`` one after the other.
    """
    unsafe, benign = kernels_at(bank.refs[rows], bank, bandwidth)
    unsafe[np.arange(len(rows)), rows] = -np.inf
    evidence = logsumexp(unsafe) - math.log(len(bank.refs) - 1) - logmeanexp(benign)
    return float((largest(evidence, rows_per_image) > threshold).mean())


def opened_by_others(
    signal: NDArray[np.float64], evidence: NDArray[np.float32], rate: float
) -> NDArray[np.bool_]:
    """On which of P ordinary pictures a gate opens that every other one of them set: (P,).

    Args:
        signal: (F,) levels.
        evidence: (F, P).
        rate: of the gate.
    """
    opened = np.zeros(evidence.shape[1], bool)
    for half in (0, 1):
        gate = fit_gate(signal, evidence[:, half::2])
        limit = thresholds(gate, rate, signal)[:, None]
        opened[1 - half :: 2] = (evidence[:, 1 - half :: 2] > limit).any(axis=0)
    return opened


def worst_kind(subjects: Sequence[str | int], hits: NDArray[np.bool_]) -> Kind | None:
    """The word, or label, whose ordinary pictures are hit most; None where none has :data:`KIND` of them."""
    kinds = [{str(s)} if isinstance(s, int) else _words(s) for s in subjects]
    counts = Counter(word for kind in kinds for word in kind)
    # a word of nearly all prompts is no kind of them
    usable = sorted(word for word, count in counts.items() if KIND <= count <= len(subjects) / 2)
    shares = [
        Kind(word, float(hits[[word in kind for kind in kinds]].mean()), counts[word]) for word in usable
    ]
    return max(shares, key=lambda kind: (kind.share, kind.pictures), default=None)


def _words(prompt: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]{3,}", prompt.lower()))
