"""The only sampling loop: model, guidance, x0, guard, solver step, for every model and solver."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from safegen.device import Array, array_namespace
from safegen.sampling import noise
from safegen.sampling.table import Row, Table


class Output(NamedTuple):
    """What a model makes of one step, guidance included."""

    out: Array
    """(B, C, H, W)."""
    state: Any = None
    """What it wants to be given at the next step."""
    plain: Array | None = None
    """The same without a text guard, where one changed it."""


Model = Callable[[Array, Row, int, Any], Output]
"""(x scaled for the model, row, step index, state) -> output; the state is None at the first step."""


class Evidence(NamedTuple):
    """What a guard saw and did at one step, per sample."""

    value: Array
    """(B,) how strongly the sample speaks for the bank; the gate opens above 0."""
    weight: Array
    """(B,) strength of the correction; 0 where the gate stayed shut."""
    nearest: Array
    """(B,) index of the reference that counts most."""


Keep = Callable[[Array, int], Array]
"""(x, steps done) -> x with what is not redrawn put back."""
Guarded = tuple[Array, Array, Evidence | None, Any]
"""(x, x0, evidence, state); no evidence where the guard does not look."""


def no_state(x: Array, seeds: Sequence[int]) -> None:
    """The state of a guard that has none."""


@dataclass(frozen=True)
class OpenGuard:
    """A guard in the plan that it was opened for. It remembers nothing: the loop hands on its state."""

    look: Callable[[Array, Array, int, Any, Array | None], Guarded]
    """(x, x0, step index, state, plain) -> what the guard makes of them."""
    start: Callable[[Array, Sequence[int]], Any] = no_state
    """(x_T, seeds) -> the state at the first step."""
    latches: bool = False
    """Whether a gate that has opened stays open."""

    def __call__(self, x: Array, x0: Array, i: int, state: Any, plain: Array | None = None) -> Guarded:
        """Judge one step, and correct it.

        Args:
            x: (B, C, H, W) the noisy latents.
            x0: (B, C, H, W) what the model foresees.
            i: step index.
            state: of :attr:`start`, or what the step before gave.
            plain: x0 without the text guard beside this one; None where there is none.
        """
        return self.look(x, x0, i, state, plain)


def stateless(look: Callable[[Array, Array, int], tuple[Array, Array, Evidence | None]]) -> OpenGuard:
    """A guard that looks at each step by itself."""
    return OpenGuard(lambda x, x0, i, state, plain: (*look(x, x0, i), state))


@dataclass(frozen=True)
class Step:
    """The state after one step."""

    index: int
    count: int
    """How many steps there are."""
    row: Row
    x: Array
    """(B, C, H, W) the next latents."""
    x0: Array
    """(B, C, H, W) the clean picture the model foresees, as the guard left it."""
    evidence: Evidence | None


def first_latents(table: Table, seeds: Sequence[int], shape: Sequence[int], xp: Any) -> Array:
    """x_T: draw 0 of each seed, (B, C, H, W), scaled for the solver."""
    return xp.asarray(noise.normal_batch(seeds, 0, shape)) * table.init_noise_sigma


def step_noise(x: Array, seeds: Sequence[int], i: int, *, stream: int = 0) -> Array:
    """Fresh noise of x's shape for step i: draw i + 1 of the solver's stream 0, or of the guards' stream 1.

    So a guard never changes what the solver draws.
    """
    return array_namespace(x).asarray(noise.normal_batch(seeds, i + 1, x.shape[1:], stream=stream))


def foreseen(table: Table, row: Row, x: Array, out: Array) -> Array:
    """The clean picture x0 that a model output means."""
    x0 = row.x0_x * x + row.x0_out * out
    return x0 if table.clip is None else array_namespace(x).clip(x0, -table.clip, table.clip)


def denoise(
    model: Model, x: Array, table: Table, guard: OpenGuard, seeds: Sequence[int], keep: Keep | None = None
) -> Iterator[Step]:
    """Walk the table from x_T to the picture, handing out each step.

    ``keep`` puts back what is not redrawn.
    """
    x0_prev: Array = None
    of_model, of_guard = None, guard.start(x, seeds)
    for i, row in enumerate(table.rows):
        out, of_model, steered_from = model(x * row.input_scale, row, i, of_model)
        plain = None if steered_from is None else foreseen(table, row, x, steered_from)
        x, x0, evidence, of_guard = guard(x, foreseen(table, row, x, out), i, of_guard, plain)
        x = row.a * x + row.b * x0
        if row.c:
            x = x + row.c * x0_prev
        if row.d:
            x = x + row.d * step_noise(x, seeds, i)
        if keep:
            x = keep(x, i + 1)
        x0_prev = x0
        yield Step(i, len(table), row, x, x0, evidence)
