"""The judge at work: which garment a picture shows, and Frechet distances in its feature space."""

from pathlib import Path

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

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


def frechet(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) of two feature sets (arXiv 1706.08500)."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    mean = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    return float(mean + np.trace(cov_a + cov_b - 2 * np.real(root)))


def interval(successes: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z, p = 1.96, successes / count
    middle = (p + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(p * (1 - p) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))


def precision_recall(
    drawn: NDArray[np.float64], real: NDArray[np.float64], k: int = 3
) -> tuple[float, float]:
    """Improved precision and recall (arXiv 1904.06991) of two feature sets of about equal size.

    Precision: the share of drawn pictures within the k-nearest-neighbour radius of some real one.
    Recall: the share of real ones within that of some drawn one.
    """
    return _covered(drawn, real, k), _covered(real, drawn, k)


def _covered(points: NDArray[np.float64], by: NDArray[np.float64], k: int) -> float:
    radii = np.partition(cdist(by, by), k, axis=1)[:, k]  # the nearest is the point itself
    return float((cdist(points, by) <= radii).any(axis=1).mean())
