"""The same checkpoint through diffusers, for ``safegen bench --against``."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from safegen.errors import ExportError


def seconds_a_batch(checkpoint: Path, *, size: tuple[int, int], steps: int, batch: int, runs: int) -> float:
    """Median seconds that diffusers takes for a batch, on the GPU where torch has one, else in float32.

    Raises:
        ExportError: diffusers is not installed, or does not open the checkpoint.
    """
    try:
        import torch
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise ExportError(
            f"comparing needs the extra 'export' ({error}): pip install 'safegen[export]'."
        ) from None
    device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
    try:
        pipe = DiffusionPipeline.from_pretrained(checkpoint, torch_dtype=dtype).to(device)
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{checkpoint}: diffusers does not open it ({str(error).splitlines()[0]})."
        ) from None
    pipe.set_progress_bar_config(disable=True)
    asked = {"prompt": ["a photo of a coat"] * batch, "width": size[0], "height": size[1]}
    asked = asked if hasattr(pipe, "text_encoder") else {"batch_size": batch}
    seconds = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        pipe(**asked, num_inference_steps=steps, output_type="np")
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])
