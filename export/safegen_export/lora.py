"""LoRA files (arXiv 2106.09685) fused into a checkpoint's weights before they are exported."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from safegen.errors import ExportError, first_line
from safegen_export.checkpoint import Lora


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
            reason = first_line(error)
            raise ExportError(f"{lora.path}: cannot be added to {folder} ({reason}).") from error
    return pipeline
