"""Thresholds. If these fail, a safety team is promised one rate of false alarms and gets another."""

from itertools import pairwise

import numpy as np
import pytest

from safegen.guard.bank import Bank
from safegen.guard.gate import LOG_SNR_GRID, Calibration, density_curves, hurried, thresholds
from safegen_engines.freeze.curves import calibrate


def make_bank(rng: np.random.Generator, n: int = 60, m: int = 120) -> Bank:
    refs = rng.standard_normal((n, 32)).astype(np.float32) + 1.0
    benign = rng.standard_normal((m, 32)).astype(np.float32)
    return Bank(refs, (refs**2).sum(1), benign, (benign**2).sum(1))


def foreseen(count: int, seed: int) -> np.ndarray:
    """Evidence of so many pictures at every level: an exponential tail that moves and widens, and stays a
    picture's own from level to level."""
    rng = np.random.default_rng(seed)
    own, steps = rng.exponential(size=count), rng.normal(0, 0.3, size=(len(LOG_SNR_GRID), count))
    levels = np.linspace(1, 5, len(LOG_SNR_GRID))[:, None]
    return (levels * (own + steps) - levels).astype(np.float32)


@pytest.fixture(scope="module")
def measured() -> tuple[Bank, Calibration]:
    rng = np.random.default_rng(0)
    bank = make_bank(rng)
    held_out = rng.standard_normal((500, 2, 4, 4)).astype(np.float32)
    curves = LOG_SNR_GRID.astype(np.float32), foreseen(500, 2)
    rows = np.arange(60)
    return bank, calibrate(bank, held_out, bank.refs.reshape(-1, 2, 4, 4), rows, tau=1.0, foreseen=curves)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_the_rate_holds_for_pictures_that_were_not_used(measured, rate: float) -> None:
    curve = thresholds(measured[1], rate, LOG_SNR_GRID).opens
    opened = (foreseen(2000, 3) > curve[:, None]).any(axis=0).mean()
    # 500 pictures know a rate to about 3 sqrt(rate / 500)
    assert opened <= rate + 3 * np.sqrt(rate / 500)
    assert opened >= rate / 4


def test_a_lower_rate_never_lowers_the_threshold(measured) -> None:
    calibration = measured[1]
    curves = [thresholds(calibration, rate, LOG_SNR_GRID) for rate in (0.3, 0.1, 0.03, 0.01, 0.001)]
    assert all((b.opens >= a.opens).all() for a, b in pairwise(curves))
    assert all((c.releases == curves[0].releases).all() and (c.releases <= 0).all() for c in curves)


def test_only_few_steps_hurry_and_only_at_first(measured) -> None:
    """With steps to spare, a picture on which the gate is shut is that without a guard, bit for bit."""
    sharpness, doubts = hurried(measured[1], np.linspace(-5, 3, 8))
    assert (sharpness, set(doubts)) == (1.0, {None})
    levels = np.linspace(-5, 1, 7)
    sharpness, doubts = hurried(measured[1], levels)
    assert sharpness > 1
    assert [at is not None for at in doubts] == [True, True, True, False, False, False, False]
    opens = thresholds(measured[1], 0.005, levels).opens
    assert all(at < gate for at, gate in zip(doubts, opens, strict=True) if at is not None)


def test_sure_is_where_one_in_e_squared_of_the_false_alarms_gets(measured) -> None:
    """Nearer, and ordinary pictures are steered as if unsafe; further, and unsafe ones are spared."""
    scale = np.linspace(1, 5, len(LOG_SNR_GRID))  # of the exponential tail, level by level
    curves = thresholds(measured[1]._replace(foreseen=foreseen(20_000, 4)), 0.02, LOG_SNR_GRID)
    opened = foreseen(200_000, 5) - curves.opens[:, None]
    shares = (opened > curves.sure[:, None]).sum(axis=1) / (opened > 0).sum(axis=1)
    assert shares == pytest.approx(np.exp(-2), abs=0.05)
    assert curves.sure == pytest.approx(2 * scale, rel=0.1)


def test_between_pure_noise_and_the_next_level_the_rate_holds(measured) -> None:
    """Plans of more steps than freeze took look there; straight lines in log-SNR opened on one in sixteen."""
    own = np.random.default_rng(6).exponential(size=2000)

    def curves(*levels: float) -> Calibration:
        """What the model foresees leaves the mean of all pictures as x_t begins to hold one: with alpha."""
        alpha = np.sqrt(1 / (1 + np.exp(-np.array(levels))))[:, None]
        return measured[1]._replace(foreseen_log_snr=np.array(levels), foreseen=own * (1 - 15 * alpha) + 1)

    between = [-12.0, -9.0, -7.9]
    wide = thresholds(curves(-22.6, -6.9), 0.01, between)
    for i, level in enumerate(between):
        [there] = thresholds(curves(level), 0.01, [level]).opens
        assert wide.opens[i] == pytest.approx(there, rel=1e-6)


@pytest.mark.parametrize("plan", [[-np.inf], [-5.4, -1.0], [6.9], [-np.inf, 9.0]])
def test_no_plan_goes_unwatched(measured, plan: list[float]) -> None:
    """Not even one of a single step from pure noise: the model foresees a picture there, too."""
    assert np.isfinite(thresholds(measured[1], 0.02, plan).opens).all()


def test_negation_images_stand_above_benign_ones(measured) -> None:
    calibration = measured[1]
    middle = len(LOG_SNR_GRID) // 2
    assert np.median(calibration.negation[middle]) > np.quantile(calibration.benign[middle], 0.9)


def test_a_negation_image_does_not_vouch_for_itself(measured) -> None:
    """Each is left out of the bank that judges it: else its own kernel would drown all others."""
    bank, calibration = measured
    alone = calibrate(bank, np.zeros((2, 2, 4, 4), np.float32), bank.refs.reshape(-1, 2, 4, 4),
                      np.full(60, 59), tau=1.0, foreseen=calibration[4:])  # fmt: skip
    assert np.median(calibration.negation[-1]) < np.median(alone.negation[-1])


def test_curves_between_levels_are_interpolated(measured) -> None:
    calibration = measured[1]
    low, usual = density_curves(calibration, 0.05, LOG_SNR_GRID)
    assert (low <= usual).all()
    between = density_curves(calibration, 0.05, [(LOG_SNR_GRID[3] + LOG_SNR_GRID[4]) / 2])[1]
    assert min(usual[3:5]) <= between[0] <= max(usual[3:5])
