"""Both banks as a gate reads them. If these fail, thresholds are of another gate than the one that draws."""

import numpy as np
import pytest

from safegen.guard.bandwidth import bandwidth_of
from safegen.guard.bank import make_bank
from safegen_engines.freeze.axes import gate_axes
from safegen_engines.freeze.banks import Banks, make_banks
from safegen_engines.freeze.lookalikes import targets_first


def draw(count: int, side: int = 2) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 4, side, side)).astype(np.float16)


def test_banks_have_their_axes_their_targets_and_kernels_as_wide_as_their_distances() -> None:
    negation, benign = draw(20), draw(40)
    banks = make_banks(negation, benign, 1)
    ordered, targets = targets_first(benign, negation)
    np.testing.assert_array_equal(banks.benign, ordered)
    assert (banks.targets, targets, banks.rows_per_image) == (36, 36, 1)
    axes = gate_axes(negation, ordered)
    np.testing.assert_array_equal(banks.axes, axes)
    expected = make_bank(negation, ordered, targets, axes)
    for ours, theirs in zip(banks.bank[:5], expected[:5], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert banks.bandwidth == bandwidth_of(expected)
    assert banks.bandwidth < 0.9 * bandwidth_of(expected._replace(metric=None))


@pytest.mark.parametrize(
    ("images", "parts", "stride"),
    [(5, 1, 1), (512, 1, 1), (513, 1, 2), (1025, 1, 3), (256, 4, 1), (257, 4, 2), (129, 16, 2)],
)
def test_of_many_images_every_so_many_th_is_judged_by_the_others(
    images: int, parts: int, stride: int
) -> None:
    """At most 512 rows at once of whole pictures; of regions all of an image."""
    negation = np.zeros((images * parts, 1, 1, 1), np.float16)
    banks = Banks(negation, negation, 1, negation, None, 1.0, parts)
    rows = banks.judged().reshape(-1, parts)
    assert (rows[:, 0] // parts).tolist() == list(range(0, images, stride))
    assert (rows - rows[:, :1]).tolist() == [list(range(parts))] * len(rows)
