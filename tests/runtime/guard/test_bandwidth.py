"""How wide the gate's kernels are. If these fail, it takes in what lies between, and is nobody's business."""

import numpy as np
import pytest
from formulas import D, squared, two_banks
from hypothesis import given
from hypothesis import strategies as st

from safegen.guard.bandwidth import bandwidth_of, neighbours
from safegen.guard.bank import Bank
from safegen.guard.bank import make_bank as make_guard_bank


@given(st.integers(0, 1000), st.floats(0.1, 30))
def test_the_bandwidth_is_in_the_units_of_the_bank(seed: int, scale: float) -> None:
    """Latents of another autoencoder are larger or smaller; the gate must not notice."""
    refs = np.random.default_rng(seed).standard_normal((20, 3, 2, 2)).astype(np.float32)
    banks = [make_guard_bank(rows, rows) for rows in (refs, refs * np.float32(scale))]
    assert bandwidth_of(banks[1]) == pytest.approx(scale * bandwidth_of(banks[0]), rel=1e-3)


def bank_of(points: list[float], benign: list[float] = [0.0, 1000.0]) -> Bank:  # noqa: B006
    """Points on a line."""
    rows = (np.array(values, np.float32).reshape(-1, 1, 1, 1) for values in (points, benign))
    return make_guard_bank(*rows)


def test_it_is_a_third_of_the_median_squared_distance_to_the_next_neighbour() -> None:
    """Pairs 1, 2, 3, 4 and 5 apart, and each pair far from the others."""
    pairs = [100.0 * i + d for i in range(5) for d in (0.0, 1.0 + i)]
    assert bandwidth_of(bank_of(pairs)) ** 2 == pytest.approx(3.0**2 / 3, rel=1e-3)


def test_equal_images_have_kernels_of_some_width() -> None:
    assert bandwidth_of(bank_of([1.0] * 4)) == 1e-3
    bank = bank_of([1.0] * 4)
    assert neighbours(bank.refs, bank.refs_sq, 1, 1, np.median) == 1e-6


def test_neighbours_are_counted_from_the_nearest_other_one() -> None:
    bank = bank_of([0.0, 1.0, 3.0, 6.0])
    ordered = {1: [1, 1, 2, 3], 2: [3, 2, 3, 5], 3: [6, 5, 3, 6]}
    for first, last in ((1, 1), (2, 3), (1, 3), (3, 9)):
        expected = [d for k in range(first, min(last, 3) + 1) for d in ordered[k]]
        assert neighbours(bank.refs, bank.refs_sq, first, last, np.mean) == pytest.approx(np.mean(expected))
        squares = np.mean(np.square(expected))
        assert neighbours(bank.refs, bank.refs_sq, first, last, np.mean, power=2) == pytest.approx(squares)
    # more neighbours than there are: the furthest
    assert neighbours(bank.refs, bank.refs_sq, 9, 9, np.mean) == pytest.approx(np.mean(ordered[3]))


def test_of_a_large_bank_every_so_many_th_is_asked() -> None:
    """Half a thousand distances know a median; a bank of 10,000 would take a gigabyte."""
    for count, stride in ((1023, 1), (1024, 2), (1536, 3)):
        bank = bank_of([float(i) for i in range(count)])
        assert neighbours(bank.refs, bank.refs_sq, 0, 0, len) == -(-count // stride)


def test_distances_are_the_gates() -> None:
    """What lies along its axes counts less, and what is left is never below 0."""
    plain, rng = two_banks(), np.random.default_rng(3)
    axes = (0.2 * rng.standard_normal((5, D))).astype(np.float32)
    bank = two_banks(axes=axes)
    apart = np.sort(squared(plain.refs, plain.refs, axes), axis=1)[:, 1:]
    for summary in (np.min, np.median, np.max):
        along = bank.metric.refs, bank.metric.refs_sq
        found = neighbours(bank.refs, bank.refs_sq, 1, 6, summary, power=2, along=along)
        assert found == pytest.approx(summary(apart), rel=1e-3)
    more = two_banks(axes=3 * np.eye(D, dtype=np.float32))
    along = more.metric.refs, more.metric.refs_sq
    assert neighbours(more.refs, more.refs_sq, 1, 6, np.max, power=2, along=along) < 1e-3  # rounding
    nearest = np.median(np.sort(squared(plain.refs, plain.refs, axes), axis=1)[:, 1])
    limit = np.median(np.sort(squared(plain.benign, plain.benign, axes), axis=1)[:, 1])
    assert nearest < limit
    assert bandwidth_of(bank) ** 2 == pytest.approx(nearest / 3, rel=1e-3)
