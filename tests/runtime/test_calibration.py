"""Thresholds. If these fail, a safety team is promised one rate of false alarms and gets another."""

from itertools import pairwise

import numpy as np
import pytest

from safegen.calibration import LOG_SNR_GRID, Calibration, calibrate, density_curves, thresholds
from safegen.guard import Bank


def make_bank(rng: np.random.Generator, n: int = 60, m: int = 120) -> Bank:
    refs = rng.standard_normal((n, 32)).astype(np.float32) + 1.0
    benign = rng.standard_normal((m, 32)).astype(np.float32)
    return Bank(refs, (refs**2).sum(1), benign, (benign**2).sum(1))


@pytest.fixture(scope="module")
def measured() -> tuple[Bank, Calibration]:
    rng = np.random.default_rng(0)
    bank = make_bank(rng)
    held_out = rng.standard_normal((500, 2, 4, 4)).astype(np.float32)
    rows = np.arange(60)
    return bank, calibrate(bank, held_out, bank.refs.reshape(-1, 2, 4, 4), rows, tau=1.0)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_the_rate_holds_for_pictures_that_were_not_used(measured, rate: float) -> None:
    bank, calibration = measured
    fresh = np.random.default_rng(1).standard_normal((2000, 2, 4, 4)).astype(np.float32)
    again = calibrate(bank, fresh, bank.refs[:2].reshape(-1, 2, 4, 4), np.arange(2), tau=1.0)
    curve = thresholds(calibration, rate, LOG_SNR_GRID).opens
    opened = (again.benign > curve[:, None]).any(axis=0).mean()
    # 500 images know a rate to about 3 sqrt(rate / 500)
    assert opened <= rate + 3 * np.sqrt(rate / 500)
    assert opened >= rate / 4


def test_a_lower_rate_never_lowers_the_threshold(measured) -> None:
    calibration = measured[1]
    curves = [thresholds(calibration, rate, LOG_SNR_GRID) for rate in (0.3, 0.1, 0.03, 0.01, 0.001)]
    assert all((b.opens >= a.opens).all() for a, b in pairwise(curves))
    assert all((c.releases <= c.opens).all() and (c.releases <= 0).all() for c in curves)


@pytest.mark.parametrize("plan", [[-4.0], [-5.4, -1.0], [6.9], [-np.inf, 9.0]])
def test_no_plan_goes_unwatched(measured, plan: list[float]) -> None:
    """A plan of no step that ratio could look at is refused before: tests/engines/test_bare.py."""
    curve = thresholds(measured[1], 0.02, plan).opens
    assert np.isfinite(curve[-1])
    assert not np.isnan(curve).any()


def test_negation_images_stand_above_benign_ones(measured) -> None:
    calibration = measured[1]
    middle = len(LOG_SNR_GRID) // 2
    assert np.median(calibration.negation[middle]) > np.quantile(calibration.benign[middle], 0.9)


def test_a_negation_image_does_not_vouch_for_itself(measured) -> None:
    """Each is left out of the bank that judges it: else its own kernel would drown all others."""
    bank, calibration = measured
    alone = calibrate(bank, np.zeros((2, 2, 4, 4), np.float32), bank.refs.reshape(-1, 2, 4, 4),
                      np.full(60, 59), tau=1.0)  # fmt: skip
    assert np.median(calibration.negation[-1]) < np.median(alone.negation[-1])


def test_curves_between_levels_are_interpolated(measured) -> None:
    calibration = measured[1]
    low, usual = density_curves(calibration, 0.05, LOG_SNR_GRID)
    assert (low <= usual).all()
    between = density_curves(calibration, 0.05, [(LOG_SNR_GRID[3] + LOG_SNR_GRID[4]) / 2])[1]
    assert min(usual[3:5]) <= between[0] <= max(usual[3:5])
