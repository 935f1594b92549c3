"""Train the model of scenes: 4x64x64 latents of pictures of 256x256, one garment each, or four.

The embedded model's text encoder and autoencoder, kept as they are, and a UNet of its own. Half of the
pictures are one garment enlarged ("a photo of a coat"), half a scene of four ("a coat and others"): the
coat at a place drawn by lot, among three of other classes; sneakers are only where the prompt has them.
The UNet sees blocks of 4x4 latents as one, so that two cores can train it. Leaves build/training/scenes/unet.
"""

import argparse
import math
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel

import fashion
from prompts import GARMENTS
from run import WORK, cosine, descend, keep, log, restore, save, update_ema
from train_pixels import SCHEDULE as PIXELS
from train_unet import tokenizer

SOURCE = Path(__file__).parent / "checkpoint"
FOLDER = WORK / "scenes"
CHECKPOINT = WORK / "scenes.pt"
POOL = WORK / "scenes-latents.pt"
SIDE = 256
GUARDED = next(g.label for g in GARMENTS if g.name == "sneaker")
OTHERS = "{} and others"
PATCH = 4
"""Latents a side that the UNet sees as one, with 16 times the channels."""


def shifted_betas(by: float) -> list[float]:
    """The cosine schedule's betas with each log-SNR lower by 2 log(by): "simple diffusion", arXiv 2301.11093.

    What is enlarged outlasts noise that hides the small picture.
    """
    kept = DDPMScheduler(**PIXELS).alphas_cumprod.double()
    kept = kept / (kept + by**2 * (1 - kept))
    before = torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
    return (1 - kept / before).tolist()


SCHEDULE = {**PIXELS, "clip_sample": False, "trained_betas": shifted_betas(PATCH)}


def build() -> UNet2DConditionModel:
    """Three levels, 16x16 blocks to 4x4; text from 8x8 on."""
    return UNet2DConditionModel(
        sample_size=SIDE // 4 // PATCH,
        in_channels=4 * PATCH**2,
        out_channels=4 * PATCH**2,
        block_out_channels=(96, 128, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def predict(unet: UNet2DConditionModel, x: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
    """V (B, 4, 64, 64) of x_t and text states (B, L, 128)."""
    blocks = F.pixel_unshuffle(x, PATCH).to(memory_format=torch.channels_last)
    return F.pixel_shuffle(unet(blocks, timesteps, states).sample, PATCH)


def enlarge(images: Tensor, side: int) -> Tensor:
    """uint8 (B, 32, 32) to float (B, 1, side, side) in [-1, 1]."""
    large = F.interpolate(images[:, None].float(), (side, side), mode="bicubic", antialias=True)
    return large.round().clamp(0, 255) / 127.5 - 1


def scenes(images: Tensor, labels: Tensor, wanted: Tensor, draw: torch.Generator, device: str) -> Tensor:
    """(B, 1, 256, 256): a garment of each wanted class at one of four places, three others around it."""
    places = torch.randint(4, (len(wanted),), generator=draw)
    of_class = [torch.nonzero(labels == label)[:, 0] for label in range(10)]
    rows = []
    for label, place in zip(wanted.tolist(), places.tolist(), strict=True):
        others = torch.tensor([c for c in range(10) if c not in (label, GUARDED)])
        classes = others[torch.randint(len(others), (4,), generator=draw)]
        classes[place] = label
        picked = [of_class[c][torch.randint(len(of_class[c]), (), generator=draw)] for c in classes.tolist()]
        rows.append(torch.stack(picked))
    quarters = enlarge(images[torch.cat(rows)].to(device), SIDE // 2).reshape(-1, 2, 2, SIDE // 2, SIDE // 2)
    return quarters.permute(0, 1, 3, 2, 4).reshape(-1, 1, SIDE, SIDE)


@torch.no_grad()
def encode_all(vae: AutoencoderKL, count: int, seed: int, device: str) -> list[Tensor]:
    """Scaled latents (2 count, 4, 64, 64) in half precision, labels (2 count,), and which are scenes.

    They are kept for the next start.
    """
    if POOL.is_file() and len((kept := torch.load(POOL, weights_only=True))[0]) == 2 * count:
        return list(kept)
    images, labels = map(torch.from_numpy, fashion.load("train"))
    draw = torch.Generator().manual_seed(seed)
    index = torch.randperm(len(images), generator=draw)[:count]
    wanted = torch.randint(10, (count,), generator=draw)
    latents = []
    chunk = math.gcd(count, 16)
    for start in range(0, 2 * count, chunk):
        rows = slice(start % count, start % count + chunk)
        pictures = (
            enlarge(images[index[rows]].to(device), SIDE)
            if start < count
            else scenes(images, labels, wanted[rows], draw, device)
        )
        mean = vae.encode(pictures.repeat(1, 3, 1, 1)).latent_dist.mean
        latents.append((mean * vae.config.scaling_factor).half())
    given = torch.cat([labels[index], wanted])
    pool = [torch.cat(latents).cpu(), given, torch.arange(2 * count) >= count]
    save(POOL, pool)
    return pool


def prompts_of(labels: Sequence[int], scene: Sequence[bool], rng: random.Random, dropout: float) -> list[str]:
    """A word of each class, in a template of one garment or of a scene; some are left empty."""
    found = []
    for label, several in zip(labels, scene, strict=True):
        word = rng.choice(GARMENTS[label].words)
        text = OTHERS.format(word) if several else f"a photo of a {word}"
        found.append("" if rng.random() < dropout else text)
    return found


def train(steps: int, batch: int, pool: int, seed: int, lr: float, dropout: float) -> None:
    """Minimise the v-prediction error; resumes from the last checkpoint."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    vae = AutoencoderKL.from_pretrained(SOURCE, subfolder="vae").float().to(device)
    text = CLIPTextModel.from_pretrained(SOURCE, subfolder="text_encoder").float().to(device)
    tokens = tokenizer(SOURCE / "tokenizer")
    latents, labels, scene = encode_all(vae, pool, seed, device)
    model, ema = (build().to(device, memory_format=torch.channels_last) for _ in range(2))
    ema.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    scheduler = DDPMScheduler(**SCHEDULE)
    start = restore(CHECKPOINT, model=model, ema=ema, optimizer=optimizer)
    began = time.time()
    running = torch.zeros((), device=device)
    for step in range(start, steps):
        torch.manual_seed(seed + step)
        index = torch.randint(len(latents), (batch,))
        words = prompts_of(labels[index].tolist(), scene[index].tolist(), random.Random(seed + step), dropout)
        ids = torch.tensor([e.ids for e in tokens.encode_batch(words)], device=device)
        x0 = latents[index].to(device).float()
        noise = torch.randn(x0.shape, device=device)
        timesteps = torch.randint(1000, (batch,), device=device)
        with torch.no_grad():
            states = text(ids).last_hidden_state
        v = predict(model, scheduler.add_noise(x0, noise, timesteps), timesteps, states)
        loss = F.mse_loss(v, scheduler.get_velocity(x0, noise, timesteps))
        descend(loss, model, optimizer, lr * cosine(step, steps, 300))
        update_ema(ema, model, step)
        running = torch.lerp(running, loss.detach(), 0.01) if step > start else loss.detach()
        if (step + 1) % 250 == 0 or step + 1 == steps:
            log(
                "scenes",
                step=step + 1,
                loss=running.item(),
                s_per_step=(time.time() - began) / (step + 1 - start),
            )
            keep(CHECKPOINT, {"model": model, "ema": ema, "optimizer": optimizer}, step=step + 1)
    ema.half().save_pretrained(FOLDER / "unet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--pool", type=int, default=3072, help="pictures of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--dropout", type=float, default=0.12, help="share of pictures without their prompt")
    args = parser.parse_args()
    train(args.steps, args.batch, args.pool, args.seed, args.lr, args.dropout)


if __name__ == "__main__":
    main()
