"""Train the autoencoder: 3x32x32 images in [-1, 1] <-> 4x8x8 latents (AutoencoderKL, x4 down)."""

import argparse

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

import fashion
from run import WORK, cosine, descend, keep, log, restore

CHECKPOINT = WORK / "vae.pt"


def build() -> AutoencoderKL:
    """An AutoencoderKL of SD's shape at a hundredth of its size."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(24, 48, 64),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        sample_size=32,
    )


def to_images(pixels: Tensor) -> Tensor:
    """uint8 (B, 32, 32) -> float (B, 3, 32, 32) in [-1, 1]."""
    return (pixels.float() / 127.5 - 1)[:, None].expand(-1, 3, -1, -1)


def gradient_loss(a: Tensor, b: Tensor) -> Tensor:
    """L1 between neighbouring-pixel differences: keeps edges and fabric that plain L1 blurs."""
    return sum(  # type: ignore[return-value]
        F.l1_loss(a.diff(dim=d), b.diff(dim=d)) for d in (2, 3)
    )


def train(steps: int, batch: int, seed: int, kl_weight: float) -> AutoencoderKL:
    """Minimise L1 + L2 + edge loss + a small KL; resumes from the last checkpoint."""
    torch.manual_seed(seed)
    images = torch.from_numpy(fashion.load("train")[0])
    held_out = to_images(torch.from_numpy(fashion.load("t10k")[0][:500]))
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    start = restore(CHECKPOINT, model=model, optimizer=optimizer)
    for step in range(start, steps):
        torch.manual_seed(seed + step)
        x = to_images(images[torch.randint(len(images), (batch,))])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = model.encode(x).latent_dist
            y = model.decode(posterior.sample()).sample
        y = y.float()
        kl = posterior.kl().mean()
        loss = F.l1_loss(y, x) + F.mse_loss(y, x) + gradient_loss(y, x) + kl_weight * kl
        descend(loss, model, optimizer, 1e-3 * cosine(step, steps, 200))
        if (step + 1) % 500 == 0 or step + 1 == steps:
            with torch.no_grad():
                latents = model.encode(held_out).latent_dist.mode()
                test_l1 = F.l1_loss(model.decode(latents).sample, held_out).item()
            log(
                "vae",
                step=step + 1,
                loss=loss.item(),
                kl=kl.item(),
                test_l1=test_l1,
                latent_std=latents.std().item(),
                latent_mean=latents.mean().item(),
            )
            keep(CHECKPOINT, {"model": model, "optimizer": optimizer}, step=step + 1)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kl-weight", type=float, default=3e-5)
    args = parser.parse_args()
    train(args.steps, args.batch, args.seed, args.kl_weight)


if __name__ == "__main__":
    main()
