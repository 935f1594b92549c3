"""Consistency models (arXiv 2303.01469): one evaluation goes from any noise level to the picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safegen.errors import UsageError

CLASS_NAME = "ConsistencyModel"


@dataclass(frozen=True)
class ConsistencySchedule:
    """x = x0 + sigma n, and the model gives x0 from x and sigma."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    most_steps: int = 40

    def levels(self, steps: int) -> NDArray[np.float64]:
        """(steps,) falling noise levels from sigma_max on, spaced as in arXiv 2206.00364, eq. 5.

        Raises:
            UsageError: more steps than make sense for such a model.
        """
        if not 1 <= steps <= self.most_steps:
            raise UsageError(f"steps is {steps}; this model takes 1 to {self.most_steps}.")
        ramp = np.linspace(0, 1, steps + 1)[:-1]
        high, low = (sigma ** (1 / self.rho) for sigma in (self.sigma_max, self.sigma_min))
        spaced: NDArray[np.float64] = (high + ramp * (low - high)) ** self.rho
        return spaced


def read_consistency(config: Mapping[str, Any]) -> ConsistencySchedule:
    """Read the configuration that a bare model's description becomes."""
    return ConsistencySchedule(float(config["sigma_min"]), float(config["sigma_max"]), float(config["rho"]))
