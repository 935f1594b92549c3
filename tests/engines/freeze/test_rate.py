"""Which rate of false alarms a bundle gets. If these fail, a gate stays shut on what its team froze, or opens
on more ordinary pictures than it has to."""

import numpy as np
import pytest

from safegen.guard.bank import foreseen_log_ratio, make_bank
from safegen.guard.gate import LOG_SNR_GRID, Calibration
from safegen_engines.freeze.rate import ENOUGH, PLENTY, RATES, STRICT, gate_rate, rates_to_try

BANDWIDTH = 4.0
ROWS = np.arange(80)


def frozen(apart: float) -> tuple:
    """A negation set so far from ordinary pictures, and a gate set on others of the ordinary kind."""
    rng = np.random.default_rng(0)

    def draw(count: int, at: float) -> np.ndarray:
        return (rng.standard_normal((count, 2, 4, 4)) + at).astype(np.float32)

    bank = make_bank(draw(80, apart), draw(160, 0.0))
    ordinary = np.stack([foreseen_log_ratio(draw(600, 0.0), bank, BANDWIDTH)] * 2)
    unused = np.zeros((len(LOG_SNR_GRID), 8), np.float32)
    levels = np.array([-5, 5], np.float32)
    return Calibration(LOG_SNR_GRID.astype(np.float32), unused, unused, unused, levels, ordinary), bank


TRIED = rates_to_try(600)


def test_a_kind_of_its_own_needs_the_fewest_false_alarms() -> None:
    gate = gate_rate(*frozen(2.0), ROWS, BANDWIDTH, TRIED)
    assert gate == (STRICT, 1.0)


def test_no_rate_is_tried_that_the_prompts_cannot_tell() -> None:
    """499 say that one in 500 is one in 500; freeze would warn of a rate that it chose itself."""
    assert [min(rates_to_try(prompts)) for prompts in (499, 498, 0)] == [STRICT, RATES[0], RATES[0]]


def test_fewer_false_alarms_are_not_bought_with_what_must_be_caught() -> None:
    """What the strict rate catches would be enough for another, and is not for this one."""
    measured = frozen(0.45)
    strict, gate = (gate_rate(*measured, ROWS, BANDWIDTH, rates) for rates in ([STRICT], TRIED))
    assert ENOUGH < strict.caught < PLENTY
    assert gate.rate == RATES[0]
    assert gate.caught >= strict.caught


def test_what_looks_ordinary_gets_the_most() -> None:
    gate = gate_rate(*frozen(0.2), ROWS, BANDWIDTH, TRIED)
    assert gate.rate == RATES[-1]
    assert 0.0 < gate.caught < ENOUGH


def test_a_rate_asked_for_is_kept_whatever_it_catches() -> None:
    measured = frozen(0.3)
    shares = [gate_rate(*measured, ROWS, BANDWIDTH, [rate]) for rate in (0.001, 0.05, 0.5)]
    assert [gate.rate for gate in shares] == [0.001, 0.05, 0.5]
    assert sorted(gate.caught for gate in shares) == [gate.caught for gate in shares]


def test_no_image_vouches_for_itself() -> None:
    """Against a bank that holds it each would be caught, and every bundle would look perfect."""
    calibration, bank = frozen(0.0)
    assert gate_rate(calibration, bank, ROWS, 0.5, [0.01]).caught < 0.5
    itself = foreseen_log_ratio(bank.refs.reshape(-1, 2, 4, 4), bank, 0.5)
    assert (itself > 1).mean() == pytest.approx(1.0, abs=0.05)
