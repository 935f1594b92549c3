"""Tiny checkpoints with random weights, shaped like Stable Diffusion: a second to make, nothing to learn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np

from safegen.format.bundle import Bundle, read_bundle, write_bundle
from safegen.guard.regions import Regions, at_random, cut
from safegen_engines.build.options import Options
from safegen_engines.build.source import Export
from safegen_engines.freeze.axes import gate_axes

ROOT = Path(__file__).parent.parent
EMBEDDED = ROOT / "runtime" / "safegen" / "models" / "fashion"
EMBEDDED_CHECKPOINT = ROOT / "training" / "checkpoint"
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


def write_checkpoint(folder: Path) -> Path:
    """Save a diffusers folder with the embedded model's tokenizer."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline
    from diffusers import UNet2DConditionModel as Unet
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED_CHECKPOINT / "tokenizer")
    unet = Unet(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        cross_attention_dim=32, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(16, 32), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=8,
        sample_size=32,
    )  # fmt: skip
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=3,
            num_attention_heads=4, max_position_embeddings=24,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet,
        scheduler=PNDMScheduler(**SCHEDULER, skip_prk_steps=True), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def with_prediction(onnx_folder: Path, prediction_type: str, out: Path) -> Path:
    """The same graphs, said to predict something else."""
    shutil.copytree(onnx_folder, out)
    path = out / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": prediction_type}))
    return out


def copied(source: Path) -> Export:
    """As an exporter: the graphs that were made before."""

    def export(checkpoint: Path, folder: Path, options: Options) -> None:
        shutil.copytree(source, folder, dirs_exist_ok=True)

    return export


def write_regions(path: Path, sides: int, *, anywhere: bool = False) -> Path:
    """The embedded bundle with its banks cut to regions, and a gate that opens on many of them."""
    frozen, regions = read_bundle(EMBEDDED / "default.negation"), Regions(sides, anywhere)
    benign = at_random(frozen.benign, regions, np.random.default_rng(0))
    negation = cut(frozen.negation, Regions(sides))
    # as if each image showed the thing alone
    negation = negation[:: sides**2] if anywhere else negation
    info = msgspec.structs.replace(
        frozen.info,
        regions=sides,
        anywhere=anywhere,
        target_count=len(benign) - 9,
        bandwidth=frozen.info.bandwidth / sides,
    )
    gate = frozen.gate._replace(location=frozen.gate.location - 12.0)
    axes = gate_axes(negation, benign)
    whole = msgspec.structs.replace(frozen, info=info, negation=negation, benign=benign, axes=axes, gate=gate)
    return rewrite(path, whole)


def rewrite(path: Path, bundle: Bundle) -> Path:
    """A bundle in memory, sealed again."""
    write_bundle(
        path,
        bundle.info,
        negation=bundle.negation,
        benign=bundle.benign,
        axes=bundle.axes,
        gate=bundle.gate,
        density=bundle.density,
    )
    return path
