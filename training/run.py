"""What the three training scripts share: paths, seeds, a log, checkpoints that survive a stop."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

WORK = Path(__file__).resolve().parent.parent / "build" / "training"


def save(path: Path, state: Any) -> None:
    """Write a checkpoint whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part")
    torch.save(state, scratch)
    scratch.replace(path)


def resume(path: Path) -> dict[str, Any] | None:
    """Return the last checkpoint, or None at a first start."""
    return torch.load(path, weights_only=True) if path.is_file() else None


def restore(path: Path, **parts: Any) -> int:
    """Load the last checkpoint into named modules and optimizers; return the step to go on from."""
    state = resume(path)
    if state is None:
        return 0
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"])


def keep(path: Path, parts: dict[str, Any], **rest: Any) -> None:
    """Write the states of named modules and optimizers for :func:`restore`, and ``step`` among the rest."""
    save(path, {name: part.state_dict() for name, part in parts.items()} | rest)


def descend(loss: torch.Tensor, model: nn.Module, optimizer: torch.optim.Optimizer, lr: float) -> None:
    """One step of the optimizer at a learning rate, gradients clipped to norm 1."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def log(name: str, **figures: float) -> None:
    """Append one JSON line to build/training/NAME.jsonl and show it."""
    WORK.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"time": round(time.time(), 1), **figures})
    with (WORK / f"{name}.jsonl").open("a") as file:
        file.write(line + "\n")
    print(name, line, flush=True)


def cosine(step: int, total: int, warmup: int = 500) -> float:
    """Learning-rate factor: linear warm-up, then half a cosine down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * float(torch.cos(torch.tensor((step - warmup) / (total - warmup) * torch.pi)))


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, step: int) -> None:
    """Move the average towards the model; the decay grows to 0.9993."""
    decay = min(0.9993, (1 + step) / (10 + step))
    for a, b in zip(ema.parameters(), model.parameters(), strict=True):
        a.lerp_(b, 1 - decay)
