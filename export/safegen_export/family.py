"""The families of checkpoints, as data: what a folder must hold, and how its model is told what to draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Rows = list[list[str]]
"""As in :class:`safegen.format.manifest.Conditioning`."""

T5_TOKENS = 256
"""SD3 gives its model so many tokens of T5, zeros where there is no T5."""


@dataclass(frozen=True)
class Family:
    """One pipeline class of diffusers."""

    parts: Mapping[str, str]
    """Folder -> class."""
    model: str = "unet"
    text: Mapping[str, Rows] = field(default_factory=dict)
    """Model input -> outputs of the text encoders."""
    optional: tuple[str, ...] = ()
    """Folders that may be missing."""
    max_length: Mapping[str, int] = field(default_factory=dict)
    """Windows that differ from the tokenizer's own."""
    timestep_spacing: str | None = None
    """How the pipeline spaces noise levels where its scheduler's configuration does not say."""
    lowercase: bool = False
    """The pipeline strips prompts and makes them lower case."""


_SD = {
    "text_encoder": "CLIPTextModel",
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "tokenizer": "CLIPTokenizer",
}
_SD_TEXT = {"encoder_hidden_states": [["text_encoder.last_hidden_state"]]}
_PENULTIMATE = ["text_encoder.penultimate", "text_encoder_2.penultimate"]

_PIXART = {
    "text_encoder": "T5EncoderModel",
    "transformer": "PixArtTransformer2DModel",
    "vae": "AutoencoderKL",
    "tokenizer": "T5Tokenizer",
}
_PIXART_TEXT = {
    "encoder_hidden_states": [["text_encoder.last_hidden_state"]],
    "encoder_attention_mask": [["text_encoder.attention_mask"]],
}
LEGACY = {"DiTTransformer2DModel": "Transformer2DModel", "PixArtTransformer2DModel": "Transformer2DModel"}
"""What checkpoints from before the class was split name it."""

FAMILIES = {
    "StableDiffusionPipeline": Family(_SD, text=_SD_TEXT),
    "LatentConsistencyModelPipeline": Family(_SD, text=_SD_TEXT),
    "StableDiffusionXLPipeline": Family(
        {**_SD, "text_encoder_2": "CLIPTextModelWithProjection", "tokenizer_2": "CLIPTokenizer"},
        text={"encoder_hidden_states": [_PENULTIMATE], "text_embeds": [["text_encoder_2.text_embeds"]]},
    ),
    "StableDiffusion3Pipeline": Family(
        {
            "text_encoder": "CLIPTextModelWithProjection",
            "text_encoder_2": "CLIPTextModelWithProjection",
            "text_encoder_3": "T5EncoderModel",
            "transformer": "SD3Transformer2DModel",
            "vae": "AutoencoderKL",
            "tokenizer": "CLIPTokenizer",
            "tokenizer_2": "CLIPTokenizer",
            "tokenizer_3": "T5Tokenizer",
        },
        model="transformer",
        text={
            "encoder_hidden_states": [_PENULTIMATE, ["text_encoder_3.last_hidden_state"]],
            "pooled_projections": [["text_encoder.text_embeds", "text_encoder_2.text_embeds"]],
        },
        optional=("text_encoder_3", "tokenizer_3"),
        max_length={"text_encoder_3": T5_TOKENS},
    ),
    "FluxPipeline": Family(
        {
            "text_encoder": "CLIPTextModel",
            "text_encoder_2": "T5EncoderModel",
            "transformer": "FluxTransformer2DModel",
            "vae": "AutoencoderKL",
            "tokenizer": "CLIPTokenizer",
            "tokenizer_2": "T5Tokenizer",
        },
        model="transformer",
        text={
            "encoder_hidden_states": [["text_encoder_2.last_hidden_state"]],
            "pooled_projections": [["text_encoder.pooler_output"]],
        },
        max_length={"text_encoder_2": 512},
        timestep_spacing="trailing",
    ),
    "PixArtAlphaPipeline": Family(
        _PIXART, model="transformer", text=_PIXART_TEXT, max_length={"text_encoder": 120}, lowercase=True
    ),
    "PixArtSigmaPipeline": Family(
        _PIXART, model="transformer", text=_PIXART_TEXT, max_length={"text_encoder": 300}, lowercase=True
    ),
    "DDPMPipeline": Family({"unet": "UNet2DModel"}),
    "DDIMPipeline": Family({"unet": "UNet2DModel"}),
    "DiTPipeline": Family(
        {"transformer": "DiTTransformer2DModel", "vae": "AutoencoderKL"}, model="transformer"
    ),
}
