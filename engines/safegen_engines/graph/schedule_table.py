"""``schedule.safetensors``: the default solver's tables, for hosts that know no solver.

``rows`` (R, 10) float64 holds the rows of :class:`safegen.sampling.table.Row`, the plans one after the other;
plan i has ``steps[i]`` of them, multiplies its first noise by ``init_noise_sigma[i]``, and keeps x0 within
plus and minus ``clip[0]``, which may be infinite.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from safegen.errors import UsageError
from safegen.format.manifest import Defaults
from safegen.sampling.schedule import Schedule
from safegen.sampling.solver import Solver, plan
from safegen.sampling.table import Table

FILE = "schedule.safetensors"
MOST_STEPS = 50
"""Plans of 1 to so many steps are written, and the default one."""


def write(folder: Path, schedule: Schedule, defaults: Defaults, tokens: int) -> str:
    """Write the tables of a model's default solver at its default size, and return the file's name."""
    plans = list(_plans(schedule, defaults, tokens))
    save_file(
        {
            "steps": np.array([len(table) for table in plans], np.int64),
            "init_noise_sigma": np.array([table.init_noise_sigma for table in plans], np.float64),
            "clip": np.array([np.inf if plans[0].clip is None else plans[0].clip], np.float64),
            "rows": np.array([row for table in plans for row in table.rows], np.float64),
        },
        folder / FILE,
    )
    return FILE


def _plans(schedule: Schedule, defaults: Defaults, tokens: int) -> Iterator[Table]:
    """The plans that the model and its solver allow, by rising number of steps."""
    for steps in sorted({*range(1, MOST_STEPS + 1), defaults.steps}):
        with contextlib.suppress(UsageError):
            yield plan(schedule, Solver(defaults.solver), steps, tokens)
