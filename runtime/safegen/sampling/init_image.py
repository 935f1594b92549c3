"""Starting from an image instead of noise (SDEdit, arXiv 2108.01073), and redrawing only part of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from safegen.device import Array, array_namespace
from safegen.errors import UsageError
from safegen.sampling.loop import Keep
from safegen.sampling.table import Table


@dataclass(frozen=True)
class Init:
    """The image to start from."""

    pixels: NDArray[np.uint8]
    """(H, W, 3) RGB, of the size to draw."""
    strength: float
    """Share of the steps that are run, above 0 to 1: 1 keeps hardly anything."""
    mask: NDArray[np.bool_] | None = None
    """(H, W), true where the image is redrawn; None is everywhere."""


def partway(table: Table, strength: float) -> Table:
    """The last ``strength`` of a table's steps.

    Raises:
        UsageError: a strength out of range, or so low that no step is left.
    """
    if not 0.0 < strength <= 1.0:
        raise UsageError(f"strength is {strength}; it goes from above 0 to 1.")
    count = min(int(len(table) * strength), len(table))
    if count == 0:
        raise UsageError(f"strength {strength} leaves none of {len(table)} steps; raise either.")
    first, *rest = table.rows[len(table) - count :]
    # a multistep solver has no x0 before its first step: there it is of first order
    first = first._replace(b=first.b + first.c, c=0.0)
    return Table((first, *rest), table.init_noise_sigma, table.clip)


def noised_to(latents: Array, noise: Array, table: Table, steps_done: int) -> Array:
    """Clean latents with the noise that the state has after some steps; after the last, none."""
    if steps_done == len(table):
        return latents
    row = table.rows[steps_done]
    return row.alpha * latents + row.sigma * noise


def keep_outside(latents: Array, noise: Array, mask: NDArray[np.bool_], table: Table) -> Keep:
    """After each step put the image back where it is not redrawn (as diffusers does for a plain UNet).

    Args:
        latents: (B, C, H', W') of the image.
        noise: of the same shape, the picture's first noise.
        mask: (H, W) in pixels; a latent is redrawn where its upper left pixel is.
        table: of the steps that are run.
    """
    xp = array_namespace(latents)
    rows, columns = mask.shape[0] // latents.shape[2], mask.shape[1] // latents.shape[3]
    redrawn = xp.asarray(mask[None, None, ::rows, ::columns])

    def keep(x: Array, steps_done: int) -> Array:
        return xp.where(redrawn, x, noised_to(latents, noise, table, steps_done))

    return keep
