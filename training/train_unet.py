"""Train the text encoder and the UNet together: v-prediction on SD's noise schedule, EMA, CFG dropout."""

import argparse
import random
import time
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel

import fashion
from prompts import sample_prompt
from run import WORK, cosine, descend, keep, log, restore, save, update_ema
from safegen.format.tokenizer import END, START, read_clip_tables
from train_tokenizer import FOLDER as TOKENIZER
from train_tokenizer import MAX_LENGTH
from train_vae import CHECKPOINT as VAE
from train_vae import build as build_vae
from train_vae import to_images

CHECKPOINT = WORK / "unet.pt"
LATENTS = WORK / "latents.pt"
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
}


class Denoiser(nn.Module):
    """Text encoder and UNet: (latents (B, 4, 8, 8), timesteps (B,), token ids (B, 24)) -> v."""

    def __init__(self, vocab: dict[str, int]) -> None:
        super().__init__()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocab),
                hidden_size=128,
                intermediate_size=512,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=MAX_LENGTH,
                projection_dim=128,
                bos_token_id=vocab[START],
                eos_token_id=vocab[END],
                pad_token_id=vocab[END],
            )
        )
        self.unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(64, 128),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=128,
            attention_head_dim=4,
            norm_num_groups=16,
        )

    def forward(self, latents: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        states = self.text_encoder(ids).last_hidden_state
        return self.unet(latents, timesteps, states).sample


def tokenizer(folder: Path = TOKENIZER) -> Tokenizer:
    """The trained tokenizer, padded and cut to 24 ids."""
    tokens = read_clip_tables(folder)
    tokens.enable_truncation(MAX_LENGTH)
    tokens.enable_padding(length=MAX_LENGTH, pad_token=END, pad_id=tokens.token_to_id(END))
    return tokens


@torch.no_grad()
def encode_all() -> tuple[Tensor, float]:
    """Scaled latents of the training images, (60000, 4, 8, 8), and the scaling factor 1 / std.

    The posterior's mean, not a sample: this autoencoder's posterior is wide, and noise that the
    UNet cannot foresee would be all that it learns in the channels that carry little.
    """
    if not LATENTS.is_file():
        vae = build_vae()
        vae.load_state_dict(torch.load(VAE, weights_only=True)["model"])
        images = torch.from_numpy(fashion.load("train")[0])
        parts = [vae.eval().encode(to_images(x)).latent_dist.mean for x in images.split(500)]
        save(LATENTS, {"mean": torch.cat(parts)})
    mean = torch.load(LATENTS, weights_only=True)["mean"]
    scaling_factor = 1 / float(mean.std())
    return mean * scaling_factor, scaling_factor


def train(steps: int, batch: int, seed: int, lr: float, dropout: float, typos: float) -> None:
    """Minimise the v-prediction error; resumes from the last checkpoint."""
    torch.manual_seed(seed)
    tokens = tokenizer()
    labels = fashion.load("train")[1].tolist()
    latents, scaling_factor = encode_all()
    model, ema = Denoiser(tokens.get_vocab()), Denoiser(tokens.get_vocab())
    ema.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    scheduler = DDPMScheduler(**SCHEDULE)
    start = restore(CHECKPOINT, model=model, ema=ema, optimizer=optimizer)
    running, began = 0.0, time.time()
    for step in range(start, steps):
        torch.manual_seed(seed + step)
        rng = random.Random(seed + step)
        index = torch.randint(len(labels), (batch,))
        prompts = ["" if rng.random() < dropout else sample_prompt(labels[i], rng, typos) for i in index]
        ids = torch.tensor([e.ids for e in tokens.encode_batch(prompts)])
        x0 = latents[index]
        noise, timesteps = torch.randn_like(x0), torch.randint(1000, (batch,))
        with torch.autocast("cpu", torch.bfloat16):
            v = model(scheduler.add_noise(x0, noise, timesteps), timesteps, ids)
        loss = F.mse_loss(v.float(), scheduler.get_velocity(x0, noise, timesteps))
        descend(loss, model, optimizer, lr * cosine(step, steps, 300))
        update_ema(ema, model, step)
        running = loss.item() if step == start else 0.99 * running + 0.01 * loss.item()
        if (step + 1) % 250 == 0 or step + 1 == steps:
            log(
                "unet",
                step=step + 1,
                loss=running,
                s_per_step=(time.time() - began) / (step + 1 - start),
            )
            parts = {"model": model, "ema": ema, "optimizer": optimizer}
            keep(CHECKPOINT, parts, step=step + 1, scaling_factor=scaling_factor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--dropout", type=float, default=0.1, help="share of prompts left empty")
    parser.add_argument("--typos", type=float, default=0.1, help="share of prompts misspelt")
    args = parser.parse_args()
    train(args.steps, args.batch, args.seed, args.lr, args.dropout, args.typos)


if __name__ == "__main__":
    main()
