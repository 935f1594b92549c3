"""Regions of a picture: what ``ratio`` judges one by one where pictures hold several things.

Of a scene every reference shares most with ordinary scenes, and no bank holds all combinations; of its
quarters each shows one thing, which a bank can hold (docs/guards.md).
"""

from __future__ import annotations

from typing import Any

from safegen.device import array_namespace
from safegen.guard import Bank, Evidence, foreseen_log_ratio

SIDES = (1, 2, 4)
"""How many regions a picture may have a side: whole, quarters, sixteenths."""

Array = Any


def fits(sides: int, latent_shape: tuple[int, int, int]) -> bool:
    """Whether latents (C, H, W) can be cut into so many regions a side."""
    return sides in SIDES and not any(length % sides for length in latent_shape[1:])


def cut(x: Array, sides: int) -> Array:
    """(B, C, H, W) to the regions of each picture, row by row: (B s s, C, H / s, W / s)."""
    if sides == 1:
        return x
    xp, (_, channels, height, width) = array_namespace(x), x.shape
    part = (channels, height // sides, width // sides)
    grid = xp.reshape(x, (-1, channels, sides, part[1], sides, part[2]))
    return xp.reshape(xp.permute_dims(grid, (0, 2, 4, 1, 3, 5)), (-1, *part))


def join(parts: Array, sides: int) -> Array:
    """The inverse of :func:`cut`."""
    if sides == 1:
        return parts
    xp, (_, channels, height, width) = array_namespace(parts), parts.shape
    grid = xp.reshape(parts, (-1, sides, sides, channels, height, width))
    return xp.reshape(
        xp.permute_dims(grid, (0, 3, 1, 4, 2, 5)), (-1, channels, sides * height, sides * width)
    )


def largest(values: Array, sides: int) -> Array:
    """One number a region to the largest of each picture: (B s s,) to (B,)."""
    if sides == 1:
        return values
    return array_namespace(values).max(_of_pictures(values, sides), axis=-1)


def strongest_foreseen(x0: Array, bank: Bank, bandwidth: Any, sides: int) -> Array:
    """:func:`safegen.guard.foreseen_log_ratio` of each picture's strongest region: (B, C, H, W) to (B,)."""
    return largest(foreseen_log_ratio(cut(x0, sides), bank, bandwidth), sides)


def of_pictures(evidence: Evidence, sides: int) -> Evidence:
    """The evidence of regions as that of pictures: each one's strongest region speaks for it.

    ``nearest`` goes from a region of the bank to the image that it is of.
    """
    if sides == 1:
        return evidence
    xp = array_namespace(evidence.value)
    value, nearest = (_of_pictures(v, sides) for v in (evidence.value, evidence.nearest))
    strongest = value >= xp.max(value, axis=-1, keepdims=True)
    image = xp.max(xp.where(strongest, nearest, xp.zeros_like(nearest)), axis=-1) // sides**2
    return Evidence(xp.max(value, axis=-1), largest(evidence.weight, sides), image)


def _of_pictures(values: Array, sides: int) -> Array:
    return array_namespace(values).reshape(values, (-1, sides**2))
