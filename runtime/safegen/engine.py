"""An open, verified engine folder: its graphs, its tokenizer, its schedule."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from safegen import tokenizer
from safegen.errors import EngineError
from safegen.manifest import Manifest, read_manifest, verify_files
from safegen.schedule import NoiseSchedule, read_schedule
from safegen.session import Session

Array = NDArray[np.float32]


class Engine:
    """Graphs are opened at first use, after every byte of the folder has been verified."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Use :meth:`open`, which verifies."""
        self.folder = folder
        self.manifest = manifest
        self._sessions: dict[str, Session] = {}

    @classmethod
    def open(cls, folder: Path | str) -> Engine:
        """Verify a folder and return its engine.

        Raises:
            EngineError: anything missing, changed or unknown; the message names it.
        """
        manifest = read_manifest(Path(folder))
        verify_files(Path(folder), manifest)
        return cls(Path(folder), manifest)

    def session(self, component: str) -> Session:
        """The graph of a component, for example ``unet``."""
        if component not in self._sessions:
            if component not in self.manifest.components:
                raise EngineError(f"{self.folder}: this engine has no {component}.")
            path = self.folder / self.manifest.components[component].file
            self._sessions[component] = Session(path)
        return self._sessions[component]

    @cached_property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule of the checkpoint."""
        return read_schedule(self.manifest.scheduler)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        window = self.manifest.tokenizer
        return tokenizer.open_tokenizer(self.folder / window.file, window.max_length, window.pad_token)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, H', W') of the latents of a picture."""
        space = self.manifest.latent_space
        return space.channels, height // space.downscale, width // space.downscale

    def encode_prompts(self, prompts: Sequence[str]) -> Array:
        """Text states (B, L, E) of prompts; longer ones are cut to the window."""
        ids = tokenizer.encode(self._tokenizer, prompts)
        return self.session("text_encoder").run(input_ids=ids)["last_hidden_state"]

    def predict(self, x: Array, timestep: float, states: Array) -> Array:
        """The UNet's output for latents (B, C, H, W) at a timestep with text states (B, L, E)."""
        unet = self.session("unet")
        rank = len(unet.inputs["timestep"][1])
        time = np.full((len(x),) if rank else (), timestep)
        return unet.run(sample=x, timestep=time, encoder_hidden_states=states)["out_sample"]

    def decode(self, latents: Array) -> NDArray[np.uint8]:
        """Latents (B, C, H', W') to RGB pixels (B, H, W, 3).

        Raises:
            EngineError: the decoder gave NaN or infinity.
        """
        space = self.manifest.latent_space
        plain = latents / space.scaling_factor + space.shift_factor
        sample = self.session("vae_decoder").run(latent_sample=plain)["sample"]
        if not np.isfinite(sample).all():
            raise EngineError(
                f"{self.folder}: the picture is not finite (NaN or infinity). Rebuild with --precision fp32."
            )
        shares = np.clip(sample.astype(np.float32) / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
        pixels: NDArray[np.uint8] = np.round(shares * 255).astype(np.uint8)
        return pixels

    def encode_images(self, pixels: NDArray[np.uint8]) -> Array:
        """RGB pixels (B, H, W, 3) to latents (B, C, H', W'): the posterior's mean, scaled."""
        space = self.manifest.latent_space
        sample = pixels.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
        outputs: dict[str, Any] = self.session("vae_encoder").run(sample=sample)
        mean = next(iter(outputs.values()))[:, : space.channels].astype(np.float32)
        latents: Array = (mean - space.shift_factor) * space.scaling_factor
        return latents
