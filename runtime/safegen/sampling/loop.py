"""The only sampling loop: model, guidance, x0, guard, solver step, for every model and solver."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from safegen.device import Array, array_namespace
from safegen.sampling import noise
from safegen.sampling.table import Row, Table


class Steered(NamedTuple):
    """A model output that a text guard changed, and what it was before."""

    out: Array
    plain: Array


Model = Callable[[Array, float], Array | Steered]
"""(x, timestep) -> model output, guidance included; (B, C, H, W) -> (B, C, H, W)."""


class Evidence(NamedTuple):
    """What a guard saw and did at one step, per sample."""

    value: Array
    """(B,) how strongly the sample speaks for the bank; the gate opens above 0."""
    weight: Array
    """(B,) strength of the correction; 0 where the gate stayed shut, below 0 where a picture in doubt was
    leaned by so much (:func:`safegen.guard.ratio.lean`)."""
    nearest: Array
    """(B,) index of the reference that counts most."""


Draw = Callable[[int], Array]
"""Step index -> fresh noise (B, C, H, W)."""
Keep = Callable[[Array, int], Array]
"""(x, steps done) -> x with what is not redrawn put back."""


class OpenGuard(Protocol):
    """A guard in the plan that it was opened for; no evidence where it does not look."""

    def __call__(
        self, x: Array, x0: Array, i: int, draw: Draw, plain: Array | None = None
    ) -> tuple[Array, Array, Evidence | None]:
        """(x, x0, step index, draw) -> (x, x0, evidence); ``plain`` is x0 without a text guard."""


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


def denoise(
    model: Model, x: Array, table: Table, guard: OpenGuard, seeds: Sequence[int], keep: Keep | None = None
) -> Iterator[Step]:
    """Walk the table from x_T to the picture, handing out each step.

    Step i draws its solver noise as draw i + 1 of stream 0 and its guard noise as draw i + 1 of
    stream 1, so a guard never changes what the solver draws. ``keep`` puts back what is not redrawn.
    """
    xp = array_namespace(x)
    shape = x.shape[1:]
    x0_prev: Array = None

    def draw(i: int, stream: int = 1) -> Array:
        return xp.asarray(noise.normal_batch(seeds, i + 1, shape, stream=stream))

    def foreseen(row: Row, x: Array, out: Array) -> Array:
        x0 = row.x0_x * x + row.x0_out * out
        return x0 if table.clip is None else xp.clip(x0, -table.clip, table.clip)

    for i, row in enumerate(table.rows):
        out = model(x * row.input_scale, row.timestep)
        plain = None
        if isinstance(out, Steered):
            out, plain = out.out, foreseen(row, x, out.plain)
        x, x0, evidence = guard(x, foreseen(row, x, out), i, draw, plain)
        x = row.a * x + row.b * x0
        if row.c:
            x = x + row.c * x0_prev
        if row.d:
            x = x + row.d * draw(i, stream=0)
        if keep:
            x = keep(x, i + 1)
        x0_prev = x0
        yield Step(i, len(table), row, x, x0, evidence)
