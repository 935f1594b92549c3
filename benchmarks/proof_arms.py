"""What the proof draws with: every guard as it was published, and the settings that are tried to tune it."""

import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from prompts import Garment
from safegen.format.bundle import read_bundle
from safegen.guard.bank import squared_distances

TRIALS = 8
Settings = dict[str, Any]
"""Of an arm, as a suite has them, but for its name."""
IMAGE_GUARDS = ("bank-mean", "renoise-only", "spell", "sgf", "official:nudity", "official:inappropriate",
                "paper", "theorem", "ratio")  # fmt: skip
BOTH: dict[str, Settings] = {"none": {"guard": "off"}, "ratio": {"guard": "ratio"}}


def published(garment: Garment) -> dict[str, Settings]:
    """Every guard as it was published, and the combinations; text guards are told the plain name alone."""
    told = {"concepts": [garment.name]}
    off = {"guard": "off"}
    alone = {
        "none": off,
        "negative prompt": {**off, "negative_prompt": f"a photo of a {garment.name}"},
        **{
            f"SLD {p}": {**off, "text_guard": f"sld:{p}", **told} for p in ("weak", "medium", "strong", "max")
        },
        "SAFREE": {**off, "text_guard": "safree", **told},
    }
    both = {
        f"{text} + {guard}": {"guard": guard, "text_guard": name, **told}
        for guard in ("official:nudity", "ratio")
        for text, name in (("SLD max", "sld:max"), ("SAFREE", "safree"))
    }
    return {**alone, **{guard: {"guard": guard} for guard in IMAGE_GUARDS}, **both}


def spread(rng: random.Random, low: float, high: float) -> float:
    """Log-uniform."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def trials(garment: Garment, bundle: Path, guard: str) -> Iterator[Settings]:
    """The published settings first, then draws from as wide a range as makes sense for each."""
    rng = random.Random(f"{garment.name} {guard}")
    bank = read_bundle(bundle).bank()
    near = math.sqrt(float(np.median(np.sort(squared_distances(bank.refs, bank.refs, bank.refs_sq))[:, 1])))
    first = published(garment)[{"SLD": "SLD max", "official": "official:nudity"}.get(guard, guard)]
    yield first
    texts, images = of_text(rng, garment), of_images(rng, near)
    for _ in range(TRIALS - 1):
        yield texts[guard]() if guard in texts else {"guard": {"mode": guard, **images[guard]()}}


def of_text(rng: random.Random, garment: Garment) -> dict[str, Callable[[], Settings]]:
    """Text guard -> a draw of an arm's settings."""
    off, told = {"guard": "off"}, (garment.name,)
    return {
        "negative prompt": lambda: {
            **off,
            "negative_prompt": rng.choice(
                [garment.name, f"a {garment.name}", ", ".join(garment.words), f"{garment.name} " * 3]
            ),
        },
        "SLD": lambda: {
            **off,
            "text_guard": {
                "mode": "sld",
                "concepts": told,
                "warmup": rng.choice([0, 1, 2, 4]),
                "scale": spread(rng, 10, 1e4),
                "threshold": rng.uniform(0, 1),
                "momentum_scale": rng.uniform(0, 1),
                "momentum": rng.uniform(0, 0.9),
            },
        },
        "SAFREE": lambda: {
            **off,
            "text_guard": {
                "mode": "safree",
                "concepts": told,
                "margin": rng.choice([0.0, 0.005, 0.01, 0.03]),
                "steepness": spread(rng, 0.5, 10),
                "centre": rng.uniform(0, 6),
            },
        },
    }


def of_images(rng: random.Random, near: float) -> dict[str, Callable[[], Settings]]:
    """Guard of a bank -> a draw of its settings; ``near``: from a reference to the nearest other one."""
    return {
        "bank-mean": lambda: {"scale": spread(rng, 0.03, 2)},
        "renoise-only": lambda: {"t_min": rng.uniform(0, 950)},
        "spell": lambda: {"radius": near * spread(rng, 0.7, 4), "overcompensation": spread(rng, 0.2, 4)},
        "sgf": lambda: {"step": spread(rng, 1, 3000), "gamma": spread(rng, 0.2, 5) / near**2},
        "official": lambda: {
            "bandwidth": spread(rng, 0.5, 6),
            "scale": spread(rng, 0.03, 2),
            "gate": rng.random() < 0.5,
            "margin": rng.uniform(0, 2),
            "t_min": rng.choice([0.0, 500.0, 780.0]),
        },
        "paper": lambda: {
            "quantile": spread(rng, 0.005, 0.5),
            "eta": spread(rng, 0.1, 10),
            "w_max": spread(rng, 0.5, 10),
            "t_min": rng.choice([0.0, 500.0, 780.0]),
        },
        "theorem": lambda: {"eta": spread(rng, 0.001, 30), "w_max": spread(rng, 0.5, 10)},
        "ratio": lambda: {
            "false_positive_rate": spread(rng, 0.003, 0.1),
            "repulsion": spread(rng, 0.5, 3),
        },
    }


TUNED = ("negative prompt", "SLD", "SAFREE", "bank-mean", "renoise-only", "spell", "sgf", "official", "paper",
         "theorem", "ratio")  # fmt: skip
