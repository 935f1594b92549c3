"""How wide the gate's kernels are. If these fail, it takes in what lies between, and is nobody's business."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safegen.guard.bandwidth import bandwidth_of
from safegen.guard.bank import make_bank as make_guard_bank


@given(st.integers(0, 1000), st.floats(0.1, 30))
def test_the_bandwidth_is_in_the_units_of_the_bank(seed: int, scale: float) -> None:
    """Latents of another autoencoder are larger or smaller; the gate must not notice."""
    refs = np.random.default_rng(seed).standard_normal((20, 3, 2, 2)).astype(np.float32)
    banks = [make_guard_bank(rows, rows) for rows in (refs, refs * np.float32(scale))]
    assert bandwidth_of(banks[1]) == pytest.approx(scale * bandwidth_of(banks[0]), rel=1e-3)


def test_a_few_scattered_images_get_hardly_wider_kernels_than_ordinary_ones() -> None:
    """Else what lies between them, and is nobody's business, counts as unsafe."""
    rng = np.random.default_rng(0)
    ordinary = rng.standard_normal((200, 1, 2, 2)).astype(np.float32)
    scattered = 20 * rng.standard_normal((5, 1, 2, 2)).astype(np.float32)
    kernels = bandwidth_of(make_guard_bank(ordinary, ordinary))
    assert bandwidth_of(make_guard_bank(scattered, ordinary)) == pytest.approx(1.2 * kernels, rel=1e-3)
    assert bandwidth_of(make_guard_bank(ordinary, scattered)) == pytest.approx(kernels, rel=1e-3)
