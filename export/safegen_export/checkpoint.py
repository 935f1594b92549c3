"""A diffusers checkpoint folder, checked before anything heavy is imported."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safegen.errors import ExportError
from safegen.format.manifest import Conditioning
from safegen_export.family import FAMILIES, LEGACY, Family

WEIGHTLESS = ("tokenizer", "tokenizer_2", "tokenizer_3")


class Lora(NamedTuple):
    """One file of low-rank weights and how strongly it is added."""

    path: Path
    scale: float = 1.0


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a known family whose files are all there."""

    folder: Path
    family: Family
    configs: dict[str, dict[str, Any]]
    """config.json of every part that has weights."""
    null_class: int | None = None
    loras: tuple[Lora, ...] = ()

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """The folders of its text encoders."""
        return tuple(part for part in self.configs if part.startswith("text_encoder"))

    @property
    def components(self) -> tuple[str, ...]:
        """The graphs it becomes, smallest first: what is wrong with a checkpoint shows early."""
        vae = ("vae_decoder", "vae_encoder") if "vae" in self.configs else ()
        return (*self.text_encoders, *vae, self.family.model)

    def part(self, component: str) -> str:
        """The folder that a component is made of."""
        return "vae" if component.startswith("vae") else component

    def conditioning(self) -> Conditioning:
        """How its model is told what to draw."""
        model = self.configs[self.family.model]
        text = {
            given: [[name for name in row if name.split(".")[0] in self.configs] for row in rows]
            for given, rows in self.family.text.items()
        }
        classes = int(model.get("num_class_embeds") or model.get("num_embeds_ada_norm") or 0)
        # DiT's embedding has one row more than classes: that of no class
        null = int(model["num_embeds_ada_norm"]) if "num_embeds_ada_norm" in model else self.null_class
        embedded = bool(model.get("time_cond_proj_dim") or model.get("guidance_embeds"))
        told = bool(text) or null is not None
        # Flux without an embedded scale is distilled to take none
        free = told and "guidance_embeds" not in model
        return Conditioning(
            text={given: [row for row in rows if row] for given, rows in text.items()},
            classes=0 if text else classes,
            null_class=null,
            guidance="embedded" if embedded else "classifier-free" if free else "none",
            zero_negative=bool(
                read_json(self.folder / "model_index.json").get("force_zeros_for_empty_prompt")
            ),
        )


def open_checkpoint(folder: Path, *, without_t5: bool = False, null_class: int | None = None) -> Checkpoint:
    """Check a folder and read its configurations.

    Args:
        folder: a diffusers folder.
        without_t5: leave out SD3's third text encoder, as its pipeline allows.
        null_class: the label of no class, where a class-conditional UNet was trained with one.

    Raises:
        ExportError: not a diffusers folder, a family that is not known, or the first missing file.
    """
    index = read_json(folder / "model_index.json")
    name = index.get("_class_name")
    if name not in FAMILIES:
        path, known = folder / "model_index.json", ", ".join(FAMILIES)
        raise ExportError(f"{path}: _class_name is {name!r}; known families are {known}.")
    family = FAMILIES[name]
    parts = _parts(folder, index, family, without_t5)
    configs = {part: read_json(folder / part / "config.json") for part in parts if part not in WEIGHTLESS}
    read_json(folder / "scheduler" / "scheduler_config.json")
    for part in (part for part in parts if part in WEIGHTLESS):
        read_json(folder / part / "tokenizer_config.json")
    for part in configs:
        if not any((folder / part).glob("*.safetensors")) and not any((folder / part).glob("*.bin")):
            raise ExportError(f"{folder / part}: no weights (*.safetensors or *.bin) in this folder.")
    _refuse_unknown_inputs(folder, family, configs[family.model])
    classes = configs[family.model].get("num_class_embeds")
    if null_class is not None and not 0 <= null_class < int(classes or 0):
        raise ExportError(f"{folder}: null class {null_class} is not among its {classes or 0} classes.")
    return Checkpoint(folder, family, configs, null_class)


def _parts(folder: Path, index: dict[str, Any], family: Family, without_t5: bool) -> list[str]:
    """The folders to use, each of the class that the family has there."""
    if without_t5 and "text_encoder_3" not in family.parts:
        raise ExportError(f"{folder}: only Stable Diffusion 3 can be built without T5.")
    found = []
    for part, expected in family.parts.items():
        cls = (index.get(part) or [None, None])[1]
        if part in family.optional and (without_t5 or cls is None):
            continue
        if cls not in (expected, expected + "Fast", LEGACY.get(expected)):
            raise ExportError(f"{folder}: its {part} is {cls}; this family has a {expected}.")
        found.append(part)
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a checkpoint.

    Raises:
        ExportError: missing, or not JSON.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ExportError(f"{path}: missing from the checkpoint.") from None
    except ValueError as error:
        raise ExportError(f"{path}: not JSON ({error}).") from None
    return content


def _refuse_unknown_inputs(folder: Path, family: Family, model: dict[str, Any]) -> None:
    """A model with further inputs would export, and draw nonsense without them."""
    known = {"addition_embed_type": "text_time"} if "text_embeds" in family.text else {}
    keys = ("addition_embed_type", "class_embed_type", "encoder_hid_dim")
    keys += ("num_class_embeds",) if family.text else ()
    for key in keys:
        if model.get(key) and model[key] != known.get(key):
            raise ExportError(f"{folder / family.model}: {key} is {model[key]}; this family has none.")
    channels = model.get("in_channels"), model.get("out_channels")
    if family.model == "unet" and channels[0] != channels[1]:
        raise ExportError(
            f"{folder}/unet: {channels[0]} channels in, {channels[1]} out;"
            " inpainting and other conditioned UNets are not known."
        )
