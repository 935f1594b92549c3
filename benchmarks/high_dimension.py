"""Does the density ratio still tell apart in 16384 dimensions? Latents of 4x64x64, the gate's evidence alone.

Pictures of 256x256 through the embedded autoencoder: *single*, one garment enlarged, and *scene*, four
garments of which one is negated or none. Banks of 400 negation and 500 benign pictures, 400 that set the
threshold, 200 and 400 new ones that measure it; evidence at the clean picture, where the gate looks last.
No model is sampled.
Writes benchmarks/high_dimension.json.
"""

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "training"))
import fashion
from safegen.engine.engine import Engine
from safegen.engine.pipeline import EMBEDDED
from safegen.files import replacing
from safegen_engines.freeze.axes import gate_axes

WORK = ROOT / "build" / "high_dimension"
OUT = Path(__file__).parent / "high_dimension.json"
NEGATED, SIDE = 7, 256
COUNTS = {"negation": 400, "benign": 500, "held_out": 400, "new_negation": 200, "new_benign": 400}
RATES = (0.01, 0.05)
POOL, REGION = 4, 8
"""Regions are REGION x REGION latents after a mean over POOL x POOL: half the picture's side."""
SHARES = (1 / 64, 1 / 16, 1 / 3, 2.0)
Array = NDArray[np.float32]


def enlarge(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def picture(kind: str, images: NDArray[np.uint8], labels: NDArray[np.int64], *, negated: bool,
            rng: np.random.Generator, width: int = SIDE) -> NDArray[np.uint8]:  # fmt: skip
    """One picture; of four garments of a scene one is of the negated class, at a place drawn by lot."""
    per_side = 1 if kind == "single" else 2
    side, hit = width // per_side, rng.integers(per_side**2)
    rows = []
    for place in range(per_side**2):
        wanted = (labels == NEGATED) == (negated and place == hit)
        rows.append(enlarge(images[rng.choice(np.flatnonzero(wanted))], side))
    return np.block([rows[i * per_side : (i + 1) * per_side] for i in range(per_side)])


def latents(kind: str) -> dict[str, Array]:
    """Name of :data:`COUNTS` -> latents (N, 4, 64, 64), encoded once."""
    path = WORK / f"{kind}.npz"
    if not path.is_file():
        engine, rng = Engine.open(EMBEDDED), np.random.default_rng(0)
        train, test = fashion.load("train"), fashion.load("t10k")
        first, rest = (tuple(a[part] for a in train) for part in (slice(40_000), slice(40_000, None)))
        sources = [first, first, rest, test, test]
        found = {}
        for (name, count), source in zip(COUNTS.items(), sources, strict=True):
            drawn = [picture(kind, *source, negated="negation" in name, rng=rng) for _ in range(count)]
            rgb = np.repeat(np.stack(drawn)[..., None], 3, axis=3)
            parts = [engine.encode_images(rgb[i : i + 8]) for i in range(0, count, 8)]
            found[name] = np.concatenate(parts).astype(np.float16)
        WORK.mkdir(parents=True, exist_ok=True)
        with replacing(path) as scratch, scratch.open("wb") as file:
            np.savez(file, **found)
    with np.load(path) as file:
        return {name: file[name].astype(np.float32) for name in COUNTS}


def pooled(x: Array, k: int) -> Array:
    """Mean over k x k latents."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // k, k, w // k, k).mean((3, 5))


def regions(x: Array) -> Array:
    """(N, 4, 64, 64) -> (N, M, D): the four quarters of each picture, pooled."""
    small = pooled(x, POOL)
    steps = range(0, small.shape[2], REGION)
    cut = [small[:, :, i : i + REGION, j : j + REGION] for i in steps for j in steps]
    return np.stack([part.reshape(len(x), -1) for part in cut], axis=1)


def stretched(banks: dict[str, Array]) -> dict[str, Array]:
    """Latents (..., D) whose plain distances are those of the gate of ``ratio``, :class:`Metric`."""
    width = banks["negation"].shape[-1]
    pair = (banks[name].reshape(-1, width).astype(np.float16) for name in ("negation", "benign"))
    axes = gate_axes(*pair).astype(np.float32)
    shares = (axes**2).sum(1, keepdims=True)
    units, less = axes / np.sqrt(shares), 1 - np.sqrt(1 - shares.T)
    return {name: x - (x @ units.T * less) @ units for name, x in banks.items()}


def nearest(rows: Array) -> float:
    """Median squared distance to the nearest other row, over up to 1000."""
    some = rows[:: max(1, len(rows) // 1000)]
    sq = (some**2).sum(1)
    return float(np.median(np.sort(sq[:, None] + sq[None] - 2 * some @ some.T, axis=1)[:, 1]))


def log_density(x: Array, refs: Array, h2: float, weights: Array | None = None,
                own: tuple[Array, Array] | None = None) -> Array:  # fmt: skip
    """Log density (B,) under a mixture of N(r, h^2 I), up to a term of x.

    ``own``: the pictures of x and of the references, each left out of what judges it.
    """
    log_weights = np.full(len(refs), -np.log(len(refs))) if weights is None else np.log(weights)
    found = []
    for start in range(0, len(x), 500):
        rows = slice(start, start + 500)
        logs = (x[rows] @ refs.T) / h2 - (refs**2).sum(1) / (2 * h2) + log_weights
        if own is not None:
            logs[own[0][rows, None] == own[1][None]] = -np.inf
        top = logs.max(axis=1, keepdims=True)
        found.append(np.log(np.exp(logs - top).sum(axis=1)) + top[:, 0])
    return np.concatenate(found)


def measured(evidence: dict[str, Array]) -> dict[str, float]:
    """AUC, and what is caught and falsely opened at each rate."""
    benign, negation = evidence["new_benign"], evidence["new_negation"]
    row = {"auc": float((negation[:, None] > benign[None]).mean())}
    scores = np.sort(evidence["held_out"])
    for rate in RATES:
        opens = scores[min(int(np.ceil((len(scores) + 1) * (1 - rate))) - 1, len(scores) - 1)]
        row[f"caught at {rate:.0%}"] = float((negation > opens).mean())
        row[f"false at {rate:.0%}"] = float((benign > opens).mean())
    return row


JUDGED = ("held_out", "new_negation", "new_benign")


def whole(flat: dict[str, Array], share: float) -> dict[str, float]:
    """The ratio of whole pictures."""
    h2 = share * nearest(flat["negation"])
    densities = {
        name: log_density(flat[name], flat["negation"], h2) - log_density(flat[name], flat["benign"], h2)
        for name in JUDGED
    }
    return measured(densities)


def by_region(cut: dict[str, Array], rounds: int) -> dict[str, float]:
    """The largest ratio of any region.

    Most regions of a negation picture are ordinary. Each round weighs the bank's regions by how likely each
    is the one that is not, given the others' pictures (expectation-maximization; multiple-instance learning).
    """
    count, places, width = cut["negation"].shape
    refs, benign = (cut[name].reshape(-1, width) for name in ("negation", "benign"))
    h2, picture_of = nearest(refs) / 3, np.repeat(np.arange(count), places)
    weights = np.full(len(refs), 1 / len(refs))
    for _ in range(rounds):
        own = log_density(refs, refs, h2, weights, (picture_of, picture_of)) - log_density(refs, benign, h2)
        own = own.reshape(count, places)
        share = np.exp(own - own.max(axis=1, keepdims=True))
        share = np.maximum(share / share.sum(axis=1, keepdims=True), 1e-6)
        weights = share.reshape(-1) / share.sum()
    evidence = {}
    for name in JUDGED:
        rows = cut[name].reshape(-1, width)
        ratio = log_density(rows, refs, h2, weights) - log_density(rows, benign, h2)
        evidence[name] = ratio.reshape(-1, places).max(axis=1)
    return measured(evidence)


def main() -> None:
    table: dict[str, dict[str, dict[str, float]]] = {}
    for kind in ("single", "scene"):
        found = latents(kind)
        flat = {name: x.reshape(len(x), -1) for name, x in found.items()}
        small = {name: pooled(x, POOL).reshape(len(x), -1) for name, x in found.items()}
        cut = {name: regions(x) for name, x in found.items()}
        rows = {f"whole, h^2 {share:.2f} of the neighbours'": whole(flat, share) for share in SHARES}
        rows["whole, as the gate counts distances, 0.33"] = whole(stretched(flat), 1 / 3)
        rows["whole, pooled to 1024"] = whole(small, 1 / 3)
        rows["regions"] = by_region(cut, 0)
        rows["regions, as the gate counts distances"] = by_region(stretched(cut), 0)
        rows["regions, weighed over 3 rounds"] = by_region(cut, 3)
        table[kind] = rows
        for name, row in rows.items():
            print(kind, name, {k: round(v, 3) for k, v in row.items()}, flush=True)
    with replacing(OUT) as scratch:
        scratch.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
