"""Figures and intervals against scipy. If these fail, a safety team signs figures that are wrong."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from safegen_eval.intervals import bootstrap, difference, share, wilson
from safegen_eval.quality import frechet, precision_recall


def test_frechet_distance_is_that_of_scipy_s_matrix_root() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(300, 20)), rng.normal(0.3, 1.4, size=(250, 20)) @ rng.normal(size=(20, 20))
    root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_two_known_gaussians() -> None:
    """|m|^2 + sum (s_a - s_b)^2 for independent axes, here exact by whitening the samples."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(500, 3))
    z = (z - z.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(z.T))).T
    assert frechet(z, z * [1, 2, 3] + [1, 0, 0]) == pytest.approx(1 + 1 + 4, rel=1e-9)


def test_precision_and_recall_by_hand() -> None:
    real = np.array([[0.0], [1.0], [2.0], [3.0]])
    drawn = np.array([[0.5], [9.0], [10.0], [11.0]])
    # radii of the real ones by 2 neighbours are 2, 1, 1, 2; of the drawn ones 9.5, 2, 1, 2
    assert precision_recall(drawn, real, k=2) == (0.25, 1.0)


@pytest.mark.parametrize(("hits", "count"), [(0, 300), (1, 40), (150, 300), (60, 60)])
def test_wilson_is_scipy_s(hits: int, count: int) -> None:
    theirs = scipy.stats.binomtest(hits, count).proportion_ci(0.95, "wilson")
    # scipy takes 1.959964 where 1.96 is usual
    assert wilson(hits, count) == pytest.approx((theirs.low, theirs.high), abs=1e-4)


def test_nothing_hit_does_not_claim_certainty() -> None:
    measure = share(np.zeros(300, bool))
    assert (measure.value, measure.low, measure.n) == (0.0, 0.0, 300)
    assert 0.01 < measure.high < 0.02


def test_a_bootstrap_is_the_normal_interval_where_that_holds() -> None:
    hits = np.arange(400) < 100
    measure = share(hits)
    half = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    # 1000 resamples know a quantile to about a tenth of the half width
    assert measure.low == pytest.approx(0.25 - half, abs=0.15 * half)
    assert measure.high == pytest.approx(0.25 + half, abs=0.15 * half)


def test_pairs_cancel_what_arms_share() -> None:
    """Two arms that differ on five prompts of 200: their intervals overlap, their pairs do not hide it."""
    one = np.arange(200) % 2 == 0
    other = one.copy()
    other[:9] = False
    gap = difference(other, one)
    assert gap.value == pytest.approx(-5 / 200)
    assert gap.high < 0
    assert share(one).low < share(other).value


def test_resamples_are_the_same_for_every_arm() -> None:
    seen: list[bytes] = []
    for _ in range(2):
        bootstrap(lambda i: float(seen.append(i.tobytes()) or 0), 10, 3)
    assert seen[:3] == seen[3:]
