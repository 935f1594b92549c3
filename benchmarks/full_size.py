"""Build an engine of a full-size architecture with random weights: time, peak memory and file sizes.

No full-size weights can be had where this is developed; neither time nor size depends on their values.
Stable Diffusion 3 and Flux have their full width and a few of their layers.
python benchmarks/full_size.py sd15 /path/with/40/GB
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
TOKENIZER = ROOT / "training" / "checkpoint" / "tokenizer"


def write_sd15(folder: Path) -> None:
    import torch
    from diffusers import PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    torch.set_default_dtype(torch.float16)
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    StableDiffusionPipeline(
        vae=vae(), unet=unet, tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER, model_max_length=77),
        text_encoder=clip_l(CLIPTextModel),
        scheduler=PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                steps_offset=1, skip_prk_steps=True),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


def write_sdxl(folder: Path) -> None:
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    torch.set_default_dtype(torch.float16)
    unet = UNet2DConditionModel(
        sample_size=128, cross_attention_dim=2048, block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )  # fmt: skip
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, model_max_length=77)
    StableDiffusionXLPipeline(
        vae=vae(0.13025), unet=unet, tokenizer=tokenizer, tokenizer_2=tokenizer,
        text_encoder=clip_l(CLIPTextModel),
        text_encoder_2=CLIPTextModelWithProjection(
            CLIPTextConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32,
                           num_attention_heads=20, projection_dim=1280)),
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                         steps_offset=1, timestep_spacing="leading"),
        add_watermarker=False,
    ).save_pretrained(folder)  # fmt: skip


def clip_l(cls: type):  # type: ignore[no-untyped-def]
    from transformers import CLIPTextConfig

    return cls(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                              num_attention_heads=12, projection_dim=768))  # fmt: skip


def t5_xxl(layers: int):  # type: ignore[no-untyped-def]
    """The encoder of T5 v1.1 XXL, which has 24 layers."""
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=layers,
                                   num_heads=64, feed_forward_proj="gated-gelu"))  # fmt: skip


def write_sd3(folder: Path) -> None:
    """2 of 24 layers, 2 of T5's 24."""
    import families
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

    torch.set_default_dtype(torch.float16)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, model_max_length=77)
    clip_g = CLIPTextConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32,
                            num_attention_heads=20, projection_dim=1280)  # fmt: skip
    StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=128, patch_size=2, in_channels=16, out_channels=16, num_layers=2,
            attention_head_dim=64, num_attention_heads=24, joint_attention_dim=4096,
            caption_projection_dim=1536, pooled_projection_dim=2048, pos_embed_max_size=192),
        vae=vae(1.5305, 16, 0.0609), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=clip_l(CLIPTextModelWithProjection), tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(clip_g), tokenizer_2=tokenizer,
        text_encoder_3=t5_xxl(2), tokenizer_3=families.t5_tokenizer(),
    ).save_pretrained(folder)  # fmt: skip


def write_flux(folder: Path) -> None:
    """1 of 19 double and 2 of 38 single layers, 2 of T5's 24."""
    import families
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel, CLIPTokenizer

    torch.set_default_dtype(torch.float16)
    FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1, in_channels=64, num_layers=1, num_single_layers=2, attention_head_dim=128,
            num_attention_heads=24, joint_attention_dim=4096, pooled_projection_dim=768,
            guidance_embeds=True),
        vae=vae(0.3611, 16, 0.1159), scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        text_encoder=clip_l(CLIPTextModel),
        tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER, model_max_length=77),
        text_encoder_2=t5_xxl(2), tokenizer_2=families.t5_tokenizer(),
    ).save_pretrained(folder)  # fmt: skip


def vae(scaling_factor: float = 0.18215, channels: int = 4, shift: float | None = None):  # type: ignore[no-untyped-def]
    """Stable Diffusion's autoencoder."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=channels,
        sample_size=512,
        shift_factor=shift,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=scaling_factor,
    )  # fmt: skip


WRITERS = {"sd15": write_sd15, "sdxl": write_sdxl, "sd3": write_sd3, "flux": write_flux}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=WRITERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--write-only", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    checkpoint, engine = (
        args.folder / args.family,
        args.folder / f"{args.family}-{args.target}-{args.precision}",
    )
    if args.write_only:
        WRITERS[args.family](checkpoint)
        return
    if not (checkpoint / "model_index.json").is_file():  # in a process of its own, to measure the build alone
        subprocess.run([sys.executable, *sys.argv, "--write-only"], check=True)
    safegen = Path(sys.executable).parent / "safegen"
    began = time.perf_counter()
    done = subprocess.run(
        [safegen, "build-engine", checkpoint, "-o", engine, "--precision", args.precision,
         "--target", args.target,
         "--allow-unguarded", "--json"],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    answer = json.loads(done.stdout)
    print(json.dumps({
        "family": args.family, "target": args.target, "precision": args.precision,
        "seconds": round(time.perf_counter() - began),
        "peak_gib": round(peak, 1),
        "components": {c["component"]: {"gib": round(c["bytes"] / 2**30, 2), "seconds": round(c["seconds"]),
                                        "max_rel": c["max_rel"]} for c in answer["components"]},
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
