"""A diffusers checkpoint folder, checked before anything heavy is imported."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safegen.errors import ExportError

FAMILIES = ("StableDiffusionPipeline",)
CLASSES = {
    "text_encoder": "CLIPTextModel",
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "tokenizer": "CLIPTokenizer",
}


@dataclass(frozen=True)
class Checkpoint:
    """A Stable-Diffusion-shaped checkpoint whose files are all there."""

    folder: Path
    configs: dict[str, dict[str, Any]]
    """config.json of text_encoder, unet and vae."""


def open_checkpoint(folder: Path) -> Checkpoint:
    """Check a folder and read its configurations.

    Raises:
        ExportError: not a diffusers folder, a family that is not known, or the first missing file.
    """
    index = _read(folder / "model_index.json")
    family = index.get("_class_name")
    if family not in FAMILIES:
        raise ExportError(f"{folder}: it is a {family}; known families are {', '.join(FAMILIES)}.")
    for part, expected in CLASSES.items():
        found = (index.get(part) or [None, None])[1]
        if found not in (expected, expected + "Fast"):
            raise ExportError(f"{folder}: its {part} is {found}; this family has a {expected}.")
    configs = {part: _read(folder / part / "config.json") for part in ("text_encoder", "unet", "vae")}
    _read(folder / "scheduler" / "scheduler_config.json")
    _read(folder / "tokenizer" / "tokenizer_config.json")
    for part in configs:
        if not any((folder / part).glob("*.safetensors")) and not any((folder / part).glob("*.bin")):
            raise ExportError(f"{folder / part}: no weights (*.safetensors or *.bin) in this folder.")
    _refuse_unknown_inputs(folder, configs["unet"])
    return Checkpoint(folder, configs)


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ExportError(f"{path}: missing from the checkpoint.") from None
    except ValueError as error:
        raise ExportError(f"{path}: not JSON ({error}).") from None
    return content


def _refuse_unknown_inputs(folder: Path, unet: dict[str, Any]) -> None:
    """A UNet with further inputs would export, and draw nonsense without them."""
    for key in ("addition_embed_type", "class_embed_type", "num_class_embeds", "time_cond_proj_dim",
                "encoder_hid_dim"):  # fmt: skip
        if unet.get(key):
            raise ExportError(f"{folder}/unet: {key} is {unet[key]}; this family has none.")
    if unet["in_channels"] != unet["out_channels"]:
        raise ExportError(
            f"{folder}/unet: {unet['in_channels']} channels in, {unet['out_channels']} out;"
            " inpainting and other conditioned UNets are not known."
        )
