"""Measure the embedded model: 2,000 unguarded pictures over all classes and all prompts."""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

import fashion
from judge import Judge, grey
from prompts import GARMENTS, all_prompts
from safegen import Pipeline
from safegen.engine.engine import Engine
from safegen.engine.pipeline import EMBEDDED
from safegen.format.image import contact_sheet
from safegen_eval.quality import frechet

OUT = Path(__file__).parent / "quality.json"
SHEET = Path(__file__).parent.parent / "docs" / "images" / "embedded.png"


def draw(pipeline: Pipeline, per_class: int) -> tuple[list, np.ndarray, list[str]]:  # type: ignore[type-arg]
    """``per_class`` pictures of each class, its prompts in turn, each with a seed of its own."""
    pictures, labels, texts = [], [], []
    for garment in GARMENTS:
        prompts = [p for label, _, p in all_prompts() if label == garment.label]
        chosen = [prompts[i % len(prompts)] for i in range(per_class)]
        seeds = range(10_000 * garment.label, 10_000 * garment.label + per_class)
        pictures += pipeline(chosen, seed=list(seeds), guard="off", batch_size=50)
        labels += [garment.label] * per_class
        texts += chosen
    return pictures, np.array(labels), texts


def reconstruct(engine: Engine, images: np.ndarray) -> np.ndarray:
    """Images (N, 32, 32) through the autoencoder and back."""
    parts = []
    for start in range(0, len(images), 100):
        rgb = np.repeat(images[start : start + 100, :, :, None], 3, axis=3)
        parts.append(engine.decode(engine.encode_images(rgb)).mean(axis=3).round().astype(np.uint8))
    return np.concatenate(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=Path, default=EMBEDDED)
    parser.add_argument("--per-class", type=int, default=200)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--sheet", type=Path, default=SHEET)
    args = parser.parse_args()
    judge, pipeline = Judge(), Pipeline.load(args.engine)
    rng = np.random.default_rng(0)
    test, truth = fashion.load("t10k")
    found, real = judge(test)
    order = rng.permutation(len(real))
    count = args.per_class * len(GARMENTS)
    train = fashion.load("train")[0][rng.choice(60000, count, replace=False)]
    pictures, labels, _ = draw(pipeline, args.per_class)
    images = grey(pictures)
    seen, features = judge(images)
    quality = {
        "pictures": count,
        "settings": {k: pictures[0].settings[k] for k in ("steps", "solver", "guidance_scale")},
        "classifier_test_accuracy": float((found == truth).mean()),
        "agreement": float((seen == labels).mean()),
        "agreement_by_class": {g.name: float((seen[labels == g.label] == g.label).mean()) for g in GARMENTS},
        "frechet_distance": {
            "pictures": frechet(features, real),
            "autoencoder's reconstructions of as many training images": frechet(
                judge(reconstruct(pipeline.engine, train))[1], real
            ),
            "as many training images": frechet(judge(train)[1], real),
            "one half of the test set against the other": frechet(
                real[order[: len(order) // 2]], real[order[len(order) // 2 :]]
            ),
        },
    }
    args.out.write_text(json.dumps(quality, indent=1) + "\n")
    print(args.out.read_text())
    args.sheet.parent.mkdir(parents=True, exist_ok=True)
    tiles = [images[np.flatnonzero(labels == g.label)[:16]] for g in GARMENTS]
    contact_sheet([Image.fromarray(t) for t in np.concatenate(tiles)], columns=16, zoom=2).save(args.sheet)


if __name__ == "__main__":
    main()
