"""Along which directions the gate counts distances less. If these fail, a gate takes how ordinary pictures
differ among themselves for a sign of what must not be drawn, and stays shut on much of it."""

import numpy as np
import pytest

from safegen.guard.bandwidth import bandwidth_of
from safegen.guard.bank import evidence_at, make_bank
from safegen_engines.freeze.axes import gate_axes, no_axes


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
        shown, rest = (evidence_at(x.astype(np.float32), bank, h) for x in (new, ordinary))
        return float((shown > np.quantile(rest, 0.99)).mean())

    assert caught(gate_axes(negation, benign)) > max(0.9, caught(None) + 0.1)


def test_few_axes_are_kept_and_equal_images_have_none() -> None:
    rng = np.random.default_rng(1)
    many = gate_axes(draw(rng, 300, size=16), draw(rng, 300, size=16))
    assert many.shape == (128, 256)
    same = np.ones((4, 1, 6, 6), np.float16)
    assert (gate_axes(same, same) == 0).all()
    assert np.isfinite(gate_axes(same, same)).all()
    assert gate_axes(same, same).tolist() == no_axes(same).tolist() == [[0.0] * 36]


@pytest.mark.parametrize(("ratio", "kept"), [(1.1e-6, 2), (0.9e-6, 1)])
def test_what_hardly_differs_at_all_is_no_axis(ratio: float, kept: int) -> None:
    """Directions with a millionth of the largest variance are rounding."""
    small = ratio**0.5
    rows = np.array([[1, small], [1, -small], [-1, small], [-1, -small]], np.float16).reshape(4, 1, 1, 2)
    assert len(gate_axes(rows, rows)) == kept


@pytest.mark.parametrize(("count", "asked"), [(2048, 2048), (2049, 1025), (4097, 1366)])
def test_of_large_banks_every_so_many_th_is_asked(count: int, asked: int) -> None:
    """Some thousand latents know which directions matter, and the product of 10,000 takes a minute."""
    rng = np.random.default_rng(0)
    negation, benign = draw(rng, count // 2, size=2), draw(rng, count - count // 2, size=2)
    between = np.arange(count) % -(-count // 2048) != 0  # these differ from what is asked
    negation[between[: len(negation)], 0, 0, 0] *= 3
    benign[between[len(negation) :], 0, 0, 0] *= 3
    rows = np.concatenate([x.reshape(len(x), -1).astype(float) for x in (negation, benign)])
    rows[: len(negation)] -= rows[: len(negation)].mean(axis=0)
    rows[len(negation) :] -= rows[len(negation) :].mean(axis=0)
    some = rows[:: -(-count // 2048)]
    assert len(some) == asked
    covariance = some.T @ some / asked
    inverse = np.linalg.inv(np.eye(4) + covariance * 4 / np.trace(covariance))
    axes = gate_axes(negation, benign).astype(float)
    np.testing.assert_allclose(np.eye(4) - axes.T @ axes, inverse, atol=2e-3)
    wrong = rows.T @ rows / len(rows)
    assert count == asked or np.abs(wrong - covariance).max() > 0.1 * np.abs(covariance).max()


def test_the_least_that_float16_can_say_is_a_difference() -> None:
    least = np.float16(6e-8)
    negation = np.array([[least, 0], [-least, 0]], np.float16).reshape(2, 1, 1, 2)
    assert gate_axes(negation, np.zeros((4, 1, 1, 2), np.float16)).any()
