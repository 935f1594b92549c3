"""What is exported: thin modules with plain named inputs around diffusers' and transformers' models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F


class TextEncoder(nn.Module):
    """Token ids (B, L) -> the named outputs, states (B, L, E) or pooled (B, E)."""

    def __init__(self, model: Any, outputs: Sequence[str], clip_skip: int) -> None:
        super().__init__()
        self.model, self.outputs, self.clip_skip = model, tuple(outputs), clip_skip

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        """``penultimate`` is the layer before the last, without the final norm.

        With ``attention_mask``, (B, L) of 1 and 0, among its outputs the encoder itself minds it, too.
        """
        given: dict[str, Tensor] = {}
        if "attention_mask" in self.outputs:
            given["attention_mask"] = (input_ids != self.model.config.pad_token_id).long()
        out = self.model(input_ids=input_ids, output_hidden_states="penultimate" in self.outputs, **given)
        named = {"attention_mask": given["attention_mask"].float()} if given else {}
        if "penultimate" in self.outputs:
            named["penultimate"] = out.hidden_states[-(self.clip_skip + 2)]
        return tuple(named[name] if name in named else getattr(out, name) for name in self.outputs)


class TextUnet(nn.Module):
    """UNet2DConditionModel: SD, LCM (timestep_cond) and SDXL (text_embeds, time_ids)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        text_embeds: Tensor | None = None,
        time_ids: Tensor | None = None,
        timestep_cond: Tensor | None = None,
    ) -> Tensor:
        """Latents (B, C, H, W), timesteps (B,), text states (B, L, E) -> model output."""
        added = None if text_embeds is None else {"text_embeds": text_embeds, "time_ids": time_ids}
        out: Tensor = self.model(
            sample,
            timestep,
            encoder_hidden_states,
            timestep_cond=timestep_cond,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return out


class Unet(nn.Module):
    """UNet2DModel, unconditional or with class labels (B,)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Pixels or latents (B, C, H, W), timesteps (B,) -> model output."""
        out: Tensor = self.model(sample, timestep, class_labels, return_dict=False)[0]
        return out


class Dit(nn.Module):
    """DiTTransformer2DModel (arXiv 2212.09748); its learned variance is left out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor) -> Tensor:
        """Latents (B, C, H, W), timesteps (B,), labels (B,) -> epsilon."""
        out: Tensor = self.model(sample, timestep, class_labels, return_dict=False)[0]
        return out[:, : sample.shape[1]]


class PixArt(nn.Module):
    """PixArtTransformer2DModel (arXiv 2310.00426, 2403.04692); its learned variance is left out.

    Args:
        model: the transformer.
        downscale: pixels a latent: larger models are told the picture's resolution.
    """

    def __init__(self, model: Any, downscale: int) -> None:
        super().__init__()
        self.model, self.downscale = model, downscale

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor
    ) -> Tensor:
        """Latents (B, C, H, W), timesteps (B,), T5 (B, L, E), its mask (B, L) -> epsilon."""
        # one batch: the exporter names each input's on its own, and the mask is reshaped by another's
        torch._check(encoder_attention_mask.shape[0] == sample.shape[0])
        torch._check(encoder_hidden_states.shape[0] == sample.shape[0])
        added = {"resolution": None, "aspect_ratio": None}
        if self.model.use_additional_conditions:
            height, width = (side * self.downscale for side in sample.shape[2:])
            added["resolution"] = sample.new_tensor([height, width]).expand(sample.shape[0], 2)
            added["aspect_ratio"] = sample.new_tensor([height / width]).expand(sample.shape[0], 1)
        out: Tensor = self.model(
            sample,
            encoder_hidden_states,
            timestep=timestep,
            added_cond_kwargs=added,
            encoder_attention_mask=encoder_attention_mask,
            return_dict=False,
        )[0]
        return out[:, : sample.shape[1]]


class Sd3(nn.Module):
    """SD3Transformer2DModel (arXiv 2403.03206).

    Args:
        model: the transformer.
        zero_tokens: tokens of zeros that stand for a T5 encoder that is left out.
    """

    def __init__(self, model: Any, zero_tokens: int) -> None:
        super().__init__()
        self.model, self.zero_tokens = model, zero_tokens
        model.pos_embed.cropped_pos_embed = self._positions

    def _positions(self, height: int, width: int) -> Tensor:
        """The middle of the table of positions, (1, rows columns, E).

        As diffusers crops it, but dividing nothing negative: the exporter rewrites (size - rows) // 2 as
        size / 2 + (-rows) // 2, and ONNX rounds that towards zero, which is wrong for an odd number of rows.
        """
        table = self.model.pos_embed
        size, patch = int(table.pos_embed_max_size), int(table.patch_size)
        rows, columns = height // patch, width // patch
        top, left = (size // 2 - (side + 1 - size % 2) // 2 for side in (rows, columns))
        grid = table.pos_embed.reshape(1, size, size, -1)
        return grid[:, top : top + rows, left : left + columns].flatten(1, 2)

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, pooled_projections: Tensor
    ) -> Tensor:
        """Latents (B, 16, H, W), timesteps (B,), states (B, L, E), pooled (B, P) -> v."""
        if self.zero_tokens:
            missing = self.model.config.joint_attention_dim - encoder_hidden_states.shape[-1]
            encoder_hidden_states = F.pad(encoder_hidden_states, (0, missing, 0, self.zero_tokens))
        out: Tensor = self.model(
            sample, encoder_hidden_states, pooled_projections, timestep, return_dict=False
        )[0]
        return out


class Flux(nn.Module):
    """FluxTransformer2DModel, with the packing of 2x2 latents into tokens and the rotary ids inside."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Latents (B, 16, H, W), timesteps (B,) in [0, 1000], T5 (B, L, E), pooled (B, P) -> v."""
        rows, columns = sample.shape[2] // 2, sample.shape[3] // 2
        tokens = F.pixel_unshuffle(sample, 2).flatten(2).transpose(1, 2)
        grid = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1)
        ids = F.pad(grid.reshape(-1, 2).to(sample.dtype), (1, 0))
        text_ids = torch.zeros(encoder_hidden_states.shape[1], 3, dtype=sample.dtype)
        out = self.model(
            hidden_states=tokens,
            encoder_hidden_states=encoder_hidden_states,
            pooled_projections=pooled_projections,
            timestep=timestep / 1000,
            img_ids=ids,
            txt_ids=text_ids,
            guidance=guidance,
            return_dict=False,
        )[0]
        return F.pixel_shuffle(out.transpose(1, 2).unflatten(2, (rows, columns)), 2)


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
        parameters: Tensor = self.model.encode(sample, return_dict=False)[0].parameters
        return parameters
