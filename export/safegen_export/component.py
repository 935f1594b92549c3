"""The torch modules of a checkpoint as graphs: named inputs with named dimensions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPTextModel
from transformers.utils.logging import disable_progress_bar

from safegen.errors import ExportError
from safegen_export.checkpoint import Checkpoint

disable_progress_bar()  # type: ignore[no-untyped-call]

Size = tuple[int, int, int]
"""(batch, latent height, latent width) of an example."""


@dataclass(frozen=True)
class Graph:
    """One component, ready to export. Inputs and outputs are named as optimum names them."""

    name: str
    module: nn.Module
    example: Callable[[Size], dict[str, Tensor]]
    """Random inputs of a size, from torch's generator."""
    dims: dict[str, dict[int, str]]
    """Names of the dimensions that vary, by input."""
    output: str
    sizes: tuple[Size, Size]
    """The two sizes at which the graph is compared with torch."""
    weights: tuple[str, ...]
    """Folders of the checkpoint that this graph is made of."""


class TextEncoder(nn.Module):
    """Token ids (B, L) -> text states (B, L, E)."""

    def __init__(self, model: CLIPTextModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        """The last layer's states after the final norm."""
        states: Tensor = self.model(input_ids=input_ids).last_hidden_state
        return states


class Unet(nn.Module):
    """Latents (B, C, H, W), timesteps (B,), text states (B, L, E) -> model output."""

    def __init__(self, model: UNet2DConditionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """One evaluation."""
        out: Tensor = self.model(sample, timestep, encoder_hidden_states, return_dict=False)[0]
        return out


class VaeDecoder(nn.Module):
    """Latents, not scaled (B, C, H, W) -> picture in [-1, 1]."""

    def __init__(self, model: AutoencoderKL) -> None:
        super().__init__()
        self.model = model

    def forward(self, latent_sample: Tensor) -> Tensor:
        """Decode."""
        picture: Tensor = self.model.decode(latent_sample, return_dict=False)[0]
        return picture


class VaeEncoder(nn.Module):
    """Picture in [-1, 1] -> mean and log variance of the latents, (B, 2 C, H, W)."""

    def __init__(self, model: AutoencoderKL) -> None:
        super().__init__()
        self.model = model

    def forward(self, sample: Tensor) -> Tensor:
        """Encode to the posterior's parameters."""
        return self.model.encode(sample, return_dict=False)[0].parameters


COMPONENTS = ("text_encoder", "vae_decoder", "vae_encoder", "unet")
"""Smallest first: what is wrong with a checkpoint shows early."""


def open_graphs(
    checkpoint: Checkpoint, clip_skip: int = 0, names: Sequence[str] = COMPONENTS
) -> Iterator[Graph]:
    """Load and hand out one component at a time, so that memory holds only one.

    Args:
        checkpoint: a checked folder.
        clip_skip: layers of the text encoder to leave out at the end, 0 to its depth - 1.
        names: which components.

    Raises:
        ExportError: clip_skip is out of range, or the weights do not fit their configuration.
    """
    loaders: dict[str, Callable[[], Graph]] = {
        "text_encoder": lambda: _text_encoder(checkpoint, clip_skip),
        "vae_decoder": lambda: _vae_decoder(checkpoint),
        "vae_encoder": lambda: _vae_encoder(checkpoint),
        "unet": lambda: _unet(checkpoint),
    }
    for name in names:
        try:
            yield loaders[name]()
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ExportError(f"{checkpoint.folder}: cannot load the weights of {name} ({reason}).") from None


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


def _latent_sizes(checkpoint: Checkpoint) -> tuple[Size, Size]:
    """A square and an oblong size that the UNet's halvings divide, small enough to be quick."""
    unet = checkpoint.configs["unet"]
    multiple = 2 ** (len(unet["block_out_channels"]) - 1)
    side = max(multiple, min(int(unet.get("sample_size") or 32), 32) // multiple * multiple)
    return (2, side, side), (3, side, side + multiple)


def _text_encoder(checkpoint: Checkpoint, clip_skip: int) -> Graph:
    model = CLIPTextModel.from_pretrained(
        checkpoint.folder / "text_encoder", torch_dtype=torch.float32, attn_implementation="eager"
    ).eval()
    body = getattr(model, "text_model", model)
    depth = len(body.encoder.layers)
    if not 0 <= clip_skip < depth:
        raise ExportError(f"clip_skip is {clip_skip}; this text encoder takes 0 to {depth - 1}.")
    body.encoder.layers = body.encoder.layers[: depth - clip_skip]
    length, vocab = model.config.max_position_embeddings, model.config.vocab_size

    def example(size: Size) -> dict[str, Tensor]:
        return {"input_ids": torch.randint(vocab, (size[0], length))}

    return Graph(
        "text_encoder", TextEncoder(model), example, {"input_ids": {0: "batch"}},
        "last_hidden_state", ((2, 0, 0), (3, 0, 0)), ("text_encoder",),
    )  # fmt: skip


def _unet(checkpoint: Checkpoint) -> Graph:
    model = UNet2DConditionModel.from_pretrained(checkpoint.folder / "unet", torch_dtype=torch.float32).eval()
    length = checkpoint.configs["text_encoder"]["max_position_embeddings"]
    channels, width = model.config.in_channels, model.config.cross_attention_dim

    def example(size: Size) -> dict[str, Tensor]:
        return {
            "sample": torch.randn(size[0], channels, *size[1:]),
            "timestep": torch.rand(size[0]) * 999,
            "encoder_hidden_states": torch.randn(size[0], length, width),
        }

    batch, area = {0: "batch"}, {2: "height", 3: "width"}
    return Graph(
        "unet", Unet(model), example,
        {"sample": batch | area, "timestep": batch, "encoder_hidden_states": batch},
        "out_sample", _latent_sizes(checkpoint), ("unet",),
    )  # fmt: skip


def _vae_decoder(checkpoint: Checkpoint) -> Graph:
    vae = load_vae(checkpoint)

    def example(size: Size) -> dict[str, Tensor]:
        return {"latent_sample": torch.randn(size[0], vae.config.latent_channels, *size[1:])}

    return _vae_graph(checkpoint, "vae_decoder", VaeDecoder(vae), example, "latent_sample", "sample")


def _vae_encoder(checkpoint: Checkpoint) -> Graph:
    vae = load_vae(checkpoint)
    downscale = 2 ** (len(vae.config.block_out_channels) - 1)

    def example(size: Size) -> dict[str, Tensor]:
        height, width = size[1] * downscale, size[2] * downscale
        return {"sample": torch.rand(size[0], vae.config.in_channels, height, width) * 2 - 1}

    return _vae_graph(checkpoint, "vae_encoder", VaeEncoder(vae), example, "sample", "latent_parameters")


def _vae_graph(checkpoint: Checkpoint, name: str, module: nn.Module, example: Any, given: str,
               output: str) -> Graph:  # fmt: skip
    dims = {given: {0: "batch", 2: "height", 3: "width"}}
    return Graph(name, module, example, dims, output, _latent_sizes(checkpoint), ("vae",))
