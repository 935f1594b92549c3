"""The judge at work: which garment a picture shows, and its features."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from safegen_eval.judges import ImageModel

MODEL = Path(__file__).parent / "classifier.onnx"


class Judge:
    """The classifier of train_classifier.py."""

    def __init__(self) -> None:
        self._model = ImageModel(MODEL)

    def __call__(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Grey images (N, 32, 32) -> labels (N,) and features (N, 128)."""
        found = self._model([Image.fromarray(image) for image in images])
        return found["logits"].argmax(axis=1), found["features"].astype(np.float64)


def grey(pictures: list) -> NDArray[np.uint8]:  # type: ignore[type-arg]
    """Safegen's pictures as (N, 32, 32)."""
    return np.stack([np.asarray(p.image.convert("L")) for p in pictures])
