"""Every solver as a table (:mod:`safegen.sampling.table`).

Sources: DDPM
(arXiv 2006.11239), DDIM (2010.02502), Euler and its ancestral form (2206.00364), DPM-Solver++ 2M
(2211.01095), LCM (2310.04378).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from safegen.errors import UsageError
from safegen.sampling.consistency import CLASS_NAME, ConsistencySchedule
from safegen.sampling.flow import FlowSchedule
from safegen.sampling.schedule import Array, NoiseSchedule, Schedule, karras, levels_at, spaced_timesteps
from safegen.sampling.table import Row, Table


@dataclass(frozen=True)
class Solver:
    """Which solver, and the knobs that some have."""

    name: str = "ddim"
    eta: float = 0.0
    """DDIM only: 0 draws no noise, 1 is DDPM's variance."""
    karras: bool | None = None
    """Euler and DPM-Solver++ only; None takes the model's own setting."""
    spacing: str | None = None
    """leading, linspace or trailing; None takes the model's own."""


def plan(schedule: Schedule, solver: Solver, steps: int, tokens: int = 256) -> Table:
    """Work out the table of a solver for a model.

    Args:
        schedule: the model's.
        solver: flow-euler for flow matching, any other for diffusion.
        steps: model evaluations.
        tokens: patches of the picture, by which some flow models shift their noise levels.

    Raises:
        UsageError: an unknown solver or spacing, a knob the solver does not have, or an epsilon
            model at zero terminal SNR, where x0 cannot be computed.
    """
    own = isinstance(schedule, FlowSchedule | ConsistencySchedule)
    known = [FLOW if isinstance(schedule, FlowSchedule) else CONSISTENCY] if own else list(SOLVERS)
    if solver.name not in known:
        raise UsageError(f"solver is {solver.name!r}; known are {', '.join(known)}.")
    if solver.eta and solver.name != "ddim":
        raise UsageError(f"eta is DDIM's; {solver.name} has none. Leave it out or use the solver ddim.")
    if solver.karras and solver.name not in ("euler", "dpm++2m"):
        raise UsageError(f"Karras noise levels are for euler and dpm++2m, not for {solver.name}.")
    if not 0.0 <= solver.eta <= 1.0:
        raise UsageError(f"eta is {solver.eta}; it goes from 0 to 1.")
    if own and (solver.spacing or solver.karras):
        raise UsageError("this model has its own noise levels; leave out spacing and Karras.")
    if isinstance(schedule, FlowSchedule):
        table = _flow(schedule, steps, tokens)
    elif isinstance(schedule, ConsistencySchedule):
        table = _consistency(schedule, steps)
    else:
        table = SOLVERS[solver.name](schedule, solver, steps)
    # Python floats: a NumPy scalar would turn float32 latents into float64
    return Table(tuple(Row(*map(float, row)) for row in table.rows), table.init_noise_sigma, table.clip)


def _spaced(schedule: NoiseSchedule, solver: Solver, steps: int, *, extra: int = 0) -> Array:
    spacing = solver.spacing or schedule.timestep_spacing
    if spacing not in ("leading", "linspace", "trailing"):
        raise UsageError(f"spacing is {spacing!r}; known are leading, linspace, trailing.")
    return spaced_timesteps(schedule, spacing, steps, extra=extra)


def _karras(schedule: NoiseSchedule, solver: Solver) -> bool:
    return schedule.use_karras_sigmas if solver.karras is None else solver.karras


def _x0_from_output(prediction_type: str, alpha: float, sigma: float) -> tuple[float, float]:
    """(p, q) with x0 = p x + q output, for x = alpha x0 + sigma n and alpha^2 + sigma^2 = 1."""
    if prediction_type == "epsilon":
        if alpha == 0.0:
            raise UsageError(
                "this model predicts epsilon and its schedule ends at zero SNR: its first step has"
                " no x0. Use another spacing, or correct prediction_type in scheduler_config.json."
            )
        return 1 / alpha, -sigma / alpha
    if prediction_type == "v_prediction":
        return alpha, -sigma
    return 0.0, 1.0


def _preserving(
    schedule: NoiseSchedule,
    timestep: float,
    abcd: tuple[float, float, float, float],
    alpha: float,
    sigma: float,
) -> Row:
    """A row in variance-preserving coordinates."""
    x0_x, x0_out = _x0_from_output(schedule.prediction_type, alpha, sigma)
    return Row(timestep, 1.0, x0_x, x0_out, *abcd, alpha, sigma)


def _exploding(
    schedule: NoiseSchedule, timestep: float, abcd: tuple[float, float, float, float], level: float
) -> Row:
    """A row in variance-exploding coordinates: x = x0 + level n."""
    scale = 1 / np.hypot(1.0, level)
    x0_x, x0_out = _x0_from_output(schedule.prediction_type, scale, level * scale)
    return Row(timestep, scale, scale * x0_x, x0_out, *abcd, 1.0, level)


def _ddpm(schedule: NoiseSchedule, solver: Solver, steps: int) -> Table:
    timesteps = np.round(_spaced(schedule, solver, steps))
    levels = np.append(schedule.alphas_cumprod[timesteps.astype(int)], 1.0)
    rows = []
    for t, now, before in zip(timesteps, levels[:-1], levels[1:], strict=True):
        step_alpha = now / before
        share = (1 - before) / (1 - now) if schedule.variance_type == "fixed_small" else 1.0
        variance = share * (1 - step_alpha)
        a = np.sqrt(step_alpha) * (1 - before) / (1 - now)
        b = np.sqrt(before) * (1 - step_alpha) / (1 - now)
        d = np.sqrt(max(variance, 1e-20)) if t > 0 else 0.0
        rows.append(_preserving(schedule, t, (a, b, 0.0, d), np.sqrt(now), np.sqrt(1 - now)))
    return Table(tuple(rows), 1.0, schedule.clip)


def _ddim(schedule: NoiseSchedule, solver: Solver, steps: int) -> Table:
    timesteps = np.round(_spaced(schedule, solver, steps)).astype(int)
    now_levels = schedule.alphas_cumprod[timesteps]
    # DDIM steps by a fixed stride, whatever the spacing
    before = timesteps - schedule.num_train_timesteps // steps
    final = 1.0 if schedule.set_alpha_to_one else schedule.alphas_cumprod[0]
    before_levels = np.where(before >= 0, schedule.alphas_cumprod[np.maximum(before, 0)], final)
    rows = []
    for t, now, before in zip(timesteps, now_levels, before_levels, strict=True):
        d = solver.eta * np.sqrt((1 - before) / (1 - now) * (1 - now / before))
        a = np.sqrt(1 - before - d**2) / np.sqrt(1 - now)
        b = np.sqrt(before) - a * np.sqrt(now)
        rows.append(_preserving(schedule, t, (a, b, 0.0, d), np.sqrt(now), np.sqrt(1 - now)))
    return Table(tuple(rows), 1.0, schedule.clip)


def _euler_levels(schedule: NoiseSchedule, solver: Solver, steps: int) -> tuple[Array, Array, float]:
    """Timesteps, noise levels with a closing 0, and the scale of the first noise."""
    timesteps = _spaced(schedule, solver, steps)
    levels = levels_at(schedule)(timesteps)
    if _karras(schedule, solver) and solver.name == "euler":
        levels = karras(levels, steps)
        timesteps = schedule.timestep_of(levels)
    leading = (solver.spacing or schedule.timestep_spacing) == "leading"
    first = np.hypot(1.0, levels.max()) if leading else levels.max()
    return timesteps, np.append(levels, 0.0), float(first)


def _euler(schedule: NoiseSchedule, solver: Solver, steps: int) -> Table:
    timesteps, levels, first = _euler_levels(schedule, solver, steps)
    rows = [
        _exploding(schedule, t, (after / now, 1 - after / now, 0.0, 0.0), now)
        for t, now, after in zip(timesteps, levels[:-1], levels[1:], strict=True)
    ]
    return Table(tuple(rows), first)


def _euler_ancestral(schedule: NoiseSchedule, solver: Solver, steps: int) -> Table:
    timesteps, levels, first = _euler_levels(schedule, solver, steps)
    rows = []
    for t, now, after in zip(timesteps, levels[:-1], levels[1:], strict=True):
        up = np.sqrt(after**2 * (now**2 - after**2) / now**2)
        down = np.sqrt(after**2 - up**2)
        rows.append(_exploding(schedule, t, (down / now, 1 - down / now, 0.0, up), now))
    return Table(tuple(rows), first)


def _dpm_levels(schedule: NoiseSchedule, solver: Solver, steps: int) -> tuple[Array, Array]:
    if _karras(schedule, solver):
        levels = karras(schedule.noise_levels, steps)
        return np.round(schedule.timestep_of(levels)), levels
    spacing = solver.spacing or schedule.timestep_spacing
    extra = 0 if spacing == "trailing" else 1
    timesteps = np.round(_spaced(schedule, solver, steps, extra=extra))
    return timesteps, levels_at(schedule)(timesteps)


def _dpm(schedule: NoiseSchedule, solver: Solver, steps: int) -> Table:
    """DPM-Solver++ 2M, midpoint form, first order at both ends, in alpha, sigma with h = -d log level."""
    timesteps, levels = _dpm_levels(schedule, solver, steps)
    alphas = 1 / np.hypot(1.0, levels)
    sigmas = levels * alphas
    rows = []
    for i, t in enumerate(timesteps):
        if i == steps - 1:
            abcd = (0.0, 1.0, 0.0, 0.0)
        else:
            h = np.log(levels[i] / levels[i + 1])
            gain = -alphas[i + 1] * np.expm1(-h)
            # eq. 13 of the paper: D1 = (x0 - x0_prev) h / (2 h_prev)
            lead = 0.5 * h / np.log(levels[i - 1] / levels[i]) if i else 0.0
            abcd = (sigmas[i + 1] / sigmas[i], gain * (1 + lead), -gain * lead, 0.0)
        rows.append(_preserving(schedule, t, abcd, alphas[i], sigmas[i]))
    return Table(tuple(rows), 1.0)


def _lcm(schedule: NoiseSchedule, solver: Solver, steps: int) -> Table:
    original = schedule.original_inference_steps
    if not 1 <= steps <= original:
        raise UsageError(f"steps is {steps}; LCM takes 1 to {original} for this model.")
    stride = schedule.num_train_timesteps // original
    trained = np.arange(original, 0, -1) * stride - 1
    timesteps = trained[np.floor(np.arange(steps) * original / steps).astype(int)]
    rows = []
    for i, t in enumerate(timesteps):
        now = schedule.alphas_cumprod[t]
        scaled = float(t) * schedule.timestep_scaling
        skip, out = 0.25 / (scaled**2 + 0.25), scaled / np.sqrt(scaled**2 + 0.25)
        before = schedule.alphas_cumprod[timesteps[i + 1]] if i + 1 < steps else 1.0
        abcd = (np.sqrt(before) * skip, np.sqrt(before) * out, 0.0, np.sqrt(1 - before))
        rows.append(_preserving(schedule, float(t), abcd, np.sqrt(now), np.sqrt(1 - now)))
    return Table(tuple(rows), 1.0, schedule.clip)


def _flow(schedule: FlowSchedule, steps: int, tokens: int) -> Table:
    """Euler on x' = x + (s' - s) v, with v = (x - x0) / s."""
    levels = schedule.levels(steps, tokens)
    rows = [
        Row(s * schedule.num_train_timesteps, 1.0, 1.0, -s, after / s, 1 - after / s, 0.0, 0.0, 1 - s, s)
        for s, after in zip(levels, np.append(levels[1:], 0.0), strict=True)
    ]
    return Table(tuple(rows), 1.0)


def _consistency(schedule: ConsistencySchedule, steps: int) -> Table:
    """Algorithm 1 of arXiv 2303.01469: x0 from the model, noised to the next level, and so on."""
    levels = schedule.levels(steps)
    noises = [math.sqrt(max(s**2 - schedule.sigma_min**2, 0.0)) for s in levels[1:]] + [0.0]
    rows = [Row(s, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, d, 1.0, s) for s, d in zip(levels, noises, strict=True)]
    return Table(tuple(rows), schedule.sigma_max)


FLOW, CONSISTENCY = "flow-euler", "consistency"
SOLVERS: dict[str, Callable[[NoiseSchedule, Solver, int], Table]] = {
    "ddim": _ddim,
    "ddpm": _ddpm,
    "euler": _euler,
    "euler-a": _euler_ancestral,
    "dpm++2m": _dpm,
    "lcm": _lcm,
}

_BY_CLASS = {
    "DDPMScheduler": "ddpm",
    "DDIMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler-a",
    "DPMSolverMultistepScheduler": "dpm++2m",
    "LCMScheduler": "lcm",
    "FlowMatchEulerDiscreteScheduler": FLOW,
    CLASS_NAME: CONSISTENCY,
    "PNDMScheduler": "dpm++2m",
}


def default_solver(scheduler_class: str) -> str:
    """The solver for a checkpoint's scheduler class; dpm++2m, the quickest, where we have no twin."""
    return _BY_CLASS.get(scheduler_class, "dpm++2m")
