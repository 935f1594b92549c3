"""Tiny checkpoints with random weights, one of each family but Stable Diffusion's own (tiny.py)."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tiny
import torch
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)  # fmt: skip
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)


@contextlib.contextmanager
def same_weights() -> Iterator[None]:
    """Whatever the family: parts that families share are exported once a run."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def vae(channels: int = 4, shift: float | None = None, attention: bool = True) -> AutoencoderKL:
    """Halves the sides once. Attention to all of 128x128 latents would take minutes."""
    return AutoencoderKL(
        block_out_channels=(16, 32), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=channels, norm_num_groups=8,
        sample_size=32, shift_factor=shift, scaling_factor=0.6,
        mid_block_add_attention=attention,
    )  # fmt: skip


same_vae = same_weights()(vae)


@same_weights()
def clip(cls: type, tokenizer: CLIPTokenizer, width: int = 32) -> Any:
    """Three layers."""
    return cls(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=64, num_hidden_layers=3,
            num_attention_heads=4, max_position_embeddings=24, projection_dim=width,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def clip_tokenizer() -> CLIPTokenizer:
    """The embedded model's."""
    return CLIPTokenizer.from_pretrained(tiny.EMBEDDED_CHECKPOINT / "tokenizer")


@same_weights()
def t5(width: int = 48) -> T5EncoderModel:
    """Two layers."""
    return T5EncoderModel(T5Config(vocab_size=64, d_model=width, d_kv=12, d_ff=64, num_layers=2, num_heads=4))


def t5_tokenizer() -> T5TokenizerFast:
    """Letters as a unigram model, closed by </s> as T5's own."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces += [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz-'"]
    tokens = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokens.pre_tokenizer = pre_tokenizers.Metaspace()
    tokens.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return T5TokenizerFast(tokenizer_object=tokens, extra_ids=0, model_max_length=512)


def text_unet(**more: Any) -> UNet2DConditionModel:
    """One halving."""
    settings = {"cross_attention_dim": 32, "sample_size": 16} | more
    return UNet2DConditionModel(
        block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **settings,
    )  # fmt: skip


def pixel_unet(channels: int, **more: Any) -> UNet2DModel:
    """One halving."""
    return UNet2DModel(
        sample_size=16, in_channels=channels, out_channels=channels, block_out_channels=(16, 32),
        layers_per_block=1, norm_num_groups=8, attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), **more,
    )  # fmt: skip


def ddpm() -> DDPMPipeline:
    """Unconditional, pixels."""
    return DDPMPipeline(pixel_unet(3), DDPMScheduler())


def ddim_classes() -> DDIMPipeline:
    """Grey pixels of ten classes and none; diffusers has no pipeline for labels, but the same folder."""
    schedule = DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction",
                             timestep_spacing="trailing")  # fmt: skip
    return DDIMPipeline(pixel_unet(1, num_class_embeds=11), schedule)


def dit() -> DiTPipeline:
    """ImageNet's thousand classes, as the pipeline assumes; learned variance."""
    transformer = DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
        sample_size=8, patch_size=2, num_embeds_ada_norm=1000, norm_num_groups=8,
    )  # fmt: skip
    return DiTPipeline(transformer, same_vae(), DDIMScheduler(clip_sample=False))


def pixart(cls: type = PixArtSigmaPipeline, sample_size: int = 16) -> Any:
    """T5 with its mask, learned variance, one square size. At 128 it is told the resolution."""
    transformer = PixArtTransformer2DModel(
        sample_size=sample_size, patch_size=2, in_channels=4, out_channels=8, num_layers=2,
        attention_head_dim=12, num_attention_heads=4, cross_attention_dim=48, caption_channels=48,
        norm_num_groups=8, interpolation_scale=1,
    )  # fmt: skip
    torch.nn.init.normal_(transformer.scale_shift_table, std=0.3)
    schedule = DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
    return cls(t5_tokenizer(), t5(), same_vae(attention=sample_size < 128), transformer, schedule)


def lcm() -> LatentConsistencyModelPipeline:
    """The guidance scale is an input of the model."""
    tokenizer = clip_tokenizer()
    return LatentConsistencyModelPipeline(
        vae=same_vae(), text_encoder=clip(CLIPTextModel, tokenizer), tokenizer=tokenizer,
        unet=text_unet(time_cond_proj_dim=16), safety_checker=None, feature_extractor=None,
        scheduler=LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                               clip_sample=False),
        requires_safety_checker=False,
    )  # fmt: skip


def turbo() -> StableDiffusionPipeline:
    """SD-turbo's shape: that of 2.1, linear projections, Euler from the last noise level on."""
    tokenizer = clip_tokenizer()
    return StableDiffusionPipeline(
        vae=same_vae(), text_encoder=clip(CLIPTextModel, tokenizer), tokenizer=tokenizer,
        unet=text_unet(use_linear_projection=True), safety_checker=None, feature_extractor=None,
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                         timestep_spacing="trailing", steps_offset=1),
        requires_safety_checker=False,
    )  # fmt: skip


def sdxl() -> StableDiffusionXLPipeline:
    """Two text encoders, pooled text and time ids."""
    one, two = clip_tokenizer(), clip_tokenizer()
    two.pad_token = "!"
    unet = text_unet(
        cross_attention_dim=80, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 * 6 + 48,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae=same_vae(), text_encoder=clip(CLIPTextModel, one), tokenizer=one,
        text_encoder_2=clip(CLIPTextModelWithProjection, two, 48), tokenizer_2=two, unet=unet,
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012,
                                         beta_schedule="scaled_linear", steps_offset=1,
                                         timestep_spacing="leading"),
        add_watermarker=False,
    )  # fmt: skip


def sd3() -> StableDiffusion3Pipeline:
    """Two CLIPs and T5, flow matching with a shift, 16 channels with a shift factor."""
    tokenizer = clip_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=16, out_channels=16, num_layers=2,
        attention_head_dim=8, num_attention_heads=4, joint_attention_dim=96, caption_projection_dim=32,
        pooled_projection_dim=64, pos_embed_max_size=24,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae(16, 0.06),
        text_encoder=clip(CLIPTextModelWithProjection, tokenizer), tokenizer=tokenizer,
        text_encoder_2=clip(CLIPTextModelWithProjection, tokenizer), tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(96), tokenizer_3=t5_tokenizer(),
    )  # fmt: skip


def flux(guidance: bool = True) -> FluxPipeline:
    """Packed latents, rotary ids; with the guidance embedding as dev, without as schnell."""
    tokenizer = clip_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=48, pooled_projection_dim=32,
        guidance_embeds=guidance, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    schedule = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=guidance, shift=3.0 if guidance else 1.0)
    return FluxPipeline(
        schedule,
        same_vae(16, 0.1),
        clip(CLIPTextModel, tokenizer),
        tokenizer,
        t5(),
        t5_tokenizer(),
        transformer,
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "ddpm": ddpm,
    "classes": ddim_classes,
    "dit": dit,
    "pixart-sigma": pixart,
    "pixart-alpha": lambda: pixart(PixArtAlphaPipeline, 128),
    "lcm": lcm,
    "sd-turbo": turbo,
    "sdxl": sdxl,
    "sd3": sd3,
    "flux-dev": flux,
    "flux-schnell": lambda: flux(guidance=False),
}


SMALL = [name for name in FAMILIES if name != "pixart-alpha"]
"""All but the one of 128 latents a side, which takes seconds a step."""


def write(name: str, folder: Path) -> Path:
    """Save one family's checkpoint."""
    torch.manual_seed(0)
    FAMILIES[name]().save_pretrained(folder)
    return folder


def as_transformers_4_reads(checkpoint: Path) -> Path:
    """Published checkpoints have the prefix text_model and CLIP's two tables; newer ones neither."""
    for weights in checkpoint.glob("text_encoder*/model.safetensors"):
        prefixed = {
            key if key.startswith(("text_model.", "text_projection")) else f"text_model.{key}": tensor
            for key, tensor in load_file(weights).items()
        }
        save_file(prefixed, weights, {"format": "pt"})
    for folder in checkpoint.glob("tokenizer*"):
        for table in ("vocab.json", "merges.txt"):
            shutil.copy2(tiny.EMBEDDED_CHECKPOINT / "tokenizer" / table, folder / table)
    return checkpoint
