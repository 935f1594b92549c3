"""Writes the golden bundle and its numbers, which both hosts must give; run it as a script.

Run once for a schema: a difference that shows here must be meant. The numbers come from plain arithmetic of
this file, not from the package.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from safegen.format.bundle import BundleInfo, write_bundle
from safegen.guard.gate import Density, Gate
from safegen.guard.settings import Ratio
from safegen.sampling import noise

FOLDER = Path(__file__).parent
SHAPE = (2, 4, 4)
RATES = ("0", "0.005", "0.05", "0.3", "0.5", "0.7", "1")
"""At 0.7 (P + 1)(1 - rate) is 12, and a hair more in float64."""
QUANTILES = ("0", "0.05", "0.37", "0.5", "1")
LEVELS = [(0.0, 1.0), (0.05, 0.999), (0.2, 0.8), (0.4, 0.6), (0.6, 0.8), (1.0, 14.6), (1.0, 0.7), (1.0, 0.02)]
"""(alpha, sigma) from pure noise on: variance-preserving, of rectified flow, variance-exploding."""
FLOW = [(0.0, 1.0, 0.75), (0.25, 0.75, 0.6), (0.55, 0.45, 0.4), (0.82, 0.18, 0.0)]
"""(alpha, sigma, a) of a plan of rectified flow by Euler's steps."""
WATCHED = {
    "evidence": [-1.0, 1.0, -0.5, 2.0, -1.0],
    "weight": [0.0, 1.0, 0.0, 0.0, 0.5],
    "nearest": [3, 1, 4, 1, 5],
}


def linear(at: float, places: Sequence[float], values: Sequence[float]) -> float:
    """The curve through these points, constant beyond its ends."""
    if at <= places[0]:
        return float(values[0])
    for i in range(1, len(places)):
        if at <= places[i]:
            share = (at - places[i - 1]) / (places[i] - places[i - 1])
            return float(values[i - 1] * (1 - share) + values[i] * share)
    return float(values[-1])


def gate_threshold(gate: Gate, rate: str, alpha: float, sigma: float) -> float:
    """Between two levels linear in alpha; the rank of the score in exact arithmetic."""
    count = len(gate.scores)
    rank = min(max(math.ceil((count + 1) * (1 - Fraction(rate))), 1), count)
    return linear(alpha / math.hypot(alpha, sigma), gate.signal, gate.location) + float(gate.scores[rank - 1])


def density_quantile(density: Density, share: str, alpha: float, sigma: float) -> float:
    """Linear in the share, then in log-SNR."""
    shares = [i / (density.quantiles.shape[1] - 1) for i in range(density.quantiles.shape[1])]
    curve = [linear(float(share), shares, row) for row in density.quantiles]
    return linear(2 * math.log(alpha / sigma) if alpha else -math.inf, density.log_snr, curve)


def lowest_den(negation: np.ndarray, sd3: bool) -> float:
    """The released program's calibration, in float64: bandwidth 3.15, at the last level of the flow plan."""
    alpha, sigma, _ = FLOW[-1]

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).sum(axis=1, keepdims=True))

    refs = unit(negation.astype(np.float64))
    z = noise.normal(0, 0, refs.shape, stream=3).astype(np.float64)
    x = (alpha * refs + sigma * z) / math.hypot(alpha, sigma)
    x = unit(x) if sd3 else x
    distances = np.sqrt(((x[:, None] - refs[None]) ** 2).sum(axis=(2, 3, 4)))
    return float((np.exp(-distances / (2 * 3.15**2)).sum(axis=1) + 1e-8).min())


def official(negation: np.ndarray) -> dict[str, Any]:
    """SD3's shares of old and fresh noise at each step: the next noise level, and what is left of 1."""
    following = [sigma for _, sigma, _ in FLOW[1:]] + [0.0]
    return {
        "flow": FLOW,
        "kept": [math.sqrt(s) for s in following],
        "fresh": [math.sqrt(1 - s) for s in following],
        "lowest_den": lowest_den(negation, sd3=False),
        "lowest_den_sd3": lowest_den(negation, sd3=True),
    }


def verdict(guard: str, opened: int) -> dict[str, Any]:
    summary = {"guard": guard, "steps": 5, "opened": opened, "corrected": 2}
    return {**summary, "strongest_evidence": 2.0, "nearest_reference": 1}


def main() -> None:
    rng = np.random.default_rng(2026)
    negation, benign = (rng.standard_normal((count, *SHAPE)).astype(np.float16) for count in (3, 5))
    gate = Gate(
        signal=np.array([0.0, 0.03, 0.2, 0.55, 0.98]),
        location=np.array([-3.25, -3.5, -1.1, 0.4, 2.7]),
        scores=np.sort(rng.exponential(1.5, 39) - 0.8),
    )
    quantiles = np.sort(rng.normal(-20, 3, (4, 5)), axis=1)
    density = Density(log_snr=np.array([-6.5, -2.0, 0.25, 5.0]), quantiles=quantiles)
    info = BundleInfo(
        name="golden", latent_space="ab" * 32, latent_shape=SHAPE, image_size=(32, 32), negation_count=3,
        benign_count=5, target_count=4, benign_source="images", source_digest="cd" * 32,
        created="2026-01-01T00:00:00+00:00", guard=Ratio(false_positive_rate=0.05), bandwidth=2.5,
        foreseen_from="images",
    )  # fmt: skip
    axes = (0.3 * rng.standard_normal((2, math.prod(SHAPE)))).astype(np.float16)
    path = FOLDER / "golden.negation"
    write_bundle(path, info, negation=negation, benign=benign, axes=axes, gate=gate, density=density)
    golden = {
        "levels": LEVELS,
        "ratio": {rate: [gate_threshold(gate, rate, *level) for level in LEVELS] for rate in RATES},
        "paper": {
            share: [density_quantile(density, share, *level) for level in LEVELS] for share in QUANTILES
        },
        "official": official(negation),
        "watched": WATCHED,
        "verdicts": [verdict("ratio", 4), verdict("paper", 2)],
    }
    (FOLDER / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
