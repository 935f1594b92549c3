"""Regions of a picture: what ``ratio`` judges one by one where pictures hold several things.

Of a scene every reference shares most with ordinary scenes, and no bank holds all combinations; of its
quarters each shows one thing, which a bank can hold. A thing that lies elsewhere in each picture is found by
regions that overlap (docs/guards.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from safegen.device import Array, array_namespace
from safegen.guard.bank import Bank, evidence_at
from safegen.sampling.loop import Evidence

SIDES = (1, 2, 4)
"""How many regions a picture may have a side: whole, quarters, sixteenths."""
STEPS = 32
"""Regions that overlap begin every 32nd of their side, at every latent of 64x64 cut to quarters: a thing that
lies between them is missed (research/tried.md)."""
SHUT, OUTSIDE = -1e30, -2e30
"""Below any evidence: of a region whose gate is shut, and of one that does not reach there."""


@dataclass(frozen=True)
class Axis:
    """How regions lie along the height or the width of a picture."""

    count: int
    """Regions."""
    side: int
    """Latents of each."""
    step: int
    """Latents from one's begin to the next's."""

    @property
    def latents(self) -> list[int]:
        """Which latents the regions hold, one after the other."""
        return [self.step * i + k for i in range(self.count) for k in range(self.side)]

    @property
    def steps(self) -> int:
        """Steps in a region."""
        return self.side // self.step

    @property
    def total(self) -> int:
        """Steps in the picture."""
        return self.count - 1 + self.steps

    @property
    def covering(self) -> list[int]:
        """Which region lies so, for every step of the picture and every step of a region that may lie there.

        The nearest stands in where :attr:`outside` says that there is none.
        """
        return [min(max(i, 0), self.count - 1) for i in self._begins()]

    @property
    def outside(self) -> Any:
        """0 where there is such a region, :data:`OUTSIDE` elsewhere: (total, steps) float32."""
        covers = np.array([0 <= i < self.count for i in self._begins()])
        return np.where(covers, np.float32(0.0), np.float32(OUTSIDE)).reshape(self.total, self.steps)

    def _begins(self) -> list[int]:
        return [place - own for place in range(self.total) for own in range(self.steps)]


@dataclass(frozen=True)
class Regions:
    """How pictures are cut to regions."""

    sides: int = 1
    """A region's height and width are the picture's divided by this, one of :data:`SIDES`."""
    anywhere: bool = False
    """They overlap (:data:`STEPS`); negation images show the thing alone, as large as a region."""

    def fits(self, latent_shape: tuple[int, int, int]) -> bool:
        """Whether latents (C, H, W) can be cut so."""
        whole = self.sides in SIDES and not any(length % self.sides for length in latent_shape[1:])
        return whole and (self.sides > 1 or not self.anywhere)

    def along(self, length: int) -> Axis:
        """The regions along a height or width of so many latents."""
        side = length // self.sides
        if not self.anywhere:
            return Axis(self.sides, side, side)
        step = max(d for d in range(1, max(1, side // STEPS) + 1) if side % d == 0)
        return Axis((length - side) // step + 1, side, step)

    def count(self, shape: Sequence[int]) -> int:
        """Regions of a picture with latents of shape (..., H, W)."""
        return self.along(shape[-2]).count * self.along(shape[-1]).count

    @property
    def rows(self) -> int:
        """Rows of the negation bank that are of one image."""
        return 1 if self.anywhere else self.sides**2


WHOLE = Regions()


def cut(x: Array, regions: Regions) -> Array:
    """(B, C, H, W) to the M regions of each picture, row by row: (B M, C, H / s, W / s)."""
    if regions.sides == 1:
        return x
    xp, (_, channels, height, width) = array_namespace(x), x.shape
    rows, columns = regions.along(height), regions.along(width)
    if regions.anywhere:
        x = _take(_take(x, rows.latents, 2), columns.latents, 3)
    grid = xp.reshape(x, (-1, channels, rows.count, rows.side, columns.count, columns.side))
    parts = xp.permute_dims(grid, (0, 2, 4, 1, 3, 5))
    return xp.reshape(parts, (-1, channels, rows.side, columns.side))


def join(parts: Array, sides: int) -> Array:
    """The inverse of :func:`cut` for ``sides`` regions a side that do not overlap."""
    if sides == 1:
        return parts
    xp, (_, channels, height, width) = array_namespace(parts), parts.shape
    grid = xp.reshape(parts, (-1, sides, sides, channels, height, width))
    return xp.reshape(
        xp.permute_dims(grid, (0, 3, 1, 4, 2, 5)), (-1, channels, sides * height, sides * width)
    )


def at_random(x: Any, regions: Regions, rng: np.random.Generator) -> Any:
    """Of each picture s s regions drawn by lot, on the host: (B, C, H, W) to (B s s, C, H / s, W / s).

    Regions that overlap are many, and share most of what they show.
    """
    if not regions.anywhere:
        return cut(x, regions)
    count, several = regions.count(x.shape), regions.sides**2
    chosen = [rng.choice(count, several, replace=False) for _ in x]
    return np.concatenate([cut(x[i : i + 1], regions)[some] for i, some in enumerate(chosen)])


def steered(x0: Array, parts: Array, moved: Array, evidence: Evidence, regions: Regions) -> Array:
    """Pictures with what a guard made of their regions.

    Where regions overlap, the strongest of those that it moved decides.

    Args:
        x0: (B, C, H, W) the pictures.
        parts: (B M, C, H / s, W / s) their regions.
        moved: the same after the guard.
        evidence: of each region.
        regions: how they lie.
    """
    if not regions.anywhere:
        return join(moved, regions.sides)
    xp = array_namespace(x0)
    shut = xp.zeros_like(evidence.value) + SHUT
    return x0 + strongest(moved - parts, xp.where(evidence.weight > 0.0, evidence.value, shut), regions)


def strongest(parts: Array, strength: Array, regions: Regions) -> Array:
    """Overlapping regions to pictures; each latent is that of the strongest region which covers it.

    Args:
        parts: (B M, C, H / s, W / s).
        strength: (B M,), well above :data:`OUTSIDE`.
        regions: how they lie.
    """
    xp, (_, channels, height, width) = array_namespace(parts), parts.shape
    rows, columns = regions.along(height * regions.sides), regions.along(width * regions.sides)
    # of each step of the picture the steps of regions that may cover it, by the strength of their region
    value = xp.reshape(strength, (-1, rows.count, columns.count))
    value = _take(_take(value, rows.covering, 1), columns.covering, 2)
    value = xp.reshape(value, (-1, rows.total, rows.steps, columns.total, columns.steps))
    value = value + xp.asarray(rows.outside[:, :, None, None]) + xp.asarray(columns.outside)
    value = xp.permute_dims(value, (0, 1, 3, 2, 4))
    across = columns.steps
    best = xp.argmax(xp.reshape(value, (-1, rows.total, columns.total, rows.steps * across)), axis=-1)
    u = best // across
    v = best - u * across
    # which of the picture's steps, then which region's step that is
    i, j = (
        xp.asarray(np.arange(rows.total)[None, :, None]),
        xp.asarray(np.arange(columns.total)[None, None, :]),
    )
    row, column = u - (u - i) * rows.steps, v - (v - j) * across
    chosen = xp.reshape(row * (columns.count * across) + column, (-1, rows.total * columns.total, 1))
    split = (-1, rows.count, columns.count, channels, rows.steps, rows.step, across, columns.step)
    steps = xp.permute_dims(xp.reshape(parts, split), (0, 1, 4, 2, 6, 3, 5, 7))
    numbers = channels * rows.step * columns.step
    steps = xp.reshape(steps, (-1, rows.count * rows.steps * columns.count * across, numbers))
    grid = xp.reshape(
        xp.take_along_axis(steps, chosen, axis=1),
        (-1, rows.total, columns.total, channels, rows.step, columns.step),
    )
    whole = xp.permute_dims(grid, (0, 3, 1, 4, 2, 5))
    return xp.reshape(whole, (-1, channels, rows.total * rows.step, columns.total * columns.step))


def _take(x: Array, indices: list[int], axis: int) -> Array:
    xp = array_namespace(x)
    return xp.take(x, xp.asarray(np.array(indices)), axis=axis)


def largest(values: Array, count: int) -> Array:
    """One number a region to the largest of each picture's ``count``: (B M,) to (B,)."""
    if count == 1:
        return values
    return array_namespace(values).max(_of_pictures(values, count), axis=-1)


def strongest_evidence(x0: Array, bank: Bank, bandwidth: Any, regions: Regions) -> Array:
    """:func:`evidence_at` of each picture's strongest region: (B, C, H, W) to (B,)."""
    values = evidence_at(cut(x0, regions), bank, bandwidth)
    return largest(values, regions.count(x0.shape))


def of_pictures(evidence: Evidence, count: int, rows: int) -> Evidence:
    """The evidence of regions as that of pictures: each one's strongest region speaks for it.

    Args:
        evidence: of regions.
        count: how many a picture has.
        rows: how many rows of the bank an image has: ``nearest`` goes from a row to its image.
    """
    if count == 1:
        return evidence
    xp = array_namespace(evidence.value)
    value, nearest = (_of_pictures(v, count) for v in (evidence.value, evidence.nearest))
    highest = value >= xp.max(value, axis=-1, keepdims=True)
    image = xp.max(xp.where(highest, nearest, xp.zeros_like(nearest)), axis=-1) // rows
    return Evidence(xp.max(value, axis=-1), largest(evidence.weight, count), image)


def _of_pictures(values: Array, count: int) -> Array:
    return array_namespace(values).reshape(values, (-1, count))
