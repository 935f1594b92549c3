"""Small bundles, right and wrong, for the tests of what a bundle may hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from safegen.format.bundle import BundleInfo, write_bundle
from safegen.guard.gate import Density, Gate
from safegen.guard.settings import Ratio, Settings

AXES = np.full((2, 16), 0.125, np.float16)
GATE = Gate(np.array([0.0, 0.3, 1.0]), np.array([-3.0, 0.0, 5.0]), np.array([-1.0, 0.5, 0.5, 2.0]))
DENSITY = Density(np.array([-7.0, 0.0, 7.0]), np.sort(np.random.default_rng(1).normal(size=(3, 4)), axis=1))
INFO = {
    "name": "shoes", "latent_space": "ab" * 32, "latent_shape": (4, 2, 2), "image_size": (8, 8),
    "negation_count": 3, "benign_count": 5, "target_count": 4, "benign_source": "images",
    "source_digest": "cd" * 32, "created": "2026-01-01T00:00:00+00:00", "bandwidth": 2.0,
    "foreseen_from": "images",
}  # fmt: skip
TENSORS = {"negation", "benign", "axes", "gate_signal", "gate_location", "gate_scores", "paper_log_snr",
           "paper_quantiles"}  # fmt: skip


def latents(count: int, side: int = 2) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 4, side, side)).astype(np.float16)


def write(path: Path, guard: Settings = Ratio(), **changes: Any) -> str:
    """A bundle with some of its tensors, or of what it says of itself, changed."""
    tensors: dict[str, Any] = {
        "negation": latents(3), "benign": latents(5), "axes": AXES, "gate": GATE, "density": DENSITY,
    }  # fmt: skip
    given = {name: changes.pop(name) for name in tensors if name in changes}
    return write_bundle(path, BundleInfo(**INFO | {"guard": guard} | changes), **tensors | given)
