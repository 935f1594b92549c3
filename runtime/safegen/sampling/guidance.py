"""Classifier-free guidance (arXiv 2207.12598)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from safegen.device import Array, array_namespace
from safegen.sampling.conditioning import Conditioning
from safegen.sampling.loop import Model, Output
from safegen.sampling.table import Row

Predict = Callable[[Array, float, Conditioning], Array]
"""(x, timestep, conditioning of each sample) -> model output."""


def guided(predict: Predict, cond: Conditioning, uncond: Conditioning | None, guidance_scale: float) -> Model:
    """Out = out_u + g (out_c - out_u), both halves in one batch; the first half alone without ``uncond``."""
    if uncond is None:
        return lambda x, row, i, state: Output(predict(x, row.timestep, cond))
    xp = array_namespace(next(iter(cond.values())))
    both = {name: xp.concat([uncond[name], cond[name]], axis=0) for name in cond}

    def model(x: Array, row: Row, i: int, state: Any) -> Output:
        out = predict(xp.concat([x, x], axis=0), row.timestep, both)
        out_uncond, out_cond = out[: x.shape[0], ...], out[x.shape[0] :, ...]
        return Output(out_uncond + guidance_scale * (out_cond - out_uncond))

    return model
