"""The components of a checkpoint as graphs: modules with named inputs and named dimensions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.utils.logging import disable_progress_bar

from safegen.errors import ExportError, first_line
from safegen_export import wrappers
from safegen_export.checkpoint import Checkpoint
from safegen_export.family import LEGACY, T5_TOKENS
from safegen_export.lora import fused_pipeline

disable_progress_bar()  # type: ignore[no-untyped-call]

Size = tuple[int, int, int]
"""(batch, latent height, latent width) of an example."""
AREA = {2: "height", 3: "width"}
BATCH = {0: "batch"}


@dataclass(frozen=True)
class Graph:
    """One component, ready to export. Inputs and outputs are named as optimum names them."""

    name: str
    module: nn.Module
    example: Callable[[Size], dict[str, Tensor]]
    """Random inputs of a size, from torch's generator."""
    dims: dict[str, dict[int, str]]
    """Names of the dimensions that vary, by input."""
    outputs: tuple[str, ...]
    sizes: tuple[Size, Size]
    """The two sizes at which the graph is compared with torch."""


def open_graphs(
    checkpoint: Checkpoint, clip_skip: int = 0, names: Sequence[str] | None = None
) -> Iterator[Graph]:
    """Load and hand out one component at a time, so that memory holds only one.

    Args:
        checkpoint: a checked folder.
        clip_skip: layers of a CLIP text encoder to leave out at the end, 0 to its depth - 1.
        names: which components; all if left out.

    Raises:
        ExportError: clip_skip is out of range, or the weights do not fit their configuration.
    """
    for name in checkpoint.components if names is None else names:
        try:
            yield _open(checkpoint, name, clip_skip)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = first_line(error)
            raise ExportError(f"{checkpoint.folder}: cannot load the weights of {name} ({reason}).") from None


def _open(checkpoint: Checkpoint, name: str, clip_skip: int) -> Graph:
    if name in checkpoint.text_encoders:
        return _text_encoder(checkpoint, name, clip_skip)
    if name == checkpoint.family.model:
        return _model(checkpoint)
    return _vae(checkpoint, name)


def patch(checkpoint: Checkpoint) -> int:
    """Sides of latents are multiples of this: Flux packs 2x2 of them into a token."""
    config = checkpoint.configs[checkpoint.family.model]
    packs = checkpoint.family.parts[checkpoint.family.model] == "FluxTransformer2DModel"
    return 2 if packs else int(config.get("patch_size") or 1)


def latent_space_id(vae: AutoencoderKL) -> str:
    """SHA-256 of the weights in half precision, so that fp32 and fp16 copies agree."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vae.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.half().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_vae(checkpoint: Checkpoint) -> AutoencoderKL:
    """The autoencoder in float32."""
    return AutoencoderKL.from_pretrained(checkpoint.folder / "vae", torch_dtype=torch.float32).eval()


def _load(checkpoint: Checkpoint, part: str, **options: Any) -> Any:
    """A part's model in float32, by the class that its family has there."""
    if checkpoint.loras:
        return getattr(fused_pipeline(checkpoint.folder, checkpoint.loras), part).eval()
    library = transformers if part in checkpoint.text_encoders else diffusers
    cls = getattr(library, checkpoint.family.parts[part])
    return cls.from_pretrained(checkpoint.folder / part, torch_dtype=torch.float32, **options).eval()


def _sizes(checkpoint: Checkpoint) -> tuple[Size, Size]:
    """A square and an oblong size that the model's halvings divide, small enough to be quick."""
    model = checkpoint.configs[checkpoint.family.model]
    multiple = max(patch(checkpoint), 2 ** (len(model.get("block_out_channels", [0])) - 1))
    side = max(multiple, min(int(model.get("sample_size") or 32), 32) // multiple * multiple)
    if _square(checkpoint):
        side = int(model["sample_size"])
        return (2, side, side), (3, side, side)
    return (2, side, side), (3, side, side + multiple)


def _square(checkpoint: Checkpoint) -> bool:
    """DiT and PixArt know one square size: their positions are part of the graph."""
    return checkpoint.family.parts[checkpoint.family.model] in LEGACY


def text_outputs(checkpoint: Checkpoint, name: str) -> list[str]:
    """What the model takes from this text encoder."""
    rows = (row for rows in checkpoint.conditioning().text.values() for row in rows)
    outputs = (output.split(".") for row in rows for output in row)
    return [kind for encoder, kind in outputs if encoder == name]


def text_length(checkpoint: Checkpoint, name: str) -> int:
    """Tokens that this text encoder reads at once."""
    return int(checkpoint.family.max_length.get(name) or checkpoint.configs[name]["max_position_embeddings"])


def _text_encoder(checkpoint: Checkpoint, name: str, clip_skip: int) -> Graph:
    outputs, length = text_outputs(checkpoint, name), text_length(checkpoint, name)
    is_clip = "T5" not in checkpoint.family.parts[name]
    model = _load(checkpoint, name, **({"attn_implementation": "eager"} if is_clip else {}))
    if clip_skip and is_clip:
        body = getattr(model, "text_model", model)
        depth = len(body.encoder.layers)
        if not 0 <= clip_skip < depth:
            raise ExportError(f"clip_skip is {clip_skip}; this text encoder takes 0 to {depth - 1}.")
        if "penultimate" not in outputs:
            body.encoder.layers = body.encoder.layers[: depth - clip_skip]

    def example(size: Size) -> dict[str, Tensor]:
        return {"input_ids": torch.randint(model.config.vocab_size, (size[0], length))}

    encoder = wrappers.TextEncoder(model, outputs, clip_skip)
    return Graph(name, encoder, example, {"input_ids": BATCH}, tuple(outputs), ((2, 0, 0), (3, 0, 0)))


def text_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Shape without the batch of each model input that comes from text encoders."""

    def shape(output: str) -> tuple[int, int]:
        name, kind = output.split(".")
        config = checkpoint.configs[name]
        length = text_length(checkpoint, name)
        width = config["projection_dim"] if kind == "text_embeds" else config.get("hidden_size")
        return length, int(length if kind == "attention_mask" else width or config["d_model"])

    found = {}
    for given, rows in checkpoint.conditioning().text.items():
        width = max(sum(shape(output)[1] for output in row) for row in rows)
        pooled = rows[0][0].split(".")[1] in ("text_embeds", "pooler_output", "attention_mask")
        found[given] = (width,) if pooled else (sum(shape(row[0])[0] for row in rows), width)
    return found


def _longer(shape: tuple[int, ...], windows: int) -> tuple[int, ...]:
    """States of (L, E) grow to several windows of text; pooled (E,) do not."""
    return (shape[0] * windows, shape[1]) if len(shape) == 2 else shape


def _wrap(checkpoint: Checkpoint, model: Any) -> nn.Module:
    kind = checkpoint.family.parts[checkpoint.family.model]
    if kind == "SD3Transformer2DModel":
        return wrappers.Sd3(model, 0 if "text_encoder_3" in checkpoint.configs else T5_TOKENS)
    if kind == "PixArtTransformer2DModel":
        return wrappers.PixArt(model, 2 ** (len(checkpoint.configs["vae"]["block_out_channels"]) - 1))
    of_kind: dict[str, type[nn.Module]] = {
        "UNet2DConditionModel": wrappers.TextUnet,
        "UNet2DModel": wrappers.Unet,
        "DiTTransformer2DModel": wrappers.Dit,
        "FluxTransformer2DModel": wrappers.Flux,
    }
    return of_kind[kind](model)


def _model(checkpoint: Checkpoint) -> Graph:
    name = checkpoint.family.model
    model, config = _load(checkpoint, name), checkpoint.configs[name]
    spec, shapes = checkpoint.conditioning(), text_shapes(checkpoint)
    packed, sizes = checkpoint.family.parts[name] == "FluxTransformer2DModel", _sizes(checkpoint)
    masked = "encoder_attention_mask" in shapes  # its window is part of the graph
    channels = int(config["in_channels"]) // (4 if packed else 1)

    def example(size: Size) -> dict[str, Tensor]:
        count, windows = size[0], 1 if size == sizes[0] or masked else 2
        inputs = {
            "sample": torch.randn(count, channels, *size[1:]),
            "timestep": torch.rand(count) * 999,
            **{given: torch.randn(count, *_longer(shape, windows)) for given, shape in shapes.items()},
        }
        if "encoder_attention_mask" in inputs:  # of some words and padding after them
            length = inputs["encoder_hidden_states"].shape[1]
            inputs["encoder_attention_mask"] = (torch.arange(length) < length // 2).float().repeat(count, 1)
        if spec.classes:
            inputs["class_labels"] = torch.randint(spec.classes, (count,))
        if "text_embeds" in inputs:
            inputs["time_ids"] = torch.randint(1024, (count, 6)).float()
        if config.get("time_cond_proj_dim"):
            inputs["timestep_cond"] = torch.randn(count, config["time_cond_proj_dim"])
        if config.get("guidance_embeds"):
            inputs["guidance"] = torch.rand(count) * 7
        return inputs

    dims = dict.fromkeys(example(sizes[0]), BATCH)
    if not masked:
        dims |= {given: BATCH | {1: "tokens"} for given, shape in shapes.items() if len(shape) == 2}
    dims["sample"] = BATCH if _square(checkpoint) else BATCH | AREA
    return Graph(name, _wrap(checkpoint, model), example, dims, ("out_sample",), sizes)


def _vae(checkpoint: Checkpoint, name: str) -> Graph:
    vae = load_vae(checkpoint)
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    decodes = name == "vae_decoder"

    def decoded(size: Size) -> dict[str, Tensor]:
        return {"latent_sample": torch.randn(size[0], vae.config.latent_channels, *size[1:])}

    def encoded(size: Size) -> dict[str, Tensor]:
        shape = (size[0], vae.config.in_channels, size[1] * scale, size[2] * scale)
        return {"sample": torch.rand(shape) * 2 - 1}

    wrapped: nn.Module = wrappers.VaeDecoder(vae) if decodes else wrappers.VaeEncoder(vae)
    given, output = ("latent_sample", "sample") if decodes else ("sample", "latent_parameters")
    first, (batch, side, _) = _sizes(checkpoint)
    sizes = first, (batch, side, side + patch(checkpoint))  # oblong even where the model is square
    return Graph(name, wrapped, decoded if decodes else encoded, {given: BATCH | AREA}, (output,), sizes)
