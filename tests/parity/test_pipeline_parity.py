"""Whole pictures against diffusers' StableDiffusionPipeline, same weights, latents and noise.

If these fail, an engine does not draw what its checkpoint draws.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import StableDiffusionPipeline
from schedulers import SCHEDULERS
from transformers import CLIPTextModel

from safegen import Pipeline, Solver
from safegen.sampling.noise import normal_batch

pytestmark = pytest.mark.slow

TOLERANCE = 2
"""Of 255. Both round to 8 bits, and float32 sums in another order differ by about 1e-5 after ten steps."""


def theirs(
    pipe: StableDiffusionPipeline, prompt: str, seeds: list[int], size: tuple[int, int],
    guidance_scale: float, monkeypatch: pytest.MonkeyPatch, steps: int, eta: float = 0.0,
) -> np.ndarray:  # fmt: skip
    """Diffusers' pictures from our first latents and our later noise, (B, H, W, 3)."""
    shape = (4, size[1] // pipe.vae_scale_factor, size[0] // pipe.vae_scale_factor)
    draws = count(1)
    module = __import__(type(pipe.scheduler).__module__, fromlist=["x"])
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(
            module,
            "randn_tensor",
            lambda *a, **k: torch.from_numpy(normal_batch(seeds, next(draws), shape)),
        )
    pipe.set_progress_bar_config(disable=True)
    images = pipe(
        [prompt] * len(seeds), width=size[0], height=size[1], guidance_scale=guidance_scale,
        num_inference_steps=steps, eta=eta, output_type="np",
        latents=torch.from_numpy(normal_batch(seeds, 0, shape)),
    ).images  # fmt: skip
    return np.round(images * 255).astype(int)


def set_scheduler(pipe: StableDiffusionPipeline, name: str, prediction: str) -> None:
    """The engine's own schedule; the pipe is shared, so every test sets it."""
    config = {**pipe.scheduler.config, "prediction_type": prediction, "clip_sample": False,
              "timestep_spacing": "leading", "set_alpha_to_one": False}  # fmt: skip
    pipe.scheduler = SCHEDULERS[name].from_config(config)


def difference(ours: list[Any], expected: np.ndarray) -> int:
    return int(np.abs(np.stack([np.asarray(p.image) for p in ours]).astype(int) - expected).max())


@pytest.fixture(scope="module")
def tiny_pipe(checkpoint: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(checkpoint, safety_checker=None)


@pytest.fixture(scope="module")
def pipelines(engines: dict[str, Path]) -> dict[str, Pipeline]:
    return {prediction: Pipeline.load(folder) for prediction, folder in engines.items()}


@pytest.mark.parametrize("size", [(32, 32), (48, 32)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("guidance_scale", [1.0, 7.5])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_tiny(
    name: str, prediction: str, guidance_scale: float, batch: int, size: tuple[int, int],
    tiny_pipe: StableDiffusionPipeline, pipelines: dict[str, Pipeline], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    set_scheduler(tiny_pipe, name, prediction)
    seeds = [5 + i for i in range(batch)]
    ours = pipelines[prediction](
        "a sneaker", n=batch, seed=5, steps=8, solver=name, guidance_scale=guidance_scale, size=size,
        guard="off",
    )  # fmt: skip
    expected = theirs(tiny_pipe, "a sneaker", seeds, size, guidance_scale, monkeypatch, 8)
    assert difference(ours, expected) <= TOLERANCE


@pytest.mark.parametrize("guidance_scale", [1.0, 7.5])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_embedded(name: str, guidance_scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(
        tiny.EMBEDDED_CHECKPOINT, safety_checker=None, torch_dtype=torch.float32
    )
    pipe.scheduler = SCHEDULERS[name].from_config(pipe.scheduler.config)
    ours = Pipeline.load()("a photo of a coat", n=3, seed=1, steps=12, solver=name,
                           guidance_scale=guidance_scale, guard="off")  # fmt: skip
    expected = theirs(pipe, "a photo of a coat", [1, 2, 3], (32, 32), guidance_scale, monkeypatch, 12)
    assert difference(ours, expected) <= TOLERANCE


def test_ddim_with_noise_and_a_negative_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(
        tiny.EMBEDDED_CHECKPOINT, safety_checker=None, torch_dtype=torch.float32
    )
    pipe.set_progress_bar_config(disable=True)
    draws = count(1)
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddim.randn_tensor",
        lambda *a, **k: torch.from_numpy(normal_batch([9], next(draws), (4, 8, 8))),
    )
    settings = {"negative_prompt": "a coat", "guidance_scale": 4.0}
    first = torch.from_numpy(normal_batch([9], 0, (4, 8, 8)))
    expected = pipe(
        "a bag", num_inference_steps=10, eta=0.7, latents=first, output_type="np", **settings
    ).images
    solver = Solver("ddim", eta=0.7)
    ours = Pipeline.load()("a bag", seed=9, steps=10, solver=solver, guard="off", **settings)
    assert difference(ours, np.round(expected * 255).astype(int)) <= TOLERANCE


@pytest.mark.parametrize("clip_skip", [1, 2])
def test_clip_skip(checkpoint: Path, clip_skip: int) -> None:
    from safegen_export.checkpoint import open_checkpoint
    from safegen_export.graphs import open_graphs

    graph = next(open_graphs(open_checkpoint(checkpoint), clip_skip))
    # diffusers' own clip_skip asks for text_model, which transformers 5 no longer has
    model = CLIPTextModel.from_pretrained(checkpoint / "text_encoder").eval()
    ids = torch.randint(764, (2, 24))
    with torch.no_grad():
        skipped = model(ids, output_hidden_states=True).hidden_states[-(clip_skip + 1)]
        norm = next(m for n, m in model.named_modules() if n.endswith("final_layer_norm"))
        assert torch.allclose(graph.module(ids)[0], norm(skipped), atol=1e-5)


@pytest.mark.parametrize("negative", ["", "a bag " * 30])
def test_prompts_longer_than_the_window_go_on_in_the_next(
    engines: dict[str, Path], tiny_pipe: StableDiffusionPipeline, negative: str
) -> None:
    """Windows of 22 tokens, each between its own start and end, states laid end to end, as the ecosystem
    does; both sides of guidance have as many."""
    tokenizer, encoder = tiny_pipe.tokenizer, tiny_pipe.text_encoder
    prompt = "a photo of a coat, " * 6 + "grey"

    def windows(text: str) -> list[list[int]]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return [ids[i : i + 22] for i in range(0, len(ids), 22)] or [[]]

    def states(text: str, count: int) -> torch.Tensor:
        parts = [*windows(text), *[[]] * count][:count]
        end = tokenizer.eos_token_id
        rows = [[tokenizer.bos_token_id, *p, end] + [end] * (22 - len(p)) for p in parts]
        with torch.no_grad():
            return encoder(torch.tensor(rows)).last_hidden_state.reshape(1, count * 24, -1)

    count = max(len(windows(prompt)), len(windows(negative)))
    assert count > 1
    set_scheduler(tiny_pipe, "ddim", "epsilon")
    expected = tiny_pipe(
        prompt_embeds=states(prompt, count), negative_prompt_embeds=states(negative, count), width=32,
        height=32, num_inference_steps=5, guidance_scale=4.0, output_type="np",
        latents=torch.from_numpy(normal_batch([3], 0, (4, 16, 16))),
    ).images  # fmt: skip
    pipeline = Pipeline.load(engines["epsilon"])
    settings = {
        "negative_prompt": negative,
        "steps": 5,
        "solver": "ddim",
        "guidance_scale": 4.0,
        "guard": "off",
    }
    ours = pipeline(["a coat", prompt], seed=[3, 3], **settings)
    assert difference(ours[1:], np.round(expected * 255).astype(int)) <= TOLERANCE
    # a short prompt beside a long one is drawn as if alone
    assert difference(ours[:1], np.asarray(pipeline("a coat", seed=3, **settings)[0].image)[None]) <= 1
