"""How close pictures are to real ones, and to their prompts: distances between sets of features."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from safegen.engine.session import Session
from safegen.errors import UsageError
from safegen.format.tokenizer import encode, open_tokenizer
from safegen_eval.judges import ImageModel
from safegen_eval.suite import JudgeSpec, Quality

Features = NDArray[np.float32]
Featurize = Callable[[Sequence[Image.Image]], Features]
"""Pictures to (N, F)."""
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def frechet(a: NDArray[Any], b: NDArray[Any]) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) of two feature sets (arXiv 1706.08500).

    It grows as sets shrink: compare only sets of equal size.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # the product of two covariances has real eigenvalues of at least 0, but for rounding
    roots = np.sqrt(np.clip(np.linalg.eigvals(cov_a @ cov_b).real, 0, None))
    mean = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    return float(mean + np.trace(cov_a) + np.trace(cov_b) - 2 * roots.sum())


def precision_recall(drawn: NDArray[Any], real: NDArray[Any], k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (arXiv 1904.06991) of two feature sets of about equal size.

    Precision: the share of drawn pictures within the k-nearest-neighbour radius of some real one.
    Recall: the share of real ones within that of some drawn one.
    """
    return _covered(drawn, real, k), _covered(real, drawn, k)


def _covered(points: NDArray[Any], by: NDArray[Any], k: int) -> float:
    from scipy.spatial.distance import cdist

    radii = np.partition(cdist(by, by), k, axis=1)[:, k]  # the nearest is the point itself
    return float((cdist(points, by) <= radii).any(axis=1).mean())


class Clip:
    """CLIP in ONNX, as optimum exports it, for scores and for features."""

    def __init__(self, folder: Path) -> None:
        """Open ``model.onnx`` and ``tokenizer.json``.

        Raises:
            UsageError: one of them is missing.
        """
        for name in ("model.onnx", "tokenizer.json"):
            if not (folder / name).is_file():
                raise UsageError(
                    f"{folder}: no {name} here. 'optimum-cli export onnx -m CLIP DIR' makes both."
                )
        self._session = Session(folder / "model.onnx")
        config = _json(folder / "config.json").get("text_config", {})
        length = int(config.get("max_position_embeddings", 77))
        pad = _json(folder / "special_tokens_map.json").get("pad_token", "<|endoftext|>")
        pad = pad["content"] if isinstance(pad, dict) else pad
        self._tokenizer = open_tokenizer(folder / "tokenizer.json", length, pad)
        processor = _json(folder / "preprocessor_config.json")
        crop = processor.get("crop_size", 224)
        self._side = int(crop["height"] if isinstance(crop, dict) else crop)
        self._mean = np.array(processor.get("image_mean", CLIP_MEAN), np.float32)
        self._std = np.array(processor.get("image_std", CLIP_STD), np.float32)

    def _run(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> dict[str, Any]:
        ids = encode(self._tokenizer, prompts)[:, 0]
        side = (self._side, self._side)
        pixels = [
            np.asarray(i.convert("RGB").resize(side, Image.Resampling.BICUBIC), np.float32) for i in images
        ]
        scaled = ((np.stack(pixels) / 255 - self._mean) / self._std).transpose(0, 3, 1, 2)
        inputs: dict[str, Any] = {"input_ids": ids, "pixel_values": scaled}
        if "attention_mask" in self._session.inputs:
            inputs["attention_mask"] = np.ones_like(ids)
        return self._session.run(**inputs)

    def score(self, image: Image.Image, prompt: str) -> float:
        """100 max(cos, 0) between a picture and its prompt (arXiv 2104.08718, without its 2.5)."""
        found = self._run([image], [prompt])
        text, seen = (np.asarray(found[n], np.float64)[0] for n in ("text_embeds", "image_embeds"))
        return 100 * max(0.0, float(text @ seen / (np.linalg.norm(text) * np.linalg.norm(seen))))

    def features(self, images: Sequence[Image.Image]) -> Features:
        """Image embeddings of length 1, (N, F)."""
        # as many prompts as pictures: an export may tie the two batches together
        found = np.asarray(self._run(images, [""] * len(images))["image_embeds"], np.float32)
        features: Features = found / np.linalg.norm(found, axis=1, keepdims=True)
        return features


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def open_features(quality: Quality, judge: JudgeSpec, clip: Clip | None) -> Featurize | None:
    """Where features come from: the model named, the judge's own, CLIP's images, or nowhere."""
    for path in (quality.features, judge.model):
        if path:
            model = ImageModel(Path(path))
            if "features" in model.outputs:
                return lambda images: model(images)["features"].astype(np.float32)
    return clip.features if clip else None
