"""Put the trained parts together as diffusers checkpoints in half precision: checkpoint/ and pixels/."""

import argparse
import shutil
from pathlib import Path

import torch
from diffusers import DDIMPipeline, DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

import train_pixels
from run import resume
from train_tokenizer import FOLDER as TOKENIZER
from train_unet import CHECKPOINT as UNET
from train_unet import SCHEDULE, Denoiser, tokenizer
from train_vae import CHECKPOINT as VAE
from train_vae import build as build_vae

OUT = Path(__file__).parent / "checkpoint"
PIXELS = Path(__file__).parent / "pixels"


def restore_prefix(path: Path) -> None:
    """Name the weights ``text_model.*`` as every published checkpoint does.

    transformers 5 leaves the prefix out, and transformers 4 then reads none of them, with a warning.
    """
    weights = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in load_file(path).items()}
    save_file(weights, path, {"format": "pt"})


def megabytes(folder: Path) -> float:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6


def assemble_pixels(out: Path) -> None:
    """The class-conditional pixel model; label 10 is its null class."""
    state = resume(train_pixels.CHECKPOINT)
    if state is None:
        raise SystemExit("train first: train_pixels.py")
    model = train_pixels.build()
    model.load_state_dict(state["ema"])
    scheduler = DDIMScheduler(**train_pixels.SCHEDULE, set_alpha_to_one=False)
    DDIMPipeline(unet=model.half(), scheduler=scheduler).save_pretrained(out)
    print(out, megabytes(out), "MB")


def assemble_fashion(out: Path) -> None:
    """The text model: CLIP, UNet and autoencoder."""
    state, vae_state = resume(UNET), resume(VAE)
    if state is None or vae_state is None:
        raise SystemExit("train first: train_vae.py, train_tokenizer.py, train_unet.py")
    model = Denoiser(tokenizer().get_vocab())
    model.load_state_dict(state["ema"])
    vae = build_vae()
    vae.load_state_dict(vae_state["model"])
    vae.register_to_config(scaling_factor=round(state["scaling_factor"], 5))
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER),
        unet=model.unet,
        # trailing starts at t = 999, the nearest to pure noise that this model has seen
        scheduler=DDIMScheduler(**SCHEDULE, timestep_spacing="trailing", set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(torch.float16)
    pipeline.save_pretrained(out)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy2(TOKENIZER / name, out / "tokenizer" / name)
    restore_prefix(out / "text_encoder" / "model.safetensors")
    print(out, megabytes(out), "MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=["fashion", "pixels"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.model == "fashion":
        assemble_fashion(args.out or OUT)
    else:
        assemble_pixels(args.out or PIXELS)


if __name__ == "__main__":
    main()
