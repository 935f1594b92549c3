"""What ``paper`` is calibrated on, in float64. If these fail, its gate stands elsewhere than it says."""

import math

import numpy as np
from formulas import flat, log_mean_exp, two_banks

from safegen.sampling import noise
from safegen_engines.freeze.curves import density_of

SHAPE = (4, 6, 6)


def test_each_image_s_log_beta_is_that_of_the_others_in_the_bank() -> None:
    """Noised to 29 levels by one noise each, 101 quantiles; each image left out of what judges it."""
    bank, rows = two_banks(8, 3), np.array([0, 2, 3, 7])
    found = density_of(bank, bank.refs[rows].reshape(-1, *SHAPE), rows)
    np.testing.assert_allclose(found.log_snr, np.arange(-7, 7.25, 0.5))
    assert found.quantiles.shape == (29, 101)
    z = flat(noise.normal(0, 1, (4, *SHAPE), stream=2))
    for level, quantiles in list(zip(found.log_snr, found.quantiles, strict=True))[::7]:
        alpha, sigma = 1 / math.sqrt(1 + math.exp(-level)), 1 / math.sqrt(1 + math.exp(level))
        log_beta = []
        for i, row in enumerate(rows):
            x = alpha * flat(bank.refs)[row] + sigma * z[i]
            gaps = ((x - alpha * np.delete(flat(bank.refs), row, axis=0)) ** 2).sum(-1)
            log_beta.append(log_mean_exp(-gaps[None] / (2 * sigma**2))[0])
        expected = np.quantile(log_beta, np.arange(101) / 100)
        np.testing.assert_allclose(quantiles, expected, rtol=2e-3)
