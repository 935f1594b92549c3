"""Thresholds. If these fail, a safety team is promised one rate of false alarms and gets another."""

from fractions import Fraction
from itertools import pairwise
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safegen.guard.gate import Density, Gate, conformal_rank, density_curves, fit_gate, thresholds

LEVELS = np.array([0.0, 0.1, 0.3, 0.7, 0.95])


def evidence(count: int, seed: int) -> np.ndarray:
    """Evidence of so many pictures at every level: an exponential tail that moves and widens, and stays a
    picture's own from level to level."""
    rng = np.random.default_rng(seed)
    own, steps = rng.exponential(size=count), rng.normal(0, 0.3, size=(len(LEVELS), count))
    levels = np.linspace(1, 5, len(LEVELS))[:, None]
    return levels * (own + steps) - levels


def test_a_threshold_is_the_location_and_a_score_by_conformal_rank() -> None:
    """Written out: the 0.9-quantile of each level, and how far above it each picture came at its highest."""
    seen = evidence(39, 0)
    location = np.array([np.quantile(row, 0.9) for row in seen])
    scores = sorted(max(seen[f, p] - location[f] for f in range(len(LEVELS))) for p in range(39))
    gate = fit_gate(LEVELS, seen)
    np.testing.assert_allclose(gate.location, location, rtol=1e-12)
    np.testing.assert_allclose(gate.scores, scores, rtol=1e-12)
    assert (gate.signal == LEVELS).all()
    assert {values.dtype for values in gate} == {np.dtype(np.float64)}
    for rate, rank in ((0.025, 39), (0.05, 38), (0.1, 36), (0.5, 20)):
        np.testing.assert_allclose(thresholds(gate, rate, LEVELS), location + scores[rank - 1], rtol=1e-12)


@given(st.integers(1, 3000), st.integers(1, 999))
def test_the_rank_is_that_of_split_conformal_prediction(count: int, thousandths: int) -> None:
    """ceil((P + 1)(1 - rate)) exactly, also where (P + 1)(1 - rate) is whole; floats are a hair above."""
    exact = ceil((count + 1) * (1 - Fraction(thousandths, 1000)))
    assert conformal_rank(count, thousandths / 1000) == min(exact, count)


@pytest.mark.parametrize(
    ("count", "rate", "rank"),
    [
        (199, 0.005, 199),
        (399, 0.005, 398),
        (9, 0.3, 7),
        (99, 0.07, 93),
        (10, 0.005, 10),
        (10, 1.0, 1),
        (1, 0.5, 1),
    ],
)
def test_ranks_by_hand(count: int, rate: float, rank: int) -> None:
    assert conformal_rank(count, rate) == rank


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_the_rate_holds_for_pictures_that_were_not_used(rate: float) -> None:
    curve = thresholds(fit_gate(LEVELS, evidence(500, 2)), rate, LEVELS)
    opened = (evidence(2000, 3) > curve[:, None]).any(axis=0).mean()
    # 500 pictures know a rate to about 3 sqrt(rate / 500)
    assert rate / 4 <= opened <= rate + 3 * np.sqrt(rate / 500)


def test_over_many_freezes_the_rate_is_at_most_what_was_asked_for() -> None:
    """k / (P + 1) on average: 2 / 40 here."""
    opened = []
    for seed in range(400):
        curve = thresholds(fit_gate(LEVELS, evidence(39, seed)), 0.05, LEVELS)
        opened.append((evidence(200, 10_000 + seed) > curve[:, None]).any(axis=0).mean())
    # the mean of 400 is known to 0.002; locations that the same pictures set cost a little
    assert 0.03 < np.mean(opened) < 0.065


def test_a_lower_rate_never_lowers_the_threshold() -> None:
    gate = fit_gate(LEVELS, evidence(500, 2))
    curves = [thresholds(gate, rate, LEVELS) for rate in (0.3, 0.1, 0.03, 0.01, 0.001)]
    assert all((b >= a).all() for a, b in pairwise(curves))
    assert all((b > a).any() for a, b in pairwise(curves[:4]))


def test_between_levels_the_threshold_is_linear_in_alpha_and_beyond_them_constant() -> None:
    """What the model foresees leaves the mean of all pictures as x_t begins to hold one: with alpha."""
    gate = Gate(np.array([0.2, 0.6]), np.array([3.0, 7.0]), np.array([-1.0, 0.0, 2.0]))
    found = thresholds(gate, 0.25, [0.0, 0.2, 0.3, 0.5, 0.6, 1.0])
    np.testing.assert_allclose(found, [5.0, 5.0, 6.0, 8.0, 9.0, 9.0])
    np.testing.assert_allclose(thresholds(gate, 0.75, [0.4]), [4.0])


def test_a_gate_of_a_line_is_met_between_its_levels() -> None:
    """Plans of more steps than freeze took look there; straight lines in log-SNR opened on one in sixteen."""
    own = np.random.default_rng(6).exponential(size=2000)

    def gate(levels: np.ndarray) -> Gate:
        return fit_gate(levels, own * (1 - 0.5 * levels[:, None]) - 15 * levels[:, None])

    wide = gate(np.array([0.001, 0.03]))
    between = [0.003, 0.01, 0.02]
    at_levels = gate(np.array([0.001, *between, 0.03]))
    for i, level in enumerate(between):
        assert thresholds(wide, 0.01, [level])[0] == pytest.approx(
            thresholds(at_levels, 0.01, [level])[0], abs=0.02
        ), i


def test_log_beta_of_paper_is_read_between_levels_and_shares() -> None:
    density = Density(
        np.array([-2.0, 2.0]), np.array([[0.0, 4.0, 8.0, 10.0, 12.0], [1.0, 2.0, 3.0, 8.0, 9.0]])
    )
    low, usual = density_curves(density, 0.125, [-9.0, -2.0, 0.0, 2.0, 9.0])
    np.testing.assert_allclose(low, [2.0, 2.0, 1.75, 1.5, 1.5])
    np.testing.assert_allclose(usual, [8.0, 8.0, 5.5, 3.0, 3.0])
    ends = [density_curves(density, share, [-2.0])[0][0] for share in (0.0, 1.0)]
    assert ends == [0.0, 12.0]
