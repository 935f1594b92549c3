"""LoRA files. If these fail, an engine draws without the style that its fingerprint names, or doubly."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from safegen import Pipeline
from safegen.errors import ExportError, UsageError
from safegen.sampling.noise import normal_batch
from safegen_cli.build_engine import parse_lora
from safegen_engines.build import build
from safegen_engines.build.options import Options
from safegen_export.checkpoint import Checkpoint, Lora, open_checkpoint
from safegen_export.graphs import open_graphs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lora(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random one over the UNet's attention, as diffusers saves them."""
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    torch.manual_seed(1)
    pipe = StableDiffusionPipeline.from_pretrained(checkpoint, safety_checker=None)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    folder = tmp_path_factory.mktemp("lora")
    StableDiffusionPipeline.save_lora_weights(folder, get_peft_model_state_dict(pipe.unet))
    return folder / "pytorch_lora_weights.safetensors"


def with_lora(checkpoint: Path, *loras: Lora) -> Checkpoint:
    opened = open_checkpoint(checkpoint)
    return Checkpoint(opened.folder, opened.family, opened.configs, loras=loras)


def test_an_engine_draws_what_diffusers_draws_with_it(
    checkpoint: Path, exported, lora: Path, tmp_path: Path
) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    exported(with_lora(checkpoint, Lora(lora, 0.7)), tmp_path / "onnx")
    options = Options(allow_unguarded=True, loras=((lora, 0.7),))
    build.build(checkpoint, tmp_path / "engine", options, export=tiny.copied(tmp_path / "onnx"))
    ours = Pipeline.load(tmp_path / "engine")("a coat", seed=3, steps=6, solver="ddim", guard="off")[0]
    pipe = StableDiffusionPipeline.from_pretrained(checkpoint, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config({**pipe.scheduler.config, "clip_sample": False})

    def theirs(**more) -> np.ndarray:
        latents = torch.from_numpy(normal_batch([3], 0, (4, 16, 16)))
        images = pipe("a coat", num_inference_steps=6, latents=latents, width=32, height=32,
                      guidance_scale=7.5, output_type="np", **more).images  # fmt: skip
        return np.round(images[0] * 255).astype(int)

    plain = theirs()
    pipe.load_lora_weights(lora.parent, weight_name=lora.name)
    styled = theirs(cross_attention_kwargs={"scale": 0.7})  # at run time, not fused
    assert np.abs(np.asarray(ours.image).astype(int) - styled).max() <= 2
    assert np.abs(plain - styled).max() > 10


def test_file_and_scale_enter_the_fingerprint(lora: Path) -> None:
    one = (lora, 1.0)
    keys = [Options(loras=loras).key() for loras in ((), (one,), ((lora, 0.5),), (one, one))]
    assert len({str(key) for key in keys}) == 4


def test_text_becomes_a_file_and_a_scale(lora: Path, tmp_path: Path) -> None:
    assert parse_lora(str(lora)) == (lora, 1.0)
    assert parse_lora(f"{lora}:-0.5") == (lora, -0.5)
    for text, word in ((str(tmp_path / "none"), "no such LoRA"), (f"{lora}:much", "not a number")):
        with pytest.raises(UsageError, match=word):
            parse_lora(text)


def test_a_file_that_does_not_fit_is_named(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    save_file({"unet.nothing.lora_A.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(ExportError, match=r"other\.safetensors"):
        next(open_graphs(with_lora(checkpoint, Lora(path))))
