"""One correction with 515 references at 4x64x64 beside one full-size SD 1.5 UNet step, same CPU.

The UNet has SD 1.5's configuration and random weights: time does not depend on their values.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel

from safegen.guard import official, ratio
from safegen.guard.bank import make_bank
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


def calls_of(rng: np.random.Generator) -> dict[str, Callable[[], object]]:
    """One correction of one picture by each guard."""
    refs, benign = (rng.standard_normal((N, 4, 64, 64)).astype(np.float32) for _ in range(2))
    bank = make_bank(refs, benign, axes=axes_of(rng, 4 * 64 * 64))
    row = Row(500.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.6, 0.8)
    unit = official.unit_pixels(bank.refs, 4)
    units = official.Units(unit, (unit**2).sum(1))
    x, x0, z = (rng.standard_normal((1, 4, 64, 64)).astype(np.float32) for _ in range(3))
    small = rng.standard_normal((5 * N, 4, 32, 32)).astype(np.float32)
    things = make_bank(small[:N], small[N:], axes=axes_of(rng, 4 * 32 * 32))
    layout, shut = Regions(2, anywhere=True), np.zeros(1, bool)
    closed = np.zeros(layout.count(x.shape), bool)

    def whole(threshold: float) -> object:
        return ratio.ratio(x, x0, row, bank, shut, ratio.Numbers(threshold, 30.0, 1.0))

    def anywhere(threshold: float) -> object:
        """515 things, and four regions of each benign image."""
        numbers = ratio.Numbers(threshold, 30.0, 1.0)
        return ratio.ratio_by_regions(x, x0, row, things, closed, numbers, layout)

    return {
        "ratio, shut": lambda: whole(1e9),
        "ratio": lambda: whole(-1e9),
        "ratio, anywhere, shut": lambda: anywhere(1e9),
        "ratio, anywhere, all regions open": lambda: anywhere(-1e9),
        "official": lambda: official.official(x, x0, row, units, z, official.Numbers(3.15, 0.33, 0.0)),
        "spell": lambda: spell(x, x0, bank, radius=9.0, overcompensation=1.6),
    }


def axes_of(rng: np.random.Generator, width: int) -> Any:
    return np.linalg.qr(rng.standard_normal((width, MOST)))[0].T.astype(np.float16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=30, help="corrections timed")
    parser.add_argument("--guard-only", action="store_true", help="leave the UNet out")
    args = parser.parse_args()
    calls = calls_of(np.random.default_rng(0))
    taken = {name: median(call, args.runs) for name, call in calls.items()}
    found: dict[str, Any] = {"guard_ms": {k: round(v * 1000, 2) for k, v in taken.items()}}
    if not args.guard_only:
        torch.manual_seed(0)
        unet = UNet2DConditionModel(**SD15).eval()
        latents, states = torch.randn(2, 4, 64, 64), torch.randn(2, 77, 768)
        with torch.no_grad():
            step = median(lambda: unet(latents, 500, states), 3)
        found |= {
            "unet_step_s": round(step, 2),
            "share_of_a_step": {k: f"{v / step:.3%}" for k, v in taken.items()},
        }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
