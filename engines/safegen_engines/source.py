"""An ONNX folder in optimum's layout, as optimum-onnx or our own export writes it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from safegen.errors import EngineError
from safegen.manifest import LatentSpace, TextWindow
from safegen.seal import file_sha256
from safegen.solver import default_solver
from safegen.tokenizer import END, read_clip_tables

COMPONENTS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")
INPUTS = {
    "text_encoder": {"input_ids"},
    "unet": {"sample", "timestep", "encoder_hidden_states"},
    "vae_decoder": {"latent_sample"},
    "vae_encoder": {"sample"},
}


@dataclass(frozen=True)
class Source:
    """A folder whose files are all there."""

    folder: Path

    def graph(self, component: str) -> Path:
        """The ONNX file of a component."""
        return self.folder / component / "model.onnx"

    def config(self, part: str) -> dict[str, Any]:
        """A component's configuration."""
        return _read(self.folder / part / "config.json")

    @property
    def scheduler(self) -> dict[str, Any]:
        """The checkpoint's scheduler configuration."""
        return _read(self.folder / "scheduler" / "scheduler_config.json")

    @property
    def solver(self) -> str:
        """The solver that the checkpoint was published with, or the nearest one here."""
        return default_solver(str(self.scheduler.get("_class_name")))

    def latent_space(self) -> LatentSpace:
        """The autoencoder's identity and scaling."""
        config = self.config("vae_decoder")
        exported = self.folder / "export.json"
        if exported.is_file():
            identity = str(json.loads(exported.read_text())["latent_space_id"])
        else:
            identity = file_sha256(self.graph("vae_encoder"))
        return LatentSpace(
            id=identity,
            channels=int(config["latent_channels"]),
            downscale=2 ** (len(config["block_out_channels"]) - 1),
            scaling_factor=float(config.get("scaling_factor") or 0.18215),
            shift_factor=float(config.get("shift_factor") or 0.0),
        )

    def sample_size(self) -> int:
        """The UNet's usual latent side."""
        return int(self.config("unet").get("sample_size") or 64)

    def tokenizer(self, file: str) -> tuple[Tokenizer, TextWindow]:
        """The tokenizer and its window; ``file`` is its name in the engine."""
        folder = self.folder / "tokenizer"
        config = _read(folder / "tokenizer_config.json")
        special = folder / "special_tokens_map.json"
        pad = config.get("pad_token") or (special.is_file() and _read(special).get("pad_token")) or END
        window = TextWindow(
            file=file,
            max_length=int(config.get("model_max_length", 77)),
            pad_token=str(pad["content"] if isinstance(pad, dict) else pad),
        )
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return read_clip_tables(folder), window
        if (folder / "tokenizer.json").is_file():
            return Tokenizer.from_file(str(folder / "tokenizer.json")), window
        raise EngineError(f"{folder}: neither vocab.json and merges.txt nor tokenizer.json is here.")


def is_onnx_folder(folder: Path) -> bool:
    """Whether a folder holds ONNX graphs rather than a torch checkpoint."""
    return (folder / "unet" / "model.onnx").is_file()


def open_source(folder: Path) -> Source:
    """Check that every file is there.

    Raises:
        EngineError: the first file that is missing, by name.
    """
    needed = [f"{name}/{file}" for name in COMPONENTS for file in ("model.onnx", "config.json")]
    needed += ["scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"]
    for name in needed:
        if not (folder / name).is_file():
            raise EngineError(f"{folder / name}: missing from the ONNX folder.")
    return Source(folder)


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"{path}: cannot be read ({error}).") from None
    return content
