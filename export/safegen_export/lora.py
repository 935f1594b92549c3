"""LoRA files (arXiv 2106.09685) fused into a checkpoint's weights before they are exported."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from safegen.errors import ExportError, UsageError


@dataclass(frozen=True)
class Lora:
    """One file and how strongly it is added."""

    path: Path
    scale: float = 1.0


def parse_lora(text: str) -> Lora:
    """``style.safetensors`` or ``style.safetensors:0.7``.

    Raises:
        UsageError: no such file, or a scale that is no number.
    """
    name, colon, scale = text.rpartition(":")
    path = Path(text) if not colon or Path(text).is_file() else Path(name)
    if not path.is_file():
        raise UsageError(f"{path}: no such LoRA file.")
    try:
        return Lora(path, float(scale) if str(path) != text else 1.0)
    except ValueError:
        raise UsageError(f"{text}: the scale {scale!r} is not a number.") from None


@lru_cache(maxsize=1)
def fused_pipeline(folder: Path, loras: tuple[Lora, ...]) -> Any:
    """A checkpoint's pipeline in float32 with the files added, through diffusers and peft.

    Raises:
        ExportError: peft is missing, or a file does not fit the checkpoint.
    """
    pipeline = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    for lora in loras:
        try:
            pipeline.load_lora_weights(lora.path.parent, weight_name=lora.path.name)
            pipeline.fuse_lora(lora_scale=lora.scale)
            pipeline.unload_lora_weights()
        except Exception as error:  # every loader of diffusers has errors of its own
            reason = str(error).strip().splitlines()[0]
            raise ExportError(f"{lora.path}: cannot be added to {folder} ({reason}).") from error
    return pipeline
