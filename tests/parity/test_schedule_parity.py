"""Every table against diffusers' scheduler, step by step. If these fail, pictures differ from
what the checkpoint's authors get, at every prompt.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from schedulers import SCHEDULERS

from safegen.sampling.schedule import read_schedule
from safegen.sampling.solver import Solver, plan

pytestmark = pytest.mark.slow

BASE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
TOLERANCE = 2e-4
"""Relative to the largest value: diffusers keeps betas and their running product in float32, about
1e-7 a factor over 1000 factors, and divides by sqrt(alphas_cumprod), down to 0.07, at the noisy end."""


def walk(scheduler: Any, table: Any, seed: int, eta: float) -> list[float]:
    """Step both with the same random model outputs and noise; the largest relative errors."""
    rng = np.random.default_rng(seed)
    shape = (2, 4, 8, 8)
    noises = [rng.standard_normal(shape) for _ in table.rows]
    x = rng.standard_normal(shape) * table.init_noise_sigma
    theirs, x0_prev, errors = torch.from_numpy(x), 0.0, []
    for i, (row, t) in enumerate(zip(table.rows, scheduler.timesteps, strict=True)):
        assert row.timestep == pytest.approx(float(t), abs=5e-3)
        seen = scheduler.scale_model_input(theirs, t).numpy()
        errors.append(np.abs(seen - x * row.input_scale).max() / np.abs(seen).max())
        out = rng.standard_normal(shape)
        module = __import__(type(scheduler).__module__, fromlist=["randn_tensor"])
        module.randn_tensor = lambda *a, **k: torch.from_numpy(noises[i])  # noqa: B023
        extra = {"eta": eta} if isinstance(scheduler, DDIMScheduler) else {}
        theirs = scheduler.step(torch.from_numpy(out), t, theirs, **extra).prev_sample.double()
        x0 = row.x0_x * x + row.x0_out * out
        x = row.a * x + row.b * x0 + row.c * x0_prev + row.d * noises[i]
        x0_prev = x0
        errors.append(np.abs(theirs.numpy() - x).max() / np.abs(x).max())
        x = theirs.numpy().copy()
    return errors


@pytest.fixture(autouse=True)
def keep_randn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put diffusers' own noise back after each test."""
    for cls in SCHEDULERS.values():
        module = __import__(cls.__module__, fromlist=["x"])
        if hasattr(module, "randn_tensor"):
            monkeypatch.setattr(module, "randn_tensor", module.randn_tensor)


def check(name: str, steps: int, config: dict[str, Any], solver: Solver) -> None:
    if name == "dpm++2m":  # diffusers steps a v model at 1 step through its own special case
        config = {**config, "lower_order_final": True}
    scheduler = SCHEDULERS[name](**{**BASE, **config})
    scheduler.set_timesteps(steps)
    stored = {
        **dict(scheduler.config),
        "_class_name": type(scheduler).__name__,
        "clip_sample": False,
    }
    table = plan(read_schedule(stored), solver, steps)
    init = float(scheduler.init_noise_sigma)
    assert table.init_noise_sigma == pytest.approx(init, rel=1e-4)
    assert max(walk(scheduler, table, steps, solver.eta)) < TOLERANCE


def config_of(name: str, **more: Any) -> dict[str, Any]:
    return {**({"clip_sample": False} if name in ("ddpm", "ddim", "lcm") else {}), **more}


@pytest.mark.parametrize("steps", [1, 4, 10, 30, 50])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_each_solver(name: str, prediction: str, steps: int) -> None:
    check(name, steps, config_of(name, prediction_type=prediction), Solver(name))


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("name", [n for n in SCHEDULERS if n != "lcm"])
def test_each_spacing(name: str, spacing: str) -> None:
    check(name, 13, config_of(name, timestep_spacing=spacing), Solver(name, spacing=spacing))


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_noise(eta: float) -> None:
    check("ddim", 20, config_of("ddim"), Solver("ddim", eta=eta))


@pytest.mark.parametrize("steps", [2, 12, 25])
@pytest.mark.parametrize("name", ["euler", "dpm++2m"])
def test_karras_levels(name: str, steps: int) -> None:
    check(name, steps, {"use_karras_sigmas": True}, Solver(name))


@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("name", ["ddim", "euler"])
def test_other_beta_schedules(name: str, beta_schedule: str) -> None:
    check(name, 20, config_of(name, beta_schedule=beta_schedule), Solver(name))


@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler", "dpm++2m"])
def test_zero_terminal_snr(name: str) -> None:
    more = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction",
            "timestep_spacing": "trailing"}  # fmt: skip
    check(name, 20, config_of(name, **more), Solver(name))


def test_alpha_that_does_not_end_at_one() -> None:
    for name in ("ddim", "lcm"):
        check(name, 10, config_of(name, set_alpha_to_one=False), Solver(name))


@pytest.mark.parametrize("steps", [1, 4, 28])
@pytest.mark.parametrize("tokens", [256, 1024, 4096])
@pytest.mark.parametrize("shift", [1.0, 3.0, None])
def test_flow_matching(shift: float | None, tokens: int, steps: int) -> None:
    """None is Flux's dynamic shift; its pipeline also spaces the levels itself, down to 1 / steps."""
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    more = {"use_dynamic_shifting": True} if shift is None else {"shift": shift}
    scheduler = FlowMatchEulerDiscreteScheduler(**more)
    spacing = {"timestep_spacing": "trailing"} if shift is None else {}
    if shift is None:
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=calculate_shift(tokens))
    else:
        scheduler.set_timesteps(steps)
    config = {**scheduler.config, **spacing, "_class_name": "FlowMatchEulerDiscreteScheduler"}
    table = plan(read_schedule(config), Solver("flow-euler"), steps, tokens)
    x = np.random.default_rng(0).standard_normal((2, 16, 4, 4))
    for row, t in zip(table.rows, scheduler.timesteps, strict=True):
        assert row.timestep == pytest.approx(float(t), rel=1e-5)
        out = np.random.default_rng(int(t)).standard_normal(x.shape)
        theirs = scheduler.step(torch.from_numpy(out), t, torch.from_numpy(x)).prev_sample.double().numpy()
        x0 = row.x0_x * x + row.x0_out * out
        x = row.a * x + row.b * x0
        assert np.abs(theirs - x).max() / np.abs(x).max() < TOLERANCE
