"""Pictures of several things, judged by regions. If these fail, one thing's guard redraws the rest of the
scene, or what must never be drawn passes in a corner of it."""

from types import SimpleNamespace
from unittest.mock import patch

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safegen.engine.bind import open_guard
from safegen.errors import UsageError
from safegen.guard import regions
from safegen.guard.bank import make_bank
from safegen.guard.gate import Gate
from safegen.guard.ratio import Numbers, ratio, ratio_by_regions
from safegen.guard.regions import (
    SIDES,
    Regions,
    at_random,
    cut,
    join,
    largest,
    of_pictures,
    steered,
    strongest,
)
from safegen.guard.settings import MODES, Ratio
from safegen.sampling.loop import Evidence
from safegen.sampling.table import noised


def bundle_of(regions: int, threshold: float = 0.0, *, anywhere: bool = False) -> SimpleNamespace:
    """A bundle whose gate is at a known place on every level."""
    info = SimpleNamespace(
        regions=regions, layout=Regions(regions, anywhere), bandwidth=1.5, latent_shape=(4, 8, 8)
    )
    return SimpleNamespace(info=info, gate=Gate(np.ones(1), np.array([threshold]), np.zeros(9)))


def draw(rng: np.random.Generator, count: int, side: int, at: float = 0.0) -> np.ndarray:
    return (rng.standard_normal((count, 4, side, side)) * 0.5 + at).astype(np.float32)


@given(
    sides=st.sampled_from(SIDES), batch=st.integers(1, 3), channels=st.integers(1, 4), seed=st.integers(0, 99)
)
def test_regions_lie_row_by_row_and_join_to_the_picture(
    sides: int, batch: int, channels: int, seed: int
) -> None:
    x = np.random.default_rng(seed).standard_normal((batch, channels, 2 * sides, 3 * sides))
    parts = cut(x, Regions(sides))
    assert np.array_equal(join(parts, sides), x)
    for b, i, j in np.ndindex(batch, sides, sides):
        here = x[b, :, 2 * i : 2 * i + 2, 3 * j : 3 * j + 3]
        assert np.array_equal(parts[(b * sides + i) * sides + j], here)


@pytest.mark.parametrize("sides", [2, 4])
def test_only_the_region_that_shows_it_is_redrawn(sides: int) -> None:
    """Each region gets what ``ratio`` gives it alone; the others stay as they are, to the last bit."""
    rng, side = np.random.default_rng(0), 8 // sides
    bank = make_bank(draw(rng, 20, side, at=2.0), draw(rng, 30, side))
    table = SimpleNamespace(rows=[noised(-0.5), noised(-0.3)])
    x0 = draw(rng, 3, 8)
    x0[1, :, :side, -side:] += 2.0  # the upper right region of the second picture
    x = (table.rows[0].alpha * x0 + table.rows[0].sigma * draw(rng, 3, 8)).astype(np.float32)
    run = open_guard(Ratio(), bundle_of(sides), bank, table)
    kept, steered, evidence, latched = run(x, x0, 0, run.start(x, [0, 1, 2]))
    shown = np.zeros(x0.shape, bool)
    shown[1, :, :side, -side:] = True
    assert kept is x
    assert np.array_equal(steered[~shown], x0[~shown])
    alone = ratio(
        cut(x, Regions(sides)), cut(x0, Regions(sides)), table.rows[0], bank, np.zeros(3 * sides**2, bool),
        Numbers(0.0, 1.5, 1.0),
    )[1]  # fmt: skip
    assert np.allclose(steered, join(alone, sides), atol=1e-6)
    assert (evidence.value > 0).tolist() == [False, True, False]
    assert (evidence.weight > 0).tolist() == [False, True, False]
    # a region stays open once it was: without its neighbours
    calm = np.zeros_like(x0)
    after = run(calm, calm, 1, latched)[1]
    assert (after != calm).any(axis=(1, 2, 3)).tolist() == [False, True, False]
    assert not (after != calm)[~shown].any()


def test_the_strongest_region_speaks_for_the_picture() -> None:
    value = np.array([-3.0, 1.0, 0.5, -2.0, -9.0, -8.0, -7.0, -8.5])
    weight = np.array([0.0, 0.4, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0])
    nearest = np.array([40, 13, 22, 0, 1, 2, 30, 4])
    found = of_pictures(Evidence(value, weight, nearest), 4, 4)
    assert found.value.tolist() == [1.0, -7.0]
    assert found.weight.tolist() == [0.9, 0.0]
    assert found.nearest.tolist() == [13 // 4, 30 // 4]  # the image that the region is of
    assert largest(value, 4).tolist() == [1.0, -7.0]
    whole = Evidence(value, weight, nearest)
    assert of_pictures(whole, 1, 1) is whole


def test_the_same_lines_run_under_the_strict_array_api() -> None:
    """What CuPy and the step graph rely on."""
    xp, x = array_api_strict, np.random.default_rng(0).standard_normal((2, 4, 8, 8))
    found = join(cut(xp.asarray(x), Regions(4)), 4)
    assert np.array_equal(np.asarray(found), x)
    evidence = Evidence(xp.asarray([1.0, 2.0, 3.0, 0.0]), xp.asarray([0.0] * 4), xp.asarray([1, 2, 7, 4]))
    assert [float(v[0]) for v in of_pictures(evidence, 4, 4)] == [3.0, 0.0, 1.0]


@pytest.mark.parametrize("mode", sorted(set(MODES) - {"ratio", "off"}))
def test_guards_of_whole_pictures_refuse_a_bank_of_regions(mode: str) -> None:
    bank = make_bank(np.ones((2, 4, 4, 4), np.float32), np.ones((2, 4, 4, 4), np.float32))
    with pytest.raises(UsageError, match="regions of pictures, 2 a side"):
        open_guard(MODES[mode], bundle_of(2), bank, SimpleNamespace(rows=[noised(0.0)]))


@pytest.mark.parametrize(
    ("length", "sides", "count"),
    [(4, 4, 4), (8, 4, 7), (64, 2, 33), (100, 2, 51), (128, 2, 33), (132, 2, 34), (192, 2, 33),
     (260, 4, 196), (512, 4, 97)],
)  # fmt: skip
def test_the_cpp_host_lays_regions_out_alike(length: int, sides: int, count: int) -> None:
    """The same table is in cpp/tests/test_files.cpp: else the host refuses, or misreads, large pictures."""
    assert Regions(sides, anywhere=True).along(length).count == count


def covering(x: np.ndarray, regions: Regions) -> list[list[np.ndarray]]:
    """The regions of each picture by slicing, row by row."""
    down, across = (regions.along(length) for length in x.shape[2:])
    return [
        [
            one[:, i * down.step : i * down.step + down.side, j * across.step : j * across.step + across.side]
            for i, j in np.ndindex(down.count, across.count)
        ]
        for one in x
    ]


@given(
    sides=st.sampled_from(SIDES[1:]), height=st.integers(1, 12), width=st.integers(1, 12),
    channels=st.integers(1, 3), seed=st.integers(0, 99), steps=st.sampled_from([2, 3, 32]),
)  # fmt: skip
def test_overlapping_regions_are_slices_and_the_strongest_comes_back(
    sides: int, height: int, width: int, channels: int, seed: int, steps: int
) -> None:
    """Against plain slicing, for pictures of any shape: each latent is the strongest covering region's.

    With fewer steps a region, as large pictures have them a latent or more apart.
    """
    with patch.object(regions, "STEPS", steps):
        check_overlapping(sides, height, width, channels, seed)


def check_overlapping(sides: int, height: int, width: int, channels: int, seed: int) -> None:
    regions, rng = Regions(sides, anywhere=True), np.random.default_rng(seed)
    x = rng.standard_normal((2, channels, sides * height, sides * width)).astype(np.float32)
    slices, count = covering(x, regions), regions.count(x.shape)
    parts = cut(x, regions)
    assert np.array_equal(parts, np.stack([part for one in slices for part in one]))
    first, last = regions.along(sides * height), regions.along(sides * width)
    assert (first.count - 1) * first.step + first.side == sides * height  # the edges are looked at, too
    strength = rng.permutation(2 * count).astype(np.float32) - count
    wanted, best = np.empty_like(x), np.full(x.shape, -np.inf)
    moved = rng.standard_normal(parts.shape).astype(np.float32)
    for b, i, j in np.ndindex(2, first.count, last.count):
        k = (b * first.count + i) * last.count + j
        here = (
            b, slice(None), slice(i * first.step, i * first.step + first.side),
            slice(j * last.step, j * last.step + last.side),
        )  # fmt: skip
        wanted[here] = np.where(best[here] < strength[k], moved[k], wanted[here])
        best[here] = np.maximum(best[here], strength[k])
    assert np.allclose(strongest(moved, strength, regions), wanted, atol=1e-6)


@pytest.mark.parametrize("place", [(0, 0), (3, 1), (4, 4), (1, 4)])
def test_a_thing_is_redrawn_wherever_it_lies(place: tuple[int, int]) -> None:
    """By regions that do not overlap it is missed between them."""
    rng, (i, j) = np.random.default_rng(0), place
    thing = draw(rng, 1, 4, at=2.0)
    bank = make_bank(thing + draw(rng, 20, 4) * 0.2, draw(rng, 60, 4))
    table = SimpleNamespace(rows=[noised(-0.5), noised(-0.3)])
    x0 = draw(rng, 2, 8)
    x0[1, :, i : i + 4, j : j + 4] = thing[0]
    x = (table.rows[0].alpha * x0 + table.rows[0].sigma * draw(rng, 2, 8)).astype(np.float32)
    run = open_guard(Ratio(), bundle_of(2, 6.0, anywhere=True), bank, table)
    kept, redrawn, evidence, _ = run(x, x0, 0, run.start(x, [0, 1]))
    assert kept is x
    assert (evidence.value > 0).tolist() == [False, True]
    assert np.array_equal(redrawn[0], x0[0])  # to the last bit
    there = redrawn[1, :, i : i + 4, j : j + 4]
    assert np.square(there - thing[0]).mean() > 1.0
    assert evidence.nearest[1] < 20  # an image, not a region of one


@pytest.mark.parametrize("log_snr", [-0.5, 0.5])
@pytest.mark.parametrize("threshold", [-50.0, -1.0, 0.5, 50.0])
def test_regions_that_stay_shut_are_spared_work_and_nothing_else(threshold: float, log_snr: float) -> None:
    """All, some and none open, some opened before: as if the guard had looked at every region."""
    rng, layout, row = np.random.default_rng(2), Regions(2, anywhere=True), noised(log_snr)
    bank = make_bank(draw(rng, 20, 4, at=0.3), draw(rng, 60, 4))
    x, x0, plain = (draw(rng, 3, 8, at=0.15) for _ in range(3))
    latched = rng.random(3 * layout.count(x.shape)) > 0.9
    numbers = Numbers(threshold, 1.5, 1.0)
    found, evidence = ratio_by_regions(x, x0, row, bank, latched, numbers, layout, plain)
    parts = cut(x0, layout)
    _, moved, every = ratio(cut(x, layout), parts, row, bank, latched, numbers, cut(plain, layout))
    for ours, theirs in zip(evidence, every, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found, steered(x0, parts, moved, every, layout), rtol=1e-5, atol=1e-5)
    assert ((evidence.value > 0) | latched).any()
    assert (found != x0).any() == (evidence.weight > 0).any()
    acts = (evidence.value > 0) | (latched & (log_snr < 0))
    assert ((evidence.weight > 0) == acts).all()
    shut, none = Numbers(1e3, 1.5, 1.0), np.zeros_like(latched)
    assert ratio_by_regions(x, x0, row, bank, none, shut, layout, plain)[0] is x0


@pytest.mark.parametrize("layout", [Regions(1), Regions(2), Regions(2, anywhere=True)])
def test_regions_are_judged_by_what_was_foreseen_before_a_text_guard(layout: Regions) -> None:
    rng, row, side = np.random.default_rng(0), noised(-0.5), 8 // layout.sides
    bank = make_bank(draw(rng, 20, side, at=2.0), draw(rng, 60, side))
    x, x0, shown = draw(rng, 1, 8), draw(rng, 1, 8), draw(rng, 1, 8, at=2.0)
    none, numbers = np.zeros(layout.count(x.shape), bool), Numbers(0.0, 1.5, 1.0)
    hidden, seen = ratio_by_regions(x, x0, row, bank, none, numbers, layout, shown)
    assert (seen.value > 0).all() and (hidden != x0).all()
    kept, calm = ratio_by_regions(x, shown, row, bank, none, numbers, layout, x0)
    assert (calm.value < 0).all() and np.array_equal(kept, shown)


def test_a_thing_anywhere_under_the_strict_array_api() -> None:
    xp, rng, regions = array_api_strict, np.random.default_rng(0), Regions(2, anywhere=True)
    x = rng.standard_normal((2, 4, 16, 32)).astype(np.float32)
    count = regions.count(x.shape)
    value, weight = rng.standard_normal((2, 2 * count)).astype(np.float32)
    nearest = np.arange(2 * count)
    found = []
    for space in (np, xp):
        evidence = Evidence(*(space.asarray(v) for v in (value, weight, nearest)))
        parts = cut(space.asarray(x), regions)
        found.append(np.asarray(steered(space.asarray(x), parts, 2.0 * parts, evidence, regions)))
    assert np.allclose(*found, atol=1e-6)


def test_of_an_ordinary_image_as_many_regions_are_kept_as_would_not_overlap() -> None:
    """All 81 of 600 images would fill the bundle with what overlaps."""
    x = np.arange(3 * 16 * 16, dtype=np.float32).reshape(3, 1, 16, 16)
    some = at_random(x, Regions(2, anywhere=True), np.random.default_rng(0))
    assert some.shape == (12, 1, 8, 8)
    assert len({part.tobytes() for part in some}) == 12
    assert [int(part.min()) // 256 for part in some] == [0] * 4 + [1] * 4 + [2] * 4
    assert np.array_equal(at_random(x, Regions(2), np.random.default_rng(0)), cut(x, Regions(2)))
