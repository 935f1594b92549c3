"""The judge at work: which garment a picture shows, and its features."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from safegen.session import Session

MODEL = Path(__file__).parent / "classifier.onnx"


class Judge:
    """The classifier of train_classifier.py."""

    def __init__(self) -> None:
        self._session = Session(MODEL)

    def __call__(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Grey images (N, 32, 32) -> labels (N,) and features (N, 128)."""
        labels, features = [], []
        for start in range(0, len(images), 500):
            x = images[start : start + 500, None].astype(np.float32) / 255
            outputs = self._session.run(image=x)
            labels.append(outputs["logits"].argmax(axis=1))
            features.append(outputs["features"].astype(np.float64))
        return np.concatenate(labels), np.concatenate(features)


def grey(pictures: list) -> NDArray[np.uint8]:  # type: ignore[type-arg]
    """Safegen's pictures as (N, 32, 32)."""
    return np.stack([np.asarray(p.image.convert("L")) for p in pictures])
