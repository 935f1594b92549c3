"""Classifier-free guidance (arXiv 2207.12598)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from safegen.device import array_namespace
from safegen.loop import Model

Array = Any
Predict = Callable[[Array, float, Array], Array]
"""(x, timestep, text states (B, L, E)) -> model output."""


def guided(predict: Predict, cond: Array, uncond: Array, guidance_scale: float) -> Model:
    """Out = out_u + g (out_c - out_u), both halves in one batch; at g <= 1 the prompt's half alone."""
    if guidance_scale <= 1.0:
        return lambda x, timestep: predict(x, timestep, cond)
    xp = array_namespace(cond)
    states = xp.concat([uncond, cond], axis=0)

    def model(x: Array, timestep: float) -> Array:
        out = predict(xp.concat([x, x], axis=0), timestep, states)
        out_uncond, out_cond = out[: len(x)], out[len(x) :]
        return out_uncond + guidance_scale * (out_cond - out_uncond)

    return model
