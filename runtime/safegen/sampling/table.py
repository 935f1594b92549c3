"""The plan of a picture: one row of numbers a step, x' = a x + b x0 + c x0_prev + d noise.

The loop, the guards, the step graph and the C++ host read the same rows and know no solver.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Row(NamedTuple):
    """One step. The state is x = alpha x0 + sigma n."""

    timestep: float
    input_scale: float
    """What x is multiplied by before the model sees it."""
    x0_x: float
    x0_out: float
    """x0 = x0_x x + x0_out model_output."""
    a: float
    b: float
    c: float
    d: float
    """x' = a x + b x0 + c x0_prev + d noise."""
    alpha: float
    sigma: float

    @property
    def log_snr(self) -> float:
        """log(alpha^2 / sigma^2), -inf for pure noise."""
        with np.errstate(divide="ignore"):
            return float(2 * (np.log(self.alpha) - np.log(self.sigma)))

    def kernel(self) -> tuple[float, float]:
        """Alpha / sigma^2, and alpha^2 / (2 sigma^2): the factors of x . r_n and of |r_n|^2."""
        scale = self.alpha / self.sigma**2
        return scale, 0.5 * self.alpha * scale

    @property
    def signal(self) -> float:
        """Alpha where alpha^2 + sigma^2 = 1: 0 for pure noise, 1 for the clean picture."""
        return self.alpha / math.hypot(self.alpha, self.sigma)

    @property
    def early(self) -> float:
        """1 while there is more noise than picture (log-SNR below 0), then 0."""
        return float(self.alpha < self.sigma)

    @property
    def spread(self) -> float:
        """2 sigma^2."""
        return 2 * self.sigma**2


def noised(log_snr: float) -> Row:
    """A variance-preserving row that only says how noisy x is: alpha^2 / sigma^2 = exp(log_snr)."""
    alpha, sigma = 1 / math.sqrt(1 + math.exp(-log_snr)), 1 / math.sqrt(1 + math.exp(log_snr))
    return Row(0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, alpha, sigma)


@dataclass(frozen=True)
class Table:
    """The plan of one picture: rows in order, and what the first noise is multiplied by."""

    rows: tuple[Row, ...]
    init_noise_sigma: float
    clip: float | None = None
    """x0 is kept within plus and minus this, before the guard sees it."""

    def __len__(self) -> int:
        return len(self.rows)
