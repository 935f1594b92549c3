"""One step of the loop as an ONNX graph: guidance, x0, guard and solver, for hosts without array code.

The guard's nodes are recorded from the array code of ``safegen.guard`` itself
(:mod:`safegen_engines.graph.array_trace`), so there is one source of its arithmetic. Numbers of the step and
of the guard come in one vector, ``row``; banks are inputs: a new bundle needs no new graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from safegen.guard import official, ratio
from safegen.guard.bank import Bank, Metric, flat
from safegen.guard.paper import paper
from safegen.guard.regions import SIDES, WHOLE, Regions, cut, of_pictures, steered
from safegen.sampling.loop import Evidence
from safegen.sampling.table import Table
from safegen_engines.graph.array_trace import Array, Graph, Namespace

STEP = ("guidance_scale", "x0_x", "x0_out", "clip", "a", "b", "c", "d", "next_scale", "looks")
"""``clip`` is infinite where x0 is not clipped; ``looks`` is 1 where the guard acts at this step, else 0."""
NOISE = ("alpha", "sigma", "kernel", "half", "spread", "early")
"""Of :class:`safegen.sampling.table.Row`; ``kernel`` and ``half`` are its :meth:`kernel`."""
NUMBERS: dict[str, tuple[str, ...]] = {
    "ratio": ratio.Numbers._fields,
    "paper": ("threshold", "usual", "eta", "log_cap"),
    "official": (*official.Numbers._fields, "sd3"),
    "off": (),
}
"""What each guard takes besides, as its module in ``safegen.guard`` names it."""


def names(mode: str) -> tuple[str, ...]:
    """The entries of ``row`` for a guard, in order."""
    return (*STEP, *NOISE, *NUMBERS[mode])


def row_of(
    table: Table,
    i: int,
    mode: str,
    guidance_scale: float,
    numbers: Mapping[str, float],
    *,
    looks: bool = True,
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The vector ``row`` of step i.

    Args:
        table: the plan.
        i: the step, from 0.
        mode: which guard.
        guidance_scale: 1 where the model runs once; both model outputs are then the same.
        numbers: the guard's, by the names of :data:`NUMBERS`.
        looks: whether the guard acts at this step.
    """
    row = table.rows[i]
    kernel, half = row.kernel() if row.sigma else (0.0, 0.0)
    following = table.rows[i + 1].input_scale if i + 1 < len(table) else 1.0
    clip = np.inf if table.clip is None else table.clip
    values = (
        guidance_scale, row.x0_x, row.x0_out, clip, row.a, row.b, row.c, row.d, following, float(looks),
        row.alpha, row.sigma, kernel, half, row.spread, row.early,
        *(numbers[name] for name in NUMBERS[mode]),
    )  # fmt: skip
    return np.array(values, np.float32)


class _TracedRow:
    """Stands for :class:`safegen.sampling.table.Row` with numbers that come in when the graph runs."""

    def __init__(self, numbers: Mapping[str, Array]) -> None:
        self.alpha, self.sigma = numbers["alpha"], numbers["sigma"]
        self.spread, self.early = numbers["spread"], numbers["early"]
        self._kernel = numbers["kernel"], numbers["half"]

    def kernel(self) -> tuple[Array, Array]:
        """The two factors."""
        return self._kernel


def write(folder: Path, guards: Sequence[str], latent_shape: tuple[int, int, int]) -> dict[str, Path]:
    """Write the step graph of each guard and return guard -> file.

    ``ratio-2x2`` is that of quarters, ``ratio-2x2-anywhere`` that of regions as large which overlap.
    """
    files = {}
    for mode in guards:
        for regions in _regions(mode):
            if regions.fits(latent_shape):
                by = f"-{regions.sides}x{regions.sides}" if regions.sides > 1 else ""
                by += "-anywhere" if regions.anywhere else ""
                files[mode + by] = folder / f"step_{mode}{by}.onnx"
                onnx.save_model(build(mode, latent_shape, regions), files[mode + by])
    return files


def _regions(mode: str) -> tuple[Regions, ...]:
    """The regions that a guard has a graph for."""
    if mode != "ratio":
        return (WHOLE,)
    return (*(Regions(sides) for sides in SIDES), *(Regions(sides, anywhere=True) for sides in SIDES[1:]))


def digest() -> str:
    """SHA-256 over every guard's graph: it changes with the guards' own lines."""
    whole = hashlib.sha256()
    for mode in NUMBERS:
        for regions in _regions(mode):
            whole.update(build(mode, (4, 8, 8), regions).SerializeToString(deterministic=True))
    return whole.hexdigest()


def build(mode: str, latent_shape: tuple[int, int, int], regions: Regions = WHOLE) -> onnx.ModelProto:
    """The step graph of a guard for latents of one shape; batch and bank sizes are free.

    Inputs: ``x``, ``x0_prev``, ``out_uncond``, ``out_cond``, ``z_guard``, ``z_step`` (B, C, H, W);
    ``latched`` (B,) bool; ``refs`` (N, D), ``refs_sq`` (N,), ``benign`` (M, D), ``benign_sq`` (M,)
    (``official``: unit pixels in ``refs``); ``target_mask`` (M,); ``row`` (:func:`names`,). ``ratio`` alone
    has its gate's metric, ``axes`` (K, D), ``refs_along`` (N, K), ``refs_along_sq`` (N,), ``benign_along``
    (M, K), ``benign_along_sq`` (M,), and may judge R regions a picture, s a side: D is then C H W / s s and
    ``latched`` (B R,).
    Outputs: ``x_next``, ``x0``, ``sample`` (x_next scaled for the model), ``sample_twice`` (2B, C, H, W) for
    a guided model in one batch, ``latched_next``, and ``value``, ``weight``, ``nearest`` (B,), as
    :class:`safegen.sampling.loop.Evidence`.
    """
    graph, entries = Graph(), names(mode)
    pictures = ("B", *latent_shape)
    given = ("x", "x0_prev", "out_uncond", "out_cond", "z_guard", "z_step")
    x, x0_prev, uncond, cond, z_guard, z_step = (graph.argument(name, pictures) for name in given)
    per_picture: Sequence[int | str] = ("B",)
    count = regions.count(latent_shape)
    per_region: Sequence[int | str] = per_picture if count == 1 else (f"{count}*B",)
    latched = graph.argument("latched", per_region, "bool")
    size = int(np.prod(latent_shape)) // regions.sides**2
    refs, refs_sq = graph.argument("refs", ("N", size)), graph.argument("refs_sq", ("N",))
    benign, benign_sq = graph.argument("benign", ("M", size)), graph.argument("benign_sq", ("M",))
    mask = graph.argument("target_mask", ("M",))
    metric = None
    if mode == "ratio":
        unsafe = graph.argument("refs_along", ("N", "K")), graph.argument("refs_along_sq", ("N",))
        safe = graph.argument("benign_along", ("M", "K")), graph.argument("benign_along_sq", ("M",))
        metric = Metric(graph.argument("axes", ("K", size)), *unsafe, *safe)
    bank = Bank(refs, refs_sq, benign, benign_sq, mask, metric)
    vector = graph.argument("row", (len(entries),))
    number = {name: vector[i] for i, name in enumerate(entries)}
    out = uncond + number["guidance_scale"] * (cond - uncond)
    x0 = number["x0_x"] * x + number["x0_out"] * out
    x0 = Namespace.clip(x0, -number["clip"], number["clip"])
    parts = cut(x0, regions)
    numbers = {name: number[name] for name in NUMBERS[mode]}
    seen = _guarded(mode, cut(x, regions), parts, _TracedRow(number), numbers, bank, latched, z_guard)
    looks = number["looks"] > 0.5
    # by regions the guard is ratio, which leaves x as it is
    moved = seen[:2] if regions == WHOLE else (x, steered(x0, parts, seen[1], seen[2], regions))
    x_seen, x0_seen = (Namespace.where(looks, a, b) for a, b in zip(moved, (x, x0), strict=True))
    x_next = number["a"] * x_seen + number["b"] * x0_seen + number["c"] * x0_prev + number["d"] * z_step
    evidence = of_pictures(seen[2], count, regions.rows)
    weight = Namespace.where(looks, evidence.weight, Namespace.zeros_like(evidence.value))
    opened = latched | ((seen[2].value > 0.0) & looks)
    sample = number["next_scale"] * x_next
    return graph.build(
        {
            "x_next": (x_next, pictures),
            "x0": (x0_seen, pictures),
            "sample": (sample, pictures),
            "sample_twice": (Namespace.concat([sample, sample]), ("2*B", *latent_shape)),
            "latched_next": (opened, per_region),
            "value": (evidence.value, per_picture),
            "weight": (weight, per_picture),
            "nearest": (evidence.nearest, per_picture),
        }
    )


def _guarded(
    mode: str, x: Any, x0: Any, row: Any, numbers: dict[str, Any], bank: Bank, latched: Array, z: Array
) -> Any:
    """(x, x0, evidence) after the guard, recorded from its own lines."""
    if mode == "ratio":
        return ratio.ratio(x, x0, row, bank, latched, ratio.Numbers(**numbers))
    if mode == "paper":
        return paper(x, x0, row, bank, **numbers)
    if mode == "official":
        return _official(x, x0, row, bank, z, numbers)
    zero = Namespace.max(flat(x), axis=-1) * 0.0
    return x, x0, Evidence(zero, zero, Namespace.argmax(flat(x), axis=-1))


def _official(x: Any, x0: Any, row: Any, bank: Bank, z: Array, numbers: dict[str, Any]) -> Any:
    """The released program's two steps, SD3's and that of all others, and the one that is wanted."""
    wanted = numbers.pop("sd3") > 0.5
    units, own = official.Units(bank.refs, bank.refs_sq), official.Numbers(**numbers)
    usual, sd3 = (official.official(x, x0, row, units, z, own, sd3=flag) for flag in (False, True))
    moved = [Namespace.where(wanted, b, a) for a, b in zip(usual[:2], sd3[:2], strict=True)]
    evidence = [Namespace.where(wanted, b, a) for a, b in zip(usual[2], sd3[2], strict=True)]
    return *moved, Evidence(*evidence)
