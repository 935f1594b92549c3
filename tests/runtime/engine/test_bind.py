"""A guard in the plan that it was opened for. If these fail, it acts at other steps, or with other numbers,
than its settings and its bundle say."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from formulas import SHAPE, SHUT, close, flat, pictures, two_banks

from safegen.engine.bind import open_guard
from safegen.errors import GuardError, UsageError
from safegen.guard import official, ratio
from safegen.guard.gate import Density, Gate, thresholds
from safegen.guard.paper import paper
from safegen.guard.rivals import sgf, spell, theorem
from safegen.guard.settings import MODES, Off, Official, Paper, Ratio, RenoiseOnly, Sgf, Spell, Theorem
from safegen.sampling.flow import FlowSchedule
from safegen.sampling.loop import step_noise
from safegen.sampling.noise import normal, normal_batch
from safegen.sampling.solver import FLOW, Solver, plan
from safegen.sampling.table import Row, Table, noised

SEEDS = [5, 6, 7]
GATE = Gate(np.array([0.05, 0.9]), np.array([-3.0, 5.0]), np.linspace(-1, 2, 39))
DENSITY = Density(np.array([-8.0, 8.0]), np.array([np.linspace(-160, -120, 5), np.linspace(-90, -70, 5)]))
BUNDLE: Any = SimpleNamespace(
    info=SimpleNamespace(
        regions=1,
        layout=SimpleNamespace(count=lambda shape: 1, sides=1, anywhere=False, rows=1),
        bandwidth=5.0,
        latent_shape=SHAPE[1:],
    ),
    gate=GATE,
    density=DENSITY,
)
BANK = two_banks(9, targets=7)
LEVELS = (-6.0, -2.0, -0.5, 0.5, 3.0)


def table_of(**changes: float) -> Table:
    """Five steps, at the timesteps 900, 800, ... 500."""
    rows = (
        noised(level)._replace(timestep=900.0 - 100 * i, a=0.5, b=0.5, **changes)
        for i, level in enumerate(LEVELS)
    )
    return Table(tuple(rows), 1.0)


TABLE = table_of()


def near_the_bank(row: Row) -> tuple[np.ndarray, np.ndarray]:
    _, x0 = pictures(near=BANK.refs[3])
    noise = np.random.default_rng(1).standard_normal(SHAPE)
    return (row.alpha * x0 + row.sigma * noise).astype(np.float32), x0


def test_ratio_has_the_bundle_s_gate_at_every_level_of_the_plan() -> None:
    guard = open_guard(Ratio(false_positive_rate=0.1, repulsion=2.0), BUNDLE, BANK, TABLE)
    expected = thresholds(GATE, 0.1, [row.alpha for row in TABLE.rows])
    assert np.ptp(expected) > 4
    for i, row in enumerate(TABLE.rows):
        x, x0 = near_the_bank(row)
        numbers = ratio.Numbers(float(expected[i]), 5.0, 2.0)
        new_x, new_x0, evidence, _ = guard(x, x0, i, SHUT)
        theirs = ratio.ratio(x, x0, row, BANK, SHUT, numbers)
        assert new_x is x
        np.testing.assert_array_equal(new_x0, theirs[1])
        np.testing.assert_array_equal(evidence.value, theirs[2].value)


def test_ratio_s_gate_begins_shut_and_stays_open() -> None:
    guard = open_guard(Ratio(), BUNDLE, BANK, TABLE)
    x, x0 = near_the_bank(TABLE.rows[0])
    state = guard.start(x, SEEDS)
    assert guard.latches
    assert state.tolist() == [False] * 3
    far = np.stack([x0[0], *BANK.benign[:2].reshape(2, *SHAPE[1:])])
    _, _, evidence, state = guard(x, far, 0, state)
    assert (evidence.value > 0).tolist() == state.tolist() == [True, False, False]
    benign = BANK.benign[:3].reshape(SHAPE)
    _, moved, evidence, state = guard(x, benign, 1, state)
    assert (evidence.value < 0).all()
    assert state.tolist() == [True, False, False]
    assert (moved != benign).any(axis=(1, 2, 3)).tolist() == [True, False, False]


def test_evidence_hardly_above_the_threshold_keeps_the_gate_open() -> None:
    x, x0 = near_the_bank(TABLE.rows[0])
    value = open_guard(Ratio(), BUNDLE, BANK, TABLE)(x, x0, 0, SHUT)[2].value
    gate = GATE._replace(location=GATE.location + float(value.min()) - 0.1)
    bundle = SimpleNamespace(info=BUNDLE.info, gate=gate)
    _, _, evidence, latched = open_guard(Ratio(), bundle, BANK, TABLE)(x, x0, 0, SHUT)
    assert 0 < evidence.value.min() < 0.2
    assert latched.all()


def test_paper_looks_from_its_timestep_on_with_what_the_bundle_measured() -> None:
    guard = open_guard(Paper(quantile=0.5, eta=0.5, w_max=2.0, t_min=700.0), BUNDLE, BANK, TABLE)
    seen = []
    for i, row in enumerate(TABLE.rows):
        x, x0 = near_the_bank(row)
        _, new_x0, evidence, _ = guard(x, x0, i, None)
        seen.append(evidence is not None)
        if evidence is None:
            assert new_x0 is x0
            continue
        middle = float(np.interp(LEVELS[i], [-8, 8], [-140, -80]))
        theirs = paper(x, x0, row, BANK, threshold=middle, usual=middle, eta=0.5, log_cap=math.log(2.0 / 0.5))
        close(new_x0, theirs[1])
        close(evidence.value, theirs[2].value)
    assert seen == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("settings", "acts"),
    [
        (Official(gate=False, t_min=780.0), [1, 1, 0, 0, 0]),
        (Official(gate=False, t_min=800.0), [1, 1, 0, 0, 0]),
        (Official(gate=False, t_min=800.1), [1, 0, 0, 0, 0]),
        (Official(gate=False, t_min=990.0, first_steps=3), [1, 1, 1, 0, 0]),
        (Official(gate=False, t_min=0.0, first_steps=0), [0, 0, 0, 0, 0]),
    ],
)
def test_official_acts_in_its_window_with_fresh_noise_of_its_own(settings: Official, acts: list[int]) -> None:
    guard = open_guard(settings, BUNDLE, BANK, TABLE)
    refs = official.unit_pixels(BANK.refs, 4)
    units = official.Units(refs, (refs**2).sum(1))
    for i, row in enumerate(TABLE.rows):
        x, x0 = near_the_bank(row)
        new_x, new_x0, evidence, state = guard(x, x0, i, guard.start(x, SEEDS))
        assert state == SEEDS
        assert (evidence is not None) == bool(acts[i])
        if evidence is None:
            assert new_x is x and new_x0 is x0
            continue
        z = normal_batch(SEEDS, i + 1, SHAPE[1:], stream=1)
        numbers = official.Numbers(3.15, 0.33, 0.0)
        for ours, theirs in zip(
            (new_x, new_x0), official.official(x, x0, row, units, z, numbers), strict=False
        ):
            np.testing.assert_array_equal(ours, theirs)
        assert not np.array_equal(z, step_noise(x, SEEDS, i))  # not what the solver draws


@pytest.mark.parametrize(("s", "margin"), [(3.15, 0.5), (0.284, 0.0)])
def test_official_s_threshold_is_the_least_of_the_noised_references_less_its_margin(
    s: float, margin: float
) -> None:
    """At the last timestep, with the same noise on every machine; the 1e-8 in den counts, too."""
    guard = open_guard(Official(bandwidth=s, margin=margin, t_min=0.0), BUNDLE, BANK, TABLE)
    refs, last = official.unit_pixels(BANK.refs, 4), TABLE.rows[-1]
    z = normal(0, 0, (9, *SHAPE[1:]), stream=3)
    x = last.alpha * flat(refs) + last.sigma * flat(z)
    den = np.exp(-np.linalg.norm(x[:, None] - flat(refs)[None], axis=-1) / (2 * s**2)).sum(-1) + 1e-8
    x, x0 = near_the_bank(TABLE.rows[0])
    gaps = np.linalg.norm(flat(x0)[:, None] - flat(refs)[None], axis=-1)
    seen = np.exp(-gaps / (2 * s**2)).sum(-1) + 1e-8
    close(guard(x, x0, 0, SEEDS)[2].value, seen - (den.min() - margin))
    assert s > 1 or 1e-9 < den.min() < 1e-7


def test_renoise_only_is_official_without_a_push() -> None:
    ours, theirs = (
        open_guard(settings, BUNDLE, BANK, TABLE)
        for settings in (RenoiseOnly(t_min=750.0), Official(scale=0.0, gate=False, t_min=750.0))
    )
    for i, row in enumerate(TABLE.rows):
        x, x0 = near_the_bank(row)
        for a, b in zip(ours(x, x0, i, SEEDS)[:2], theirs(x, x0, i, SEEDS)[:2], strict=True):
            np.testing.assert_array_equal(a, b)


def test_official_for_sd3_needs_rectified_flow() -> None:
    """Its own step has a meaning there alone."""
    settings = Official(bandwidth=1.0, scale=0.03, gate=False, sd3=True, t_min=0.0)
    flow = plan(FlowSchedule(shift=3.0), Solver(FLOW), 4)
    guard = open_guard(settings, BUNDLE, BANK, flow)
    refs = official.unit_pixels(BANK.refs, 4)
    units, row = official.Units(refs, (refs**2).sum(1)), flow.rows[1]
    x, x0 = pictures()
    z, following = step_noise(x, SEEDS, 1, stream=1), flow.rows[2].sigma
    numbers = official.Numbers(1.0, 0.03, 0.0, math.sqrt(following), math.sqrt(1 - following))
    expected = official.official(x, x0, row, units, z, numbers, sd3=True)
    for ours, theirs in zip(guard(x, x0, 1, SEEDS)[:2], expected[:2], strict=True):
        close(ours, theirs, relative=1e-5)
    rounded, off, noisy = (
        Table(tuple(row._replace(alpha=row.alpha + more, d=d) for row in flow.rows), 1.0)
        for more, d in ((0.9e-6, 0.0), (1.1e-6, 0.0), (0.0, 0.1))
    )
    open_guard(settings, BUNDLE, BANK, rounded)
    for wrong in (TABLE, off, noisy):
        with pytest.raises(UsageError, match="a step of rectified flow"):
            open_guard(settings, BUNDLE, BANK, wrong)


@pytest.mark.parametrize(
    ("table", "word"),
    [
        (table_of(c=0.1), "dpm\\+\\+2m cannot follow"),
        (Table((noised(0.0)._replace(alpha=0.0, sigma=1.0),), 1.0), "divides by alpha"),
    ],
)
def test_official_refuses_plans_that_it_gives_no_meaning(table: Table, word: str) -> None:
    for settings in (Official(), RenoiseOnly()):
        with pytest.raises(UsageError, match=word):
            open_guard(settings, BUNDLE, BANK, table)


def test_rivals_get_their_numbers_from_the_bank() -> None:
    x, x0 = near_the_bank(TABLE.rows[1])
    gaps = np.linalg.norm(flat(BANK.refs)[:, None] - flat(BANK.refs)[None], axis=-1)
    neighbours = np.sort(gaps, axis=1)
    radius = np.median(neighbours[:, 1])
    gamma = -np.log(0.05) / (neighbours[:, 4:7] ** 2).mean()
    expected = {
        Spell(): spell(x, x0, BANK, radius=radius, overcompensation=1.6),
        Spell(radius=9.0): spell(x, x0, BANK, radius=9.0, overcompensation=1.6),
        Sgf(): sgf(x, x0, BANK, gamma=gamma, step=30.0),
        Sgf(gamma=0.1): sgf(x, x0, BANK, gamma=0.1, step=30.0),
        Theorem(eta=0.5): theorem(x, x0, TABLE.rows[1], BANK, log_eta=math.log(0.5), log_w_max=math.log(3.0)),
    }
    for settings, (_, moved, evidence) in expected.items():
        guard = open_guard(settings, BUNDLE, BANK, TABLE)
        _, new_x0, found, state = guard(x, x0, 1, guard.start(x, SEEDS))
        close(new_x0, moved)
        close(found.weight, evidence.weight)
        assert state is None and not guard.latches


def test_without_a_guard_nothing_is_judged_and_every_other_needs_a_bundle() -> None:
    x, x0 = pictures()
    assert open_guard(Off(), None, None, TABLE)(x, x0, 0, None) == (x, x0, None, None)
    for half in ((BUNDLE, None), (None, BANK)):
        with pytest.raises(GuardError, match="needs a negation bundle"):
            open_guard(Ratio(), *half, TABLE)
    for mode in set(MODES) - {"off"}:
        with pytest.raises(GuardError, match=f"{mode} needs a negation bundle"):
            open_guard(MODES[mode], None, None, TABLE)
