"""Tables of solvers. If these fail, pictures are noise, or a wrong request is taken in silence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safegen.engine.bind import open_guard
from safegen.errors import EngineError, UsageError
from safegen.guard.settings import Off
from safegen.sampling.loop import Output, denoise, first_latents
from safegen.sampling.schedule import read_schedule
from safegen.sampling.solver import SOLVERS, Solver, plan
from safegen.sampling.table import Row

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def perfect_model(target: np.ndarray):
    """A model that always foresees ``target``: what every solver must then arrive at."""

    def model(x: np.ndarray, row: Row, i: int, state: None) -> Output:
        return Output((target - row.x0_x * x / row.input_scale) / row.x0_out)

    return model


@given(
    name=st.sampled_from(list(SOLVERS)),
    steps=st.integers(1, 50),
    prediction=st.sampled_from(["epsilon", "v_prediction", "sample"]),
    spacing=st.sampled_from(["leading", "linspace", "trailing"]),
    seed=st.integers(0, 2**32),
)
def test_every_solver_arrives_at_what_a_perfect_model_foresees(
    name: str, steps: int, prediction: str, spacing: str, seed: int
) -> None:
    schedule = read_schedule({**SD, "prediction_type": prediction, "steps_offset": 1})
    table = plan(schedule, Solver(name, spacing=None if name == "lcm" else spacing), steps)
    target = np.random.default_rng(0).standard_normal((1, 4, 4, 4)).astype(np.float32)
    x = first_latents(table, [seed], (4, 4, 4), np)
    model = perfect_model(target)
    for step in denoise(model, x, table, open_guard(Off(), None, None, table), [seed]):
        assert np.allclose(step.x0, target, atol=2e-2)  # x0 = x / alpha loses digits at alpha 0.07
    # DDIM and LCM may stop a little above zero noise: set_alpha_to_one is about that
    assert np.abs(step.x - target).max() < 0.3


@given(name=st.sampled_from(list(SOLVERS)), steps=st.integers(1, 50))
def test_rows_are_finite_python_floats_with_falling_noise(name: str, steps: int) -> None:
    rows = plan(read_schedule(SD), Solver(name), steps).rows
    assert len(rows) == steps
    assert all(type(v) is float and np.isfinite(v) for row in rows for v in row)
    levels = [row.sigma / row.alpha for row in rows]
    assert levels == sorted(levels, reverse=True)


@pytest.mark.parametrize(
    ("solver", "steps", "word"),
    [
        (Solver("heun"), 10, "known are"),
        (Solver("ddim"), 0, "1 to 1000"),
        (Solver("ddim"), 1001, "1 to 1000"),
        (Solver("lcm"), 51, "1 to 50"),
        (Solver("euler", eta=0.5), 10, "eta is DDIM's"),
        (Solver("ddim", eta=2.0), 10, "0 to 1"),
        (Solver("ddim", karras=True), 10, "euler and dpm++2m"),
        (Solver("ddim", spacing="random"), 10, "leading, linspace, trailing"),
    ],
)
def test_requests_without_meaning_are_refused(solver: Solver, steps: int, word: str) -> None:
    with pytest.raises(UsageError, match=word.replace("+", r"\+")):
        plan(read_schedule(SD), solver, steps)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prediction_type": "score"},
        {"beta_schedule": "sigmoid"},
        {"timestep_spacing": "odd"},
        {"thresholding": True},
        {"clip_sample": True},
        {"variance_type": "learned_range"},
    ],
)
def test_unknown_schedules_are_refused_not_guessed(wrong: dict) -> None:
    with pytest.raises(EngineError, match=next(iter(wrong))):
        read_schedule({**SD, **wrong})


def test_an_epsilon_model_at_zero_terminal_snr_is_refused() -> None:
    schedule = read_schedule({**SD, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"})
    assert schedule.alphas_cumprod[-1] == 0
    with pytest.raises(UsageError, match="zero SNR"):
        plan(schedule, Solver("ddim"), 10)
