"""Rectified flow (arXiv 2209.03003, 2403.03206): x = (1 - s) x0 + s n, and the model gives v = n - x0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safegen.errors import EngineError, UsageError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FlowSchedule:
    """What a flow-matching ``scheduler_config.json`` says."""

    num_train_timesteps: int = 1000
    shift: float = 1.0
    """Moves noise levels upwards: s' = shift s / (1 + (shift - 1) s)."""
    dynamic: bool = False
    """The shift grows with the picture: exp(mu), mu linear in the number of image tokens."""
    tokens: tuple[int, int] = (256, 4096)
    mu: tuple[float, float] = (0.5, 1.15)
    """Of the two token counts."""
    timestep_spacing: str = "linspace"
    """``linspace`` ends at the lowest noise level of training (SD3), ``trailing`` at 1 / steps (Flux)."""

    def levels(self, steps: int, tokens: int) -> Array:
        """(steps,) falling noise levels s in (0, 1].

        Args:
            steps: how many.
            tokens: of the picture, for a dynamic shift.

        Raises:
            UsageError: more steps than the schedule holds.
        """
        if not 1 <= steps <= self.num_train_timesteps:
            raise UsageError(f"steps is {steps}; this model takes 1 to {self.num_train_timesteps}.")
        # the training levels are shifted once before their range is taken, and the range again
        last = 1 / self.num_train_timesteps
        low = 1 / steps if self.timestep_spacing == "trailing" else last if self.dynamic else self._move(last)
        levels: Array = self._move(np.linspace(1.0, low, steps, dtype=np.float64), tokens)
        return levels

    def _move(self, levels: Any, tokens: int | None = None) -> Any:
        shift = self.shift
        if self.dynamic:
            slope = (self.mu[1] - self.mu[0]) / (self.tokens[1] - self.tokens[0])
            shift = math.exp(self.mu[0] + slope * ((tokens or self.tokens[0]) - self.tokens[0]))
        return shift * levels / (1 + (shift - 1) * levels)


_UNKNOWN = (
    "shift_terminal",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "invert_sigmas",
    "stochastic_sampling",
)


def read_flow(config: Mapping[str, Any]) -> FlowSchedule:
    """Read a FlowMatchEulerDiscreteScheduler's configuration.

    Raises:
        EngineError: an option that is not known here.
    """
    for key in _UNKNOWN:
        if config.get(key):
            raise EngineError(f"scheduler_config.json: {key} is not known for flow matching.")
    if config.get("use_dynamic_shifting") and config.get("time_shift_type", "exponential") != "exponential":
        raise EngineError("scheduler_config.json: time_shift_type is not 'exponential'.")
    return FlowSchedule(
        num_train_timesteps=int(config.get("num_train_timesteps", 1000)),
        shift=float(config.get("shift", 1.0)),
        dynamic=bool(config.get("use_dynamic_shifting", False)),
        tokens=(int(config.get("base_image_seq_len", 256)), int(config.get("max_image_seq_len", 4096))),
        mu=(float(config.get("base_shift", 0.5)), float(config.get("max_shift", 1.15))),
        timestep_spacing=str(config.get("timestep_spacing", "linspace")),
    )
