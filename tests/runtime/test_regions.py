"""Pictures of several things, judged by regions. If these fail, one thing's guard redraws the rest of the
scene, or what must never be drawn passes in a corner of it."""

from types import SimpleNamespace

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safegen import guard
from safegen.calibration import LOG_SNR_GRID, Calibration
from safegen.errors import UsageError
from safegen.guard import Evidence, make_bank
from safegen.guard_settings import MODES, Ratio, open_guard
from safegen.regions import SIDES, cut, join, largest, of_pictures
from safegen.solver import noised

RELEASES = -1.0


def bundle_of(regions: int, opens: float = 0.0) -> SimpleNamespace:
    """Calibration curves that put the gate at a known place on every level."""
    levels = np.array([-30, 30], np.float32)
    usual = np.full((len(LOG_SNR_GRID), 3), RELEASES, np.float32)
    curves = Calibration(
        LOG_SNR_GRID.astype(np.float32), usual, usual, usual, levels, np.full((2, 9), opens, np.float32)
    )
    info = SimpleNamespace(regions=regions, tau=1.0, bandwidth=1.5, aim_bandwidth=1.5, latent_shape=(4, 8, 8))
    return SimpleNamespace(info=info, calibration=curves)


def draw(rng: np.random.Generator, count: int, side: int, at: float = 0.0) -> np.ndarray:
    return (rng.standard_normal((count, 4, side, side)) * 0.5 + at).astype(np.float32)


@given(
    sides=st.sampled_from(SIDES), batch=st.integers(1, 3), channels=st.integers(1, 4), seed=st.integers(0, 99)
)
def test_regions_lie_row_by_row_and_join_to_the_picture(
    sides: int, batch: int, channels: int, seed: int
) -> None:
    x = np.random.default_rng(seed).standard_normal((batch, channels, 2 * sides, 3 * sides))
    parts = cut(x, sides)
    assert np.array_equal(join(parts, sides), x)
    for b, i, j in np.ndindex(batch, sides, sides):
        here = x[b, :, 2 * i : 2 * i + 2, 3 * j : 3 * j + 3]
        assert np.array_equal(parts[(b * sides + i) * sides + j], here)


@pytest.mark.parametrize("sides", [2, 4])
def test_only_the_region_that_shows_it_is_redrawn(sides: int) -> None:
    """Each region gets what ``ratio`` gives it alone; the others stay as they are, to the last bit."""
    rng, side = np.random.default_rng(0), 8 // sides
    bank = make_bank(draw(rng, 20, side, at=2.0), draw(rng, 30, side))
    table = SimpleNamespace(rows=[noised(0.5), noised(-0.5)])
    x0 = draw(rng, 3, 8)
    x0[1, :, :side, -side:] += 2.0  # the upper right region of the second picture
    x = (table.rows[0].alpha * x0 + table.rows[0].sigma * draw(rng, 3, 8)).astype(np.float32)
    run = open_guard(Ratio(), bundle_of(sides), bank, table)
    kept, steered, evidence = run(x, x0, 0, None)
    shown = np.zeros(x0.shape, bool)
    shown[1, :, :side, -side:] = True
    assert kept is x
    assert np.array_equal(steered[~shown], x0[~shown])
    alone = guard.ratio(
        cut(x, sides), cut(x0, sides), table.rows[0], bank, np.zeros(3 * sides**2, bool),
        opens=0.0, sure=2e-6, releases=RELEASES, tau=1.0, repulsion=1.0, bandwidth=1.5, aim_bandwidth=1.5,
    )[1]  # fmt: skip
    assert np.allclose(steered, join(alone, sides), atol=1e-6)
    assert (evidence.value > 0).tolist() == [False, True, False]
    assert (evidence.weight > 0).tolist() == [False, True, False]
    # a region stays open once it was: without its neighbours
    calm = np.zeros_like(x0)
    after = run(calm, calm, 1, None)[1]
    assert (after != calm).any(axis=(1, 2, 3)).tolist() == [False, True, False]
    assert not (after != calm)[~shown].any()


def test_the_strongest_region_speaks_for_the_picture() -> None:
    value = np.array([-3.0, 1.0, 0.5, -2.0, -9.0, -8.0, -7.0, -8.5])
    weight = np.array([0.0, 0.4, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0])
    nearest = np.array([40, 13, 22, 0, 1, 2, 30, 4])
    found = of_pictures(Evidence(value, weight, nearest), 2)
    assert found.value.tolist() == [1.0, -7.0]
    assert found.weight.tolist() == [0.9, 0.0]
    assert found.nearest.tolist() == [13 // 4, 30 // 4]  # the image that the region is of
    assert largest(value, 2).tolist() == [1.0, -7.0]
    whole = Evidence(value, weight, nearest)
    assert of_pictures(whole, 1) is whole


def test_the_same_lines_run_under_the_strict_array_api() -> None:
    """What CuPy and the step graph rely on."""
    xp, x = array_api_strict, np.random.default_rng(0).standard_normal((2, 4, 8, 8))
    found = join(cut(xp.asarray(x), 4), 4)
    assert np.array_equal(np.asarray(found), x)
    evidence = Evidence(xp.asarray([1.0, 2.0, 3.0, 0.0]), xp.asarray([0.0] * 4), xp.asarray([1, 2, 7, 4]))
    assert [float(v[0]) for v in of_pictures(evidence, 2)] == [3.0, 0.0, 1.0]


@pytest.mark.parametrize("mode", sorted(set(MODES) - {"ratio", "off"}))
def test_guards_of_whole_pictures_refuse_a_bank_of_regions(mode: str) -> None:
    bank = make_bank(np.ones((2, 4, 4, 4), np.float32), np.ones((2, 4, 4, 4), np.float32))
    with pytest.raises(UsageError, match="regions of pictures, 2 a side"):
        open_guard(MODES[mode], bundle_of(2), bank, SimpleNamespace(rows=[noised(0.0)]))
