"""Starting from an image, and redrawing part of one, against diffusers' own pipelines.

If these fail, an edit changes what it was told to keep, or keeps what it was told to change.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from schedulers import SCHEDULERS

from safegen import Pipeline
from safegen.errors import UsageError
from safegen.sampling.noise import normal_batch

pytestmark = pytest.mark.slow

SEEDS = [5, 6]
SETTINGS = {"guidance_scale": 4.0}
STEPS = 8


@pytest.fixture(scope="module")
def pipeline(engines: dict[str, Path]) -> Pipeline:
    return Pipeline.load(engines["epsilon"])


@pytest.fixture
def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (4, 5, 3), np.uint8)
    return Image.fromarray(pixels).resize((48, 32), Image.Resampling.BICUBIC)


@pytest.fixture
def mask() -> Image.Image:
    white = np.zeros((32, 48), np.uint8)
    white[8:24, 11:40] = 255
    return Image.fromarray(white)


def theirs(cls: type, checkpoint: Path, name: str, monkeypatch: pytest.MonkeyPatch, **inputs: Any) -> Any:
    """Diffusers' pictures with our noise, from the mean of the encoder's posterior as we take it."""
    pipe = cls.from_pretrained(checkpoint, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    config = {**pipe.scheduler.config, "clip_sample": False, "set_alpha_to_one": False}
    pipe.scheduler = SCHEDULERS[name].from_config(config)
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, *a: self.mode())
    draws = count()
    for owner in (pipe, pipe.scheduler):
        module = __import__(type(owner).__module__, fromlist=["x"])
        if hasattr(module, "randn_tensor"):
            monkeypatch.setattr(
                module, "randn_tensor",
                lambda shape, *a, **k: torch.from_numpy(normal_batch(SEEDS, next(draws), shape[1:])),
            )  # fmt: skip
    images = pipe(["a sneaker"] * 2, num_inference_steps=STEPS, output_type="np", **SETTINGS, **inputs).images
    return np.round(images * 255).astype(int)


def ours(pipeline: Pipeline, name: str, **inputs: Any) -> np.ndarray:
    pictures = pipeline("a sneaker", n=2, seed=5, steps=STEPS, solver=name, size=(48, 32), guard="off",
                        **SETTINGS, **inputs)  # fmt: skip
    return np.stack([np.asarray(p.image) for p in pictures]).astype(int)


@pytest.mark.parametrize("strength", [0.4, 1.0])
@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler", "euler-a", "dpm++2m"])
def test_from_an_image(pipeline, checkpoint, picture, monkeypatch, name: str, strength: float) -> None:
    inputs = {"strength": strength}
    expected = theirs(StableDiffusionImg2ImgPipeline, checkpoint, name, monkeypatch, image=picture, **inputs)
    assert np.abs(ours(pipeline, name, init=picture, **inputs) - expected).max() <= 2


@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler", "dpm++2m"])
def test_redrawing_a_part(
    pipeline, checkpoint, picture, mask, monkeypatch, name: str, strength: float
) -> None:
    expected = theirs(
        StableDiffusionInpaintPipeline, checkpoint, name, monkeypatch, image=picture, mask_image=mask,
        strength=strength, width=48, height=32,
    )  # fmt: skip
    found = ours(pipeline, name, init=picture, mask=mask, strength=strength)
    assert np.abs(found - expected).max() <= 2


def test_the_guard_looks_at_edits_too(embedded: Path) -> None:
    """A sneaker as the image to start from: its own pixels must not smuggle it past the guard."""
    pipeline = Pipeline.load(embedded)
    sneaker = pipeline("a sneaker", seed=1, guard="off")[0].image
    edit = pipeline("a sneaker", seed=2, init=sneaker, strength=0.6)[0]
    assert edit.verdict.opened > 0
    assert edit.settings["init"]["strength"] == 0.6
    assert (edit.settings["steps"], edit.verdict.steps) == (25, 15)
    assert np.abs(np.asarray(edit.image).astype(int) - np.asarray(sneaker)).max() > 50


def test_requests_without_meaning(pipeline, picture, mask) -> None:
    for inputs, word in [
        ({"init": picture, "strength": 0.0}, "above 0 to 1"),
        ({"init": picture, "strength": 0.05}, "leaves none of 8 steps"),
        ({"init": picture, "solver": "lcm"}, "starts from noise"),
        ({"mask": mask}, "give the image"),
    ]:
        with pytest.raises(UsageError, match=word):
            pipeline("x", steps=STEPS, guard="off", **inputs)
