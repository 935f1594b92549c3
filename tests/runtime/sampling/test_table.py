"""A row of the plan. If these fail, guards take a step for noisier, or less noisy, than it is."""

import math

import pytest

from safegen.sampling.table import Row, noised


def row_of(alpha: float, sigma: float) -> Row:
    return Row(500.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, alpha, sigma)


@pytest.mark.parametrize(("alpha", "sigma"), [(0.6, 0.8), (0.3, 0.7), (1.0, 14.6), (1.0, 0.02)])
def test_what_a_row_says_of_its_noise(alpha: float, sigma: float) -> None:
    """Also where alpha^2 + sigma^2 is not 1: rectified flow, and noise that explodes."""
    row = row_of(alpha, sigma)
    assert row.log_snr == pytest.approx(math.log(alpha**2 / sigma**2))
    assert row.signal == pytest.approx(alpha / math.sqrt(alpha**2 + sigma**2))
    assert row.spread == pytest.approx(2 * sigma**2)
    assert row.kernel() == pytest.approx((alpha / sigma**2, alpha**2 / (2 * sigma**2)))
    assert row.early == (1.0 if row.log_snr < 0 else 0.0)


def test_early_ends_where_noise_and_picture_are_as_strong() -> None:
    assert [row_of(a, 0.5).early for a in (0.0, 0.499, 0.5, 0.501)] == [1.0, 1.0, 0.0, 0.0]


def test_pure_noise_has_no_log_snr_and_no_signal() -> None:
    row = row_of(0.0, 1.0)
    assert (row.log_snr, row.signal, row.kernel()) == (-math.inf, 0.0, (0.0, 0.0))


@pytest.mark.parametrize("log_snr", [-9.0, -0.5, 0.0, 4.0])
def test_noised_rows_preserve_variance(log_snr: float) -> None:
    row = noised(log_snr)
    assert row.log_snr == pytest.approx(log_snr, abs=1e-9)
    assert row.alpha**2 + row.sigma**2 == pytest.approx(1.0)
