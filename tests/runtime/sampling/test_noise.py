"""Noise. If it moves, a seed no longer names a picture, and C++ and Python draw different ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safegen.sampling.noise import MAX_SEED, normal, normal_batch, philox

# Random123's known answers for philox4x32-10 (kat_vectors)
KNOWN = [
    ([0] * 4, (0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        (0xA4093822, 0x299F31D0),
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_published_answers(counter, key, expected) -> None:
    assert philox(np.array([counter], np.uint32), key)[0].tolist() == expected


def test_noise_is_what_the_cpp_host_expects() -> None:
    words = philox(np.zeros((1, 4), np.uint32), (0, 0))[0].astype(np.float64)
    radius, angle = np.sqrt(-2 * np.log((words[0] + 1) / 2**32)), 2 * np.pi * words[1] / 2**32
    found = normal(0, 0, (2,))
    assert found.tolist() == pytest.approx([radius * np.cos(angle), radius * np.sin(angle)], rel=1e-6)


@given(seed=st.integers(0, MAX_SEED), others=st.lists(st.integers(0, MAX_SEED), max_size=4))
def test_a_seed_draws_the_same_alone_and_in_any_batch(seed: int, others: list[int]) -> None:
    alone = normal(seed, 3, (4, 2, 2))
    assert (normal_batch([*others, seed], 3, (4, 2, 2))[-1] == alone).all()


def test_it_is_normal_and_its_streams_are_independent() -> None:
    draws = np.stack([normal(7, d, (4, 64, 64), stream=s).ravel() for d in range(3) for s in range(2)])
    assert np.abs(draws.mean(axis=1)).max() < 0.04  # 5 sigma of a mean of 16384
    assert np.abs(draws.std(axis=1) - 1).max() < 0.03
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlation).max() < 0.04
    assert np.isfinite(draws).all()
