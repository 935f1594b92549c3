"""Train the pixel model: a class-conditional UNet2DModel on 1x32x32 images in [-1, 1].

Label 10 is the null class: one image in seven is trained with it, so the same weights draw
unconditionally, and with guidance towards a class.
"""

import argparse
import time

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor
from torch.nn import functional as F

import fashion
from run import WORK, cosine, descend, keep, log, restore, update_ema

CHECKPOINT = WORK / "pixels.pt"
NULL = 10
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "clip_sample": True,
    "timestep_spacing": "trailing",
}


def build() -> UNet2DModel:
    """1.4 M parameters; few channels at 32x32, where most of the time goes."""
    return UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 48, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=32,
        num_class_embeds=NULL + 1,
    )


def to_pixels(images: Tensor) -> Tensor:
    """uint8 (B, 32, 32) -> float (B, 1, 32, 32) in [-1, 1]."""
    return images.float()[:, None] / 127.5 - 1


def train(steps: int, batch: int, seed: int, lr: float, dropout: float) -> None:
    """Minimise the v-prediction error; resumes from the last checkpoint."""
    torch.manual_seed(seed)
    images, labels = map(torch.from_numpy, fashion.load("train"))
    model, ema = build(), build()
    ema.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    scheduler = DDPMScheduler(**SCHEDULE)
    start = restore(CHECKPOINT, model=model, ema=ema, optimizer=optimizer)
    running, began = 0.0, time.time()
    for step in range(start, steps):
        torch.manual_seed(seed + step)
        index = torch.randint(len(images), (batch,))
        x0 = to_pixels(images[index])
        given = torch.where(torch.rand(batch) < dropout, NULL, labels[index])
        noise, timesteps = torch.randn_like(x0), torch.randint(1000, (batch,))
        with torch.autocast("cpu", torch.bfloat16):
            v = model(scheduler.add_noise(x0, noise, timesteps), timesteps, given).sample
        loss = F.mse_loss(v.float(), scheduler.get_velocity(x0, noise, timesteps))
        descend(loss, model, optimizer, lr * cosine(step, steps, 300))
        update_ema(ema, model, step)
        running = loss.item() if step == start else 0.99 * running + 0.01 * loss.item()
        if (step + 1) % 250 == 0 or step + 1 == steps:
            seconds = (time.time() - began) / (step + 1 - start)
            log("pixels", step=step + 1, loss=running, s_per_step=seconds)
            keep(CHECKPOINT, {"model": model, "ema": ema, "optimizer": optimizer}, step=step + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=1.2e-3)
    parser.add_argument("--dropout", type=float, default=0.15, help="share of images without their label")
    args = parser.parse_args()
    train(args.steps, args.batch, args.seed, args.lr, args.dropout)


if __name__ == "__main__":
    main()
