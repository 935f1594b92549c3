"""Classifier-free guidance (arXiv 2207.12598)."""

from __future__ import annotations

from collections.abc import Callable

from safegen.device import Array, array_namespace
from safegen.sampling.conditioning import Conditioning
from safegen.sampling.loop import Model

Predict = Callable[[Array, float, Conditioning], Array]
"""(x, timestep, conditioning of each sample) -> model output."""


def guided(predict: Predict, cond: Conditioning, uncond: Conditioning | None, guidance_scale: float) -> Model:
    """Out = out_u + g (out_c - out_u), both halves in one batch; the first half alone without ``uncond``."""
    if uncond is None:
        return lambda x, timestep: predict(x, timestep, cond)
    xp = array_namespace(next(iter(cond.values())))
    both = {name: xp.concat([uncond[name], cond[name]], axis=0) for name in cond}

    def model(x: Array, timestep: float) -> Array:
        out = predict(xp.concat([x, x], axis=0), timestep, both)
        out_uncond, out_cond = out[: x.shape[0], ...], out[x.shape[0] :, ...]
        return out_uncond + guidance_scale * (out_cond - out_uncond)

    return model
