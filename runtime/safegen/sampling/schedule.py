"""The noise schedule a model was trained with, and the timesteps at which it is sampled.

Notation: x_t = alpha_t x0 + sigma_t n with alpha_t = sqrt(alphas_cumprod[t]) and
sigma_t = sqrt(1 - alphas_cumprod[t]); sigma_t / alpha_t is the noise level of Karras et al.
(arXiv 2206.00364), here called ``noise_level``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safegen.errors import EngineError, UsageError
from safegen.sampling.consistency import CLASS_NAME, ConsistencySchedule, read_consistency
from safegen.sampling.flow import FlowSchedule, read_flow

Array = NDArray[np.float64]

PREDICTIONS = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "linspace", "trailing")
_ALMOST_ZERO = 2.0**-24


@dataclass(frozen=True)
class NoiseSchedule:
    """What a ``scheduler_config.json`` says about training and about choosing timesteps."""

    alphas_cumprod: Array
    """(T,) float64 in [0, 1], falling; 0 at the end where the terminal SNR is zero (arXiv 2305.08891)."""
    prediction_type: str = "epsilon"
    timestep_spacing: str = "leading"
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    use_karras_sigmas: bool = False
    original_inference_steps: int = 50
    timestep_scaling: float = 10.0
    """The last two are LCM's (arXiv 2310.04378)."""
    clip: float | None = None
    """Models of pixels: DDPM, DDIM and LCM keep x0 within plus and minus this."""
    variance_type: str = "fixed_small"
    """DDPM's noise: the posterior's variance (``fixed_small``) or beta (``fixed_large``)."""

    @property
    def num_train_timesteps(self) -> int:
        """T, 1000 for every Stable Diffusion."""
        return len(self.alphas_cumprod)

    @property
    def noise_levels(self) -> Array:
        """(T,) sigma_t / alpha_t, finite: a terminal SNR of zero counts as alphas_cumprod 2^-24."""
        alphas_cumprod = np.where(self.alphas_cumprod == 0, _ALMOST_ZERO, self.alphas_cumprod)
        return np.sqrt((1 - alphas_cumprod) / alphas_cumprod)

    def timestep_of(self, noise_level: Array) -> Array:
        """Timestep, not rounded, whose noise level is the given one: linear in log noise level."""
        known = np.log(np.maximum(self.noise_levels, 1e-10))
        return np.interp(np.log(noise_level), known, np.arange(len(known), dtype=np.float64))


Schedule = NoiseSchedule | FlowSchedule | ConsistencySchedule


def read_schedule(config: Mapping[str, Any], *, pixels: bool = False) -> Schedule:
    """Read a diffusers scheduler configuration.

    Args:
        config: a scheduler_config.json.
        pixels: the model has no autoencoder, and x0 may be clipped.

    Raises:
        EngineError: a beta schedule, prediction type or thresholding that is not known here.
    """
    if _class_name(config) == "FlowMatchEulerDiscrete":
        return read_flow(config)
    if config.get("_class_name") == CLASS_NAME:
        return read_consistency(config)
    prediction = str(config.get("prediction_type", "epsilon"))
    spacing = str(config.get("timestep_spacing", _SPACING.get(_class_name(config), "leading")))
    _expect("prediction_type", prediction, PREDICTIONS)
    _expect("timestep_spacing", spacing, SPACINGS)
    variance = str(config.get("variance_type") or "fixed_small")
    _expect("variance_type", variance, ("fixed_small", "fixed_large"))
    if config.get("thresholding"):
        raise EngineError("scheduler_config.json: dynamic thresholding is not known here; set it to false.")
    clips = bool(config.get("clip_sample", _class_name(config) in ("DDPM", "DDIM")))
    if clips and not pixels:
        raise EngineError(
            "scheduler_config.json: clip_sample is for pixel models and harms latents; set it to false."
        )
    return NoiseSchedule(
        alphas_cumprod=_alphas_cumprod(config),
        prediction_type=prediction,
        timestep_spacing=spacing,
        steps_offset=int(config.get("steps_offset", 0)),
        set_alpha_to_one=bool(config.get("set_alpha_to_one", _class_name(config) != "PNDM")),
        use_karras_sigmas=bool(config.get("use_karras_sigmas", False)),
        original_inference_steps=int(config.get("original_inference_steps", 50)),
        timestep_scaling=float(config.get("timestep_scaling", 10.0)),
        clip=float(config.get("clip_sample_range", 1.0)) if clips else None,
        variance_type=variance,
    )


_SPACING = {
    "EulerDiscrete": "linspace",
    "EulerAncestralDiscrete": "linspace",
    "DPMSolverMultistep": "linspace",
}


def _class_name(config: Mapping[str, Any]) -> str:
    return str(config.get("_class_name", "")).removesuffix("Scheduler")


def _expect(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise EngineError(f"scheduler_config.json: {key} is {value!r}; known are {', '.join(known)}.")


def _alphas_cumprod(config: Mapping[str, Any]) -> Array:
    count = int(config.get("num_train_timesteps", 1000))
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    kind = str(config.get("beta_schedule", "linear"))
    _expect("beta_schedule", kind, ("linear", "scaled_linear", "squaredcos_cap_v2"))
    if config.get("trained_betas") is not None:
        betas = np.asarray(config["trained_betas"], np.float64)
    elif kind == "linear":
        betas = np.linspace(start, end, count, dtype=np.float64)
    elif kind == "scaled_linear":
        betas = np.linspace(math.sqrt(start), math.sqrt(end), count, dtype=np.float64) ** 2
    else:
        cos = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = np.minimum(1 - cos[1:] / cos[:-1], 0.999)
    alphas_cumprod: Array = np.cumprod(1 - betas, dtype=np.float64)
    return _zero_terminal_snr(alphas_cumprod) if config.get("rescale_betas_zero_snr") else alphas_cumprod


def _zero_terminal_snr(alphas_cumprod: Array) -> Array:
    """Shift and scale sqrt(alphas_cumprod) so that its last value is 0 (arXiv 2305.08891, alg. 1)."""
    root = np.sqrt(alphas_cumprod)
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    squared: Array = root**2
    return squared


def spaced_timesteps(schedule: NoiseSchedule, spacing: str, steps: int, *, extra: int = 0) -> Array:
    """(steps,) falling timesteps, not rounded for ``linspace`` (arXiv 2305.08891, table 2).

    Args:
        schedule: gives T and the offset of ``leading``.
        spacing: ``leading``, ``linspace`` or ``trailing``.
        steps: how many, 1 to T.
        extra: 1 where a solver plans one timestep more and drops the last, as DPM-Solver++ does.

    Raises:
        UsageError: more steps than the schedule holds.
    """
    count = schedule.num_train_timesteps
    if not 1 <= steps <= count - extra:
        raise UsageError(f"steps is {steps}; this model takes 1 to {count - extra}.")
    if spacing == "linspace":
        return np.linspace(0, count - 1, steps + extra, dtype=np.float64)[::-1][:steps].astype(np.float64)
    if spacing == "leading":
        stride = count // (steps + extra)
        return np.arange(steps + extra, dtype=np.float64)[::-1][:steps] * stride + schedule.steps_offset
    return np.round(np.arange(count, 0, -count / steps))[:steps].astype(np.float64) - 1.0


def karras(noise_levels: Array, steps: int, rho: float = 7.0) -> Array:
    """(steps,) noise levels spaced as Karras et al. do, eq. 5, between the first and the last given."""
    ramp = np.linspace(0, 1, steps)
    low, high = noise_levels.min() ** (1 / rho), noise_levels.max() ** (1 / rho)
    spaced: Array = (high + ramp * (low - high)) ** rho
    return spaced


Interpolate = Callable[[Array], Array]


def levels_at(schedule: NoiseSchedule) -> Interpolate:
    """A function from timesteps to noise levels, linear between whole timesteps."""
    whole = np.arange(schedule.num_train_timesteps, dtype=np.float64)
    return lambda timesteps: np.interp(timesteps, whole, schedule.noise_levels)
