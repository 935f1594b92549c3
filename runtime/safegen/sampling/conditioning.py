"""What a model is told besides noisy latents and timestep: named arrays, whatever the family."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safegen.device import Array, array_namespace

Conditioning = Mapping[str, Array]
"""Model input -> array (B, ...)."""
Subject = str | int | None
"""What a picture shall show: a prompt, a class label, or nothing in particular."""


def join(rows: Sequence[Sequence[str]], outputs: Mapping[str, Array]) -> Array:
    """Text states of several encoders as one input.

    Args:
        rows: each a list of names in ``outputs`` laid side by side along the features; the rows,
            padded with zeros to the widest, are laid end to end along the tokens.
        outputs: ``encoder.output`` -> (B, L, E), or (B, E) where there is one row.
    """
    xp = array_namespace(next(iter(outputs.values())))
    wide = [xp.concat([outputs[name] for name in row], axis=-1) for row in rows]
    if len(wide) == 1:
        return wide[0]
    width = max(states.shape[-1] for states in wide)
    zeros = [xp.zeros((*s.shape[:-1], width - s.shape[-1]), dtype=s.dtype) for s in wide]
    padded = [xp.concat([s, z], axis=-1) for s, z in zip(wide, zeros, strict=True)]
    return xp.concat(padded, axis=1)


def time_ids(count: int, width: int, height: int) -> NDArray[np.float32]:
    """SDXL's micro-conditioning (arXiv 2307.01952), (B, 6): original size, crop at 0, target size."""
    return np.tile(np.array([height, width, 0, 0, height, width], np.float32), (count, 1))


def guidance_embedding(count: int, guidance_scale: float, width: int) -> NDArray[np.float32]:
    """Sinusoidal embedding (B, width) of 1000 (w - 1), w the guidance scale (arXiv 2310.04378)."""
    half = width // 2
    frequencies = np.exp(-math.log(10_000) * np.arange(half) / (half - 1))
    angles = 1000.0 * (guidance_scale - 1.0) * frequencies
    row = np.concatenate([np.sin(angles), np.cos(angles), np.zeros(width - 2 * half)])
    return np.tile(row.astype(np.float32), (count, 1))


def repeat(conditioning: Conditioning, count: int) -> dict[str, Array]:
    """One sample's conditioning for ``count`` samples."""
    return {
        name: array_namespace(values).repeat(values, count, axis=0) for name, values in conditioning.items()
    }


def of_numbers(
    inputs: Mapping[str, tuple[str, list[Any]]], count: int, size: tuple[int, int], guidance_scale: float
) -> dict[str, Array]:
    """Those inputs of a model that size and guidance scale alone determine, for ``count`` samples."""
    given: dict[str, Array] = {}
    if "time_ids" in inputs:
        given["time_ids"] = time_ids(count, *size)
    if "guidance" in inputs:
        given["guidance"] = np.full(count, guidance_scale, np.float32)
    if "timestep_cond" in inputs:
        width = int(inputs["timestep_cond"][1][-1])
        given["timestep_cond"] = guidance_embedding(count, guidance_scale, width)
    return given
