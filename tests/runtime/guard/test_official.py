"""The released program's step against its formulas in float64. If these fail, the table compares this
project's guard with something that only bears another's name."""

import math
from itertools import pairwise

import numpy as np
import pytest
from formulas import SHAPE, close, flat, pictures, row_of, two_banks

from safegen.guard.bank import Bank
from safegen.guard.official import Numbers, Units, noise_shares, official, unit_pixels
from safegen.sampling.flow import FlowSchedule
from safegen.sampling.loop import OpenGuard, Output, denoise
from safegen.sampling.noise import normal_batch
from safegen.sampling.solver import FLOW, Solver, plan
from safegen.sampling.table import Table

Z = np.random.default_rng(5).standard_normal(SHAPE).astype(np.float32)


def units_of(bank: Bank) -> Units:
    refs = unit_pixels(bank.refs, 4)
    return Units(refs, (refs**2).sum(1))


def unit(rows: np.ndarray) -> np.ndarray:
    pixels = flat(rows).reshape(len(rows), 4, -1)
    return (pixels / np.linalg.norm(pixels, axis=1, keepdims=True)).reshape(len(rows), -1)


def kernels(x0: np.ndarray, bank: Bank, s: float, *, sd3: bool) -> np.ndarray:
    """exp(-||x0 - r_n|| / 2 s^2): the distance is not squared, and the references have unit pixels."""
    seen = unit(x0) if sd3 else flat(x0)
    return np.exp(-np.linalg.norm(seen[:, None] - unit(bank.refs)[None], axis=-1) / (2 * s**2))


def corrected(x0: np.ndarray, bank: Bank, s: float, scale: float, *, sd3: bool) -> np.ndarray:
    """x0 - scale E_unsafe."""
    w = kernels(x0, bank, s, sd3=sd3)
    return x0 - scale * ((w @ unit(bank.refs)) / (w.sum(-1) + 1e-8)[:, None]).reshape(x0.shape)


@pytest.mark.parametrize("sd3", [False, True])
def test_official_is_the_released_step(sd3: bool) -> None:
    bank, row = two_banks(), row_of()
    x, x0 = pictures(near=bank.refs[3])
    assert np.allclose((unit(bank.refs) ** 2).sum(1), 36)  # ||r_n||^2 = H W
    den = kernels(x0, bank, 3.15, sd3=sd3).sum(-1) + 1e-8
    low, middle, _ = np.sort(den)
    threshold = float((low + middle) / 2)
    moved = corrected(x0, bank, 3.15, 0.33, sd3=sd3)
    eps = (x - row.alpha * x0.astype(np.float64)) / row.sigma
    fresh = row.alpha * moved + row.sigma * (0.4 * eps + 0.9 * Z)
    numbers = Numbers(3.15, 0.33, threshold, 0.4, 0.9)
    new_x, new_x0, found = official(x, x0, row, units_of(bank), Z, numbers, sd3=sd3)
    opened = den > threshold
    assert opened.sum() == 2
    close(new_x[opened], fresh[opened])
    # SD3's solver steps from x0' itself; all others with the old eps
    close(new_x0[opened], (moved if sd3 else (fresh - row.sigma * eps) / row.alpha)[opened])
    close(found.value, den - threshold)
    assert found.weight.tolist() == np.where(opened, np.float32(0.33), 0).tolist()
    assert found.nearest.tolist() == kernels(x0, bank, 3.15, sd3=sd3).argmax(-1).tolist()
    # where the gate is shut nothing is touched: no fresh noise either
    assert new_x[~opened].tobytes() == x[~opened].tobytes()
    assert new_x0[~opened].tobytes() == x0[~opened].tobytes()


def test_all_noise_is_fresh_where_nothing_else_is_said() -> None:
    bank, row = two_banks(), row_of()
    x, x0 = pictures(near=bank.refs[3])
    new_x = official(x, x0, row, units_of(bank), Z, Numbers(3.15, 0.33, 0.0))[0]
    close(new_x, row.alpha * corrected(x0, bank, 3.15, 0.33, sd3=False) + row.sigma * Z)


def test_a_gate_without_a_threshold_is_always_open() -> None:
    """den holds 1e-8 even where no reference is near, which takes E_unsafe away there."""
    bank, row = two_banks(), row_of()
    x, x0 = pictures(near=bank.refs[3])
    far = official(x, 1e4 * x0, row, units_of(bank), Z, Numbers(1.0, 0.5, 0.0))
    assert (far[2].value > 0).all()
    close(far[2].value, np.full(3, 1e-8))
    s = 0.43  # den is some 1e-8 there
    w = kernels(x0, bank, s, sd3=False).sum(-1)
    assert ((w > 1e-9) & (w < 1e-7)).any()
    narrow = official(x, x0, row, units_of(bank), 0 * Z, Numbers(s, 0.5, 0.0))
    close(narrow[2].value, w + 1e-8)
    assert narrow[2].weight.tolist() == [0.5] * 3
    close(x0 - narrow[0] / row.alpha, x0 - corrected(x0, bank, s, 0.5, sd3=False), relative=1e-2)


def test_pixels_get_length_1_and_an_empty_one_stays_empty() -> None:
    rows = 0.01 * np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32)
    close(unit_pixels(rows, 4), unit(rows))
    rows[0, ::4] = 0
    found = unit_pixels(rows, 4)
    assert np.isfinite(found).all()
    assert (found[0, ::4] == 0).all()


def flow_table(steps: int) -> Table:
    return plan(FlowSchedule(shift=3.0), Solver(FLOW), steps)


def test_sd3_takes_the_released_program_s_own_step() -> None:
    """x0 = x - s v; x1 = x + (1 - s) v; n = sqrt(s') x1 + sqrt(1 - s') z; x' = x0c + s' (n - x0c).

    Run through the loop's own rows, whose Euler step follows.
    """
    bank, table, seeds = two_banks(), flow_table(6), [3, 4, 5]
    x = normal_batch(seeds, 0, SHAPE[1:])
    units, weights = units_of(bank), np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)

    def model(x, row, i, state):
        return Output(np.tanh(x) * weights)

    def look(x, x0, i, state, plain):
        row = table.rows[i]
        numbers = Numbers(1.0, 0.3, 0.0, *noise_shares(row, sd3=True))
        return *official(x, x0, row, units, normal_batch(seeds, 50 + i, SHAPE[1:]), numbers, sd3=True), None

    expected = x.astype(np.float64)
    levels = [row.sigma for row in table.rows] + [0.0]
    for i, (step, (s, following)) in enumerate(
        zip(denoise(model, x, table, OpenGuard(look), seeds), pairwise(levels), strict=True)
    ):
        v = np.tanh(expected) * weights
        x0, x1 = expected - s * v, expected + (1 - s) * v
        x0c = corrected(x0, bank, 1.0, 0.3, sd3=True)
        n = math.sqrt(following) * x1 + math.sqrt(1 - following) * normal_batch(seeds, 50 + i, SHAPE[1:])
        expected = x0c + following * (n - x0c)
        close(step.x, expected)


def test_noise_is_all_fresh_but_for_sd3() -> None:
    for row, following in zip(flow_table(5).rows, [*flow_table(5).rows[1:], None], strict=True):
        s = following.sigma if following else 0.0
        assert noise_shares(row, sd3=False) == (0.0, 1.0)
        assert noise_shares(row, sd3=True) == pytest.approx((math.sqrt(s), math.sqrt(1 - s)), abs=1e-7)
