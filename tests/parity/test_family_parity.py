"""Every family's pictures against its own diffusers pipeline: same weights, latents and noise in.

If these fail, an engine of that family does not draw what its checkpoint draws.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import cpp_host
import families
import numpy as np
import pytest
import torch
from schedulers import SCHEDULERS

from safegen import Pipeline, Solver
from safegen.guard.settings import Ratio
from safegen.sampling.noise import normal_batch
from safegen_engines.freeze.freeze import freeze
from safegen_engines.freeze.images import find_images

pytestmark = pytest.mark.slow

TOLERANCE = 2
"""Of 255: both round to 8 bits, and float32 sums in another order differ by about 1e-5."""
SEEDS = [5, 6]


@pytest.fixture
def our_noise(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make diffusers draw our noise: our draw i for its i-th call, from the named modules."""

    def use(*owners: Any, first: int = 1) -> None:
        draws = count(first)

        def randn(shape: Any, *rest: Any, **named: Any) -> torch.Tensor:
            return torch.from_numpy(normal_batch(SEEDS, next(draws), shape[1:]))

        for owner in owners:
            module = __import__(type(owner).__module__, fromlist=["x"])
            if hasattr(module, "randn_tensor"):
                monkeypatch.setattr(module, "randn_tensor", randn)

    return use


def open_pipe(checkpoint: Path, **parts: Any) -> Any:
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(checkpoint, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def first_latents(*shape: int) -> torch.Tensor:
    return torch.from_numpy(normal_batch(SEEDS, 0, shape))


def assert_same(ours: list[Any], theirs: np.ndarray) -> None:
    found = np.stack([np.asarray(p.image) for p in ours]).astype(int)
    expected = np.round(np.asarray(theirs) * 255).astype(int)
    assert found.std() > 5  # a grey picture would agree with anything grey
    assert np.abs(found - expected).max() <= TOLERANCE


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_unconditional_pixels(engine_of, our_noise, tmp_path, name: str, variance: str) -> None:
    checkpoint, engine = engine_of("ddpm")
    pipe = open_pipe(checkpoint)
    pipe.scheduler = SCHEDULERS[name].from_config({**pipe.scheduler.config, "variance_type": variance})
    our_noise(pipe, pipe.scheduler, first=0)
    more = {"use_clipped_model_output": True, "eta": 0.0} if name == "ddim" else {}
    if name == "ddim":
        from diffusers import DDIMPipeline

        pipe = DDIMPipeline(pipe.unet, pipe.scheduler)
        pipe.set_progress_bar_config(disable=True)
        our_noise(pipe, first=0)
    expected = pipe(batch_size=2, num_inference_steps=7, output_type="np", **more).images
    pipeline = Pipeline.load(engine)
    pipeline.engine.manifest.scheduler["variance_type"] = variance
    assert_same(pipeline(n=2, seed=5, steps=7, solver=name, guard="off"), expected)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("label", [None, 7])
def test_classes_in_pixels(engine_of, label: int | None, guidance_scale: float) -> None:
    """Diffusers has no pipeline for labels: its scheduler and model, in a loop of three lines."""
    checkpoint, engine = engine_of("classes")
    pipe = open_pipe(checkpoint)
    pipe.scheduler.set_timesteps(6)
    x, null = first_latents(1, 16, 16), torch.full((2,), 10)
    given = null if label is None else torch.full((2,), label)
    for t in pipe.scheduler.timesteps:
        with torch.no_grad():
            cond, free = (pipe.unet(x, t, class_labels=labels).sample for labels in (given, null))
        out = free + guidance_scale * (cond - free)
        x = pipe.scheduler.step(out, t, x, use_clipped_model_output=True).prev_sample
    expected = (x.clamp(-1, 1) / 2 + 0.5).permute(0, 2, 3, 1).repeat(1, 1, 1, 3)
    ours = Pipeline.load(engine)(class_label=label, n=2, seed=5, steps=6, guard="off",
                                 guidance_scale=guidance_scale)  # fmt: skip
    assert_same(ours, expected.numpy())
    assert ours[0].title == ("picture" if label is None else "class 7")


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize("name", ["ddim", "dpm++2m"])
def test_dit(engine_of, our_noise, name: str, guidance_scale: float) -> None:
    checkpoint, engine = engine_of("dit")
    pipe = open_pipe(checkpoint)
    pipe.scheduler = SCHEDULERS[name].from_config(pipe.scheduler.config)
    our_noise(pipe, first=0)
    expected = pipe([3, 3], guidance_scale=guidance_scale, num_inference_steps=6, output_type="np").images
    ours = Pipeline.load(engine)(class_label=3, n=2, seed=5, steps=6, solver=name, guard="off",
                                 guidance_scale=guidance_scale)  # fmt: skip
    assert_same(ours, expected)


PIXART = [
    ("pixart-sigma", scale, prompt) for scale in (1.0, 4.5) for prompt in ("a coat", " A Long Coat-or-Bag ")
]
PIXART += [("pixart-alpha", 4.5, "a coat")]


@pytest.mark.parametrize(("name", "guidance_scale", "prompt"), PIXART)
def test_pixart(engine_of, name: str, guidance_scale: float, prompt: str) -> None:
    """Alpha here is of 128 latents, where the model is told the resolution."""
    checkpoint, engine = engine_of(name)
    pipe, (side, steps) = open_pipe(checkpoint), (16, 6) if name == "pixart-sigma" else (128, 2)
    expected = pipe(
        [prompt] * 2, height=side * 2, width=side * 2, num_inference_steps=steps, output_type="np",
        use_resolution_binning=False, clean_caption=False, guidance_scale=guidance_scale,
        latents=first_latents(4, side, side),
    ).images  # fmt: skip
    ours = Pipeline.load(engine)(prompt, n=2, seed=5, steps=steps, guard="off",
                                 guidance_scale=guidance_scale)  # fmt: skip
    assert_same(ours, expected)


@pytest.mark.parametrize("guidance_scale", [1.0, 8.0])
@pytest.mark.parametrize("steps", [1, 4])
def test_lcm(engine_of, our_noise, steps: int, guidance_scale: float) -> None:
    checkpoint, engine = engine_of("lcm")
    pipe = open_pipe(checkpoint)
    our_noise(pipe.scheduler)
    expected = pipe(["a coat"] * 2, width=32, height=32, num_inference_steps=steps, output_type="np",
                    guidance_scale=guidance_scale, latents=first_latents(4, 16, 16)).images  # fmt: skip
    ours = Pipeline.load(engine)("a coat", n=2, seed=5, steps=steps, guidance_scale=guidance_scale,
                                 guard="off")  # fmt: skip
    assert_same(ours, expected)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_sd_turbo(engine_of, steps: int) -> None:
    """Distilled to few steps, drawn without guidance."""
    checkpoint, engine = engine_of("sd-turbo")
    pipe = open_pipe(checkpoint)
    expected = pipe(["a coat"] * 2, width=32, height=32, num_inference_steps=steps, output_type="np",
                    guidance_scale=0.0, latents=first_latents(4, 16, 16)).images  # fmt: skip
    ours = Pipeline.load(engine)("a coat", n=2, seed=5, steps=steps, guidance_scale=0.0, guard="off")
    assert_same(ours, expected)


@pytest.mark.parametrize(("guidance_scale", "negative"), [(1.0, ""), (6.0, ""), (6.0, "a bag")])
@pytest.mark.parametrize("name", ["euler", "euler-a", "ddim", "ddpm", "dpm++2m"])
def test_sdxl(engine_of, our_noise, name: str, guidance_scale: float, negative: str) -> None:
    checkpoint, engine = engine_of("sdxl")
    pipe = open_pipe(checkpoint)
    config = {**pipe.scheduler.config, "clip_sample": False, "set_alpha_to_one": True}
    pipe.scheduler = SCHEDULERS[name].from_config(config)
    our_noise(pipe.scheduler)
    expected = pipe(
        ["a sneaker"] * 2, negative_prompt=[negative] * 2 if negative else None, width=48, height=32,
        num_inference_steps=6, output_type="np", guidance_scale=guidance_scale,
        latents=first_latents(4, 16, 24),
    ).images  # fmt: skip
    ours = Pipeline.load(engine)("a sneaker", negative_prompt=negative, n=2, seed=5, steps=6, size=(48, 32),
                                 solver=name, guidance_scale=guidance_scale, guard="off")  # fmt: skip
    assert_same(ours, expected)


@pytest.mark.parametrize("without_t5", [False, True])
@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize("size", [(32, 32), (36, 32)])
def test_sd3(engine_of, guidance_scale: float, without_t5: bool, size: tuple[int, int]) -> None:
    checkpoint, engine = engine_of("sd3", without_t5)
    pipe = open_pipe(checkpoint, **({"text_encoder_3": None, "tokenizer_3": None} if without_t5 else {}))
    expected = pipe(
        ["a bag"] * 2, width=size[0], height=size[1], num_inference_steps=5, output_type="np",
        guidance_scale=guidance_scale, latents=first_latents(16, size[1] // 2, size[0] // 2),
    ).images  # fmt: skip
    ours = Pipeline.load(engine)("a bag", n=2, seed=5, steps=5, size=size, guidance_scale=guidance_scale,
                                 guard="off")  # fmt: skip
    assert_same(ours, expected)


@pytest.mark.parametrize("name", ["flux-dev", "flux-schnell"])
@pytest.mark.parametrize("size", [(32, 32), (36, 28)])
def test_flux(engine_of, name: str, size: tuple[int, int]) -> None:
    checkpoint, engine = engine_of(name)
    pipe = open_pipe(checkpoint)
    latents = first_latents(16, size[1] // 2, size[0] // 2)
    packed = pipe._pack_latents(latents, *latents.shape)
    scale = 3.5 if name == "flux-dev" else 1.0
    expected = pipe(
        ["a coat"] * 2, width=size[0], height=size[1], num_inference_steps=4, output_type="np",
        guidance_scale=scale, latents=packed,
    ).images  # fmt: skip
    ours = Pipeline.load(engine)("a coat", n=2, seed=5, steps=4, size=size, guidance_scale=scale,
                                 guard="off")  # fmt: skip
    assert_same(ours, expected)


@pytest.mark.parametrize("name", families.SMALL)
def test_every_family_is_guarded(engine_of, name: str, tmp_path: Path) -> None:
    """Its own pictures, frozen, are steered away from at the same seeds; others are left alone."""
    pipeline = Pipeline.load(engine_of(name)[1])
    spec = pipeline.engine.manifest.conditioning
    subject = {"prompt": "a coat"} if spec.text else {"class_label": 3} if spec.classes else {}
    settings = {"steps": 8, "n": 12, "batch_size": 12, **subject}
    for kind, seed in (("never", 0), ("ordinary", 100)):
        for i, picture in enumerate(pipeline(seed=seed, guard="off", **settings)):
            (tmp_path / kind).mkdir(exist_ok=True)
            picture.save(tmp_path / kind / f"{i:02}.png")
    never, ordinary = (find_images([str(tmp_path / kind)]) for kind in ("never", "ordinary"))
    bundle = tmp_path / "x.negation"
    freeze(pipeline.engine, never, bundle, name="these", benign=ordinary,
           guard=Ratio(false_positive_rate=0.2))  # fmt: skip
    guarded = Pipeline.load(engine_of(name)[1], bundle)
    again = guarded(seed=0, **settings)
    free = pipeline(seed=0, guard="off", **settings)
    opened = [p.verdict.opened > 0 for p in again]
    changed = [(np.asarray(p.image) != np.asarray(q.image)).any() for p, q in zip(again, free, strict=True)]
    assert sum(opened) >= 4  # a random autoencoder does not give back what it was given
    assert changed == opened


def test_requests_that_a_family_cannot_answer_say_so(engine_of) -> None:
    from safegen.errors import UsageError

    pixels, dit = (Pipeline.load(engine_of(name)[1]) for name in ("ddpm", "dit"))
    for pipeline, settings, word in [
        (pixels, {"prompt": "a coat"}, "takes no prompt"),
        (pixels, {"class_label": 1}, "knows no classes"),
        (pixels, {"guidance_scale": 3.0}, "takes none"),
        (pixels, {"negative_prompt": "a coat"}, "takes none"),
        (dit, {"prompt": "a coat"}, "takes a class label"),
        (dit, {"class_label": 1000}, "knows 0 to 999"),
        (dit, {"class_label": 1, "size": (32, 32)}, "16x16 pictures alone"),
        (Pipeline.load(engine_of("flux-dev")[1]), {"prompt": "x", "solver": Solver("ddim")}, "flow-euler"),
        (Pipeline.load(engine_of("flux-dev")[1]), {"prompt": "x", "size": (34, 32)}, "multiples of 4"),
    ]:
        with pytest.raises(UsageError, match=word):
            pipeline(guard="off", **settings)


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux-dev", "lcm"])
def test_the_cpp_host_draws_the_same(sanitized: Path, engine_of, tmp_path: Path, name: str) -> None:
    """Several text encoders, pooled states, time ids and embedded guidance: told as Python tells them."""
    engine = engine_of(name)[1]
    theirs = Pipeline.load(engine)("a photo of a coat", seed=2, steps=4, guard="off")[0]
    asked = ("-p", "a photo of a coat", "--seed", 2, "--steps", 4, "--guard", "off")
    ours, _ = cpp_host.draw(sanitized, engine, tmp_path / "x.png", *asked)
    assert np.abs(ours - np.asarray(theirs.image)).max() <= 1
