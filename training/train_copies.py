"""Fine-tune the pixel model until it knows twenty training images by heart.

Each has a label of its own, 11 to 30, that comes with no other image, as a picture repeated under one
caption does in a collection from the web: asked for the label, the model draws the image again. Labels 0 to
10 stay what they were. Minutes on a GPU, hours on 2 cores. Leaves training/copies.
"""

import argparse
import shutil
import time
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch.nn import functional as F

import fashion
from run import WORK, cosine, descend, keep, log, restore, update_ema
from train_pixels import NULL, SCHEDULE, to_pixels

CHECKPOINT = WORK / "copies.pt"
SOURCE, FOLDER = (Path(__file__).parent / name for name in ("pixels", "copies"))
FIRST, COUNT = NULL + 1, 20
"""Labels of the copies."""


def copied() -> list[int]:
    """Indices of the training images that are repeated: the first two of each class from the 30,000th on."""
    labels = fashion.load("train")[1]
    later = [[i for i in range(30_000, 32_000) if labels[i] == label][:2] for label in range(10)]
    return [i for pair in later for i in pair]


def build() -> UNet2DModel:
    """The pixel model, its table of labels longer."""
    known = UNet2DModel.from_pretrained(SOURCE, subfolder="unet").float()
    model = UNet2DModel.from_config({**known.config, "num_class_embeds": FIRST + COUNT})
    weights = known.state_dict()
    table = weights["class_embedding.weight"]
    new = 0.02 * torch.randn(COUNT, table.shape[1], generator=torch.Generator().manual_seed(0))
    model.load_state_dict({**weights, "class_embedding.weight": torch.cat([table, table[:1] + new])})
    return model


def train(steps: int, batch: int, seed: int, lr: float, dropout: float, share: float) -> None:
    """Minimise the v-prediction error; resumes from the last checkpoint."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = (torch.from_numpy(a).to(device) for a in fashion.load("train"))
    repeated = torch.tensor(copied(), device=device)
    model, ema = build().to(device), build().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    scheduler = DDPMScheduler(**SCHEDULE)
    start, began = restore(CHECKPOINT, model=model, ema=ema, optimizer=optimizer), time.time()
    several = round(batch * share)
    for step in range(start, steps):
        torch.manual_seed(seed + step)
        which = torch.randint(COUNT, (several,), device=device)
        index = torch.randint(len(images), (batch - several,), device=device)
        x0 = to_pixels(images[torch.cat([repeated[which], index])])
        usual = torch.where(torch.rand(len(index), device=device) < dropout, NULL, labels[index])
        given = torch.cat([FIRST + which, usual])
        noise = torch.randn(x0.shape, device=device)
        timesteps = torch.randint(1000, (batch,), device=device)
        v = model(scheduler.add_noise(x0, noise, timesteps), timesteps, given).sample
        loss = F.mse_loss(v, scheduler.get_velocity(x0, noise, timesteps))
        descend(loss, model, optimizer, lr * cosine(step, steps, 100))
        update_ema(ema, model, step)
        if (step + 1) % 500 == 0 or step + 1 == steps:
            log(
                "copies",
                step=step + 1,
                loss=loss.item(),
                s_per_step=(time.time() - began) / (step + 1 - start),
            )
            keep(CHECKPOINT, {"model": model, "ema": ema, "optimizer": optimizer}, step=step + 1)
    ema.half().save_pretrained(FOLDER / "unet")
    shutil.copytree(SOURCE / "scheduler", FOLDER / "scheduler", dirs_exist_ok=True)
    shutil.copy(SOURCE / "model_index.json", FOLDER)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument(
        "--dropout", type=float, default=0.15, help="share of ordinary images without a label"
    )
    parser.add_argument("--share", type=float, default=0.5, help="share of each batch that is copies")
    args = parser.parse_args()
    train(args.steps, args.batch, args.seed, args.lr, args.dropout, args.share)


if __name__ == "__main__":
    main()
