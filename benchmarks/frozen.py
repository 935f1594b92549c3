"""What the measurements share: a class of Fashion-MNIST as a user would freeze it."""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "training"))
import fashion
from prompts import GARMENTS, Garment, all_prompts
from safegen.engine.engine import Engine
from safegen_engines.freeze.freeze import freeze

BENIGN_PER_CLASS = 120


def write_images(images: NDArray[np.uint8], folder: Path) -> list[Path]:
    """Grey images to PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:05}.png" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def freeze_class(engine: Engine, garment: Garment, size: int, folder: Path, *, drawn: bool = False) -> Path:
    """A bundle of the first ``size`` training images of a class, and 120 of each other class.

    The gate's rate is set on every prompt, or on the labels, of the other classes, with seeds that no
    table uses. ``drawn`` leaves the benign side to the engine, as ``safegen freeze`` without --benign does.
    """
    images, labels = fashion.load("train")
    negation = write_images(images[labels == garment.label][:size], folder / "negation")
    others = [images[labels == g.label][:BENIGN_PER_CLASS] for g in GARMENTS if g is not garment]
    benign = None if drawn else write_images(np.concatenate(others), folder / "benign")
    spec = engine.manifest.conditioning
    prompts, labels = [], []
    if spec.text and not drawn:
        prompts = [prompt for label, _, prompt in all_prompts() if label != garment.label]
    if spec.classes and not drawn:
        labels = [g.label for g in GARMENTS if g is not garment]
    out = folder / f"{garment.name}.negation"
    freeze(
        engine, negation, out, name=garment.name, benign=benign, benign_prompts=prompts,
        benign_labels=labels, batch_size=64,
    )  # fmt: skip
    return out
