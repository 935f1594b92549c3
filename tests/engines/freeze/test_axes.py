"""Along which directions the gate counts distances less. If these fail, a gate takes how ordinary pictures
differ among themselves for a sign of what must not be drawn, and stays shut on much of it."""

import numpy as np
import pytest

from safegen.guard.bandwidth import bandwidth_of
from safegen.guard.bank import foreseen_log_ratio, make_bank
from safegen_engines.freeze.axes import MOST, gate_axes


def draw(rng: np.random.Generator, count: int, at: float = 0.0, size: int = 6) -> np.ndarray:
    """Pictures that differ far more among themselves (along one direction) than the two kinds do."""
    x = 0.3 * rng.standard_normal((count, 1, size, size))
    x += 5 * rng.standard_normal((count, 1, 1, 1)) * np.linspace(-1, 1, size)
    x[:, 0, 0, :] += at
    return x.astype(np.float16)


@pytest.mark.parametrize("count", [12, 200])
def test_distances_are_by_the_inverse_of_a_shrunk_covariance(count: int) -> None:
    """Fewer pictures than numbers, and more; float16 keeps three digits of the axes."""
    rng = np.random.default_rng(count)
    negation, benign = draw(rng, count), draw(rng, 2 * count, 1.0)
    rows = np.concatenate(
        [b.reshape(len(b), -1).astype(float) for b in (negation - negation.mean(0), benign - benign.mean(0))]
    )
    covariance = rows.T @ rows / len(rows)
    directions = min(36, len(rows) - 2)
    inverse = np.linalg.inv(np.eye(36) + covariance * directions / np.trace(covariance))
    axes = gate_axes(negation, benign).astype(float)
    np.testing.assert_allclose(np.eye(36) - axes.T @ axes, inverse, atol=5e-3)


def test_what_differs_little_from_the_ordinary_is_told_apart() -> None:
    rng = np.random.default_rng(0)
    negation, benign = draw(rng, 200, 0.6), draw(rng, 400)
    new, ordinary = draw(rng, 300, 0.6), draw(rng, 300)

    def caught(axes: np.ndarray | None) -> float:
        """Of new negation pictures, above all but one in a hundred ordinary ones."""
        bank = make_bank(negation, benign, axes=axes)
        h = bandwidth_of(bank)
        shown, rest = (foreseen_log_ratio(x.astype(np.float32), bank, h) for x in (new, ordinary))
        return float((shown > np.quantile(rest, 0.99)).mean())

    assert caught(gate_axes(negation, benign)) > max(0.9, caught(None) + 0.1)


def test_few_axes_are_kept_and_equal_images_have_none() -> None:
    rng = np.random.default_rng(1)
    many = gate_axes(draw(rng, 300, size=16), draw(rng, 300, size=16))
    assert many.shape == (MOST, 256)
    same = np.ones((4, 1, 6, 6), np.float16)
    assert (gate_axes(same, same) == 0).all()
    assert np.isfinite(gate_axes(same, same)).all()
