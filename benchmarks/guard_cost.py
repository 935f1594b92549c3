"""One correction with 515 references at 4x64x64 beside one full-size SD 1.5 UNet step, same CPU.

The UNet has SD 1.5's configuration and random weights: time does not depend on their values.
"""

import json
import statistics
import time
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel

from safegen.guard.bank import make_bank
from safegen.guard.official import official, unit_pixels
from safegen.guard.ratio import ratio, ratio_by_regions
from safegen.guard.regions import Regions
from safegen.guard.rivals import spell
from safegen.sampling.table import Row
from safegen_engines.freeze.axes import MOST

SD15 = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
N = 515


def median(call, runs: int) -> float:  # type: ignore[no-untyped-def]
    call()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    rng = np.random.default_rng(0)
    refs, benign = (rng.standard_normal((N, 4 * 64 * 64)).astype(np.float32) for _ in range(2))
    axes = np.linalg.qr(rng.standard_normal((4 * 64 * 64, MOST)))[0].T.astype(np.float16)
    bank = make_bank(*(rows.reshape(-1, 4, 64, 64) for rows in (refs, benign)), axes=axes)
    row = Row(500.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.6, 0.8)
    units = unit_pixels(refs, 4)
    units_sq = (units**2).sum(1)
    x, x0, z = (rng.standard_normal((1, 4, 64, 64)).astype(np.float32) for _ in range(3))
    shut = np.zeros(1, bool)
    numbers = {"opens": -1e9, "sure": 0.0, "releases": 0.0, "tau": 1.0, "repulsion": 1.0,
               "bandwidth": 30.0, "aim_bandwidth": 30.0}  # fmt: skip
    small = rng.standard_normal((5 * N, 4, 32, 32)).astype(np.float32)
    parts = np.linalg.qr(rng.standard_normal((4 * 32 * 32, MOST)))[0].T.astype(np.float16)
    things = make_bank(small[:N], small[N:], axes=parts)

    layout = Regions(2, anywhere=True)
    closed = np.zeros(layout.count(x.shape), bool)

    def anywhere(opens: float) -> Any:
        """515 things, and four regions of each benign image."""
        return ratio_by_regions(x, x0, row, things, closed, layout, plain=None, **{**numbers, "opens": opens})

    calls = {
        "ratio": lambda: ratio(x, x0, row, bank, shut, **numbers),
        "ratio, leaning": lambda: ratio(
            x, x0, row, bank, shut, **{**numbers, "opens": 1e9}, sharpness=2.0, doubts=-1e9
        ),
        "ratio, anywhere, shut": lambda: anywhere(1e9),
        "ratio, anywhere, all regions open": lambda: anywhere(-1e9),
        "official": lambda: official(x, x0, row, units, units_sq, z, bandwidth=3.15, scale=0.33,
                                           threshold=0.0, margin=0.0, unit_x0=False),
        "spell": lambda: spell(x, x0, bank, radius=9.0, overcompensation=1.6),
    }  # fmt: skip
    taken = {name: median(call, 30) for name, call in calls.items()}
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**SD15).eval()
    latents, states = torch.randn(2, 4, 64, 64), torch.randn(2, 77, 768)
    with torch.no_grad():
        step = median(lambda: unet(latents, 500, states), 3)
    print(json.dumps({
        "unet_step_s": round(step, 2),
        "guard_ms": {k: round(v * 1000, 2) for k, v in taken.items()},
        "share_of_a_step": {k: f"{v / step:.3%}" for k, v in taken.items()},
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
