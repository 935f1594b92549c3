"""An ONNX folder in optimum's layout, as optimum-onnx or our own export writes it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer, normalizers

from safegen.errors import EngineError
from safegen.files import file_sha256
from safegen.format.manifest import Conditioning, LatentSpace, TextWindow
from safegen.format.tokenizer import END, read_clip_tables
from safegen.sampling.solver import default_solver
from safegen_engines.graph.onnx_graph import input_shapes

TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
MODELS = ("unet", "transformer")
VAE = ("vae_decoder", "vae_encoder")
GIVEN = {"sample", "timestep", "class_labels", "time_ids", "timestep_cond", "guidance"}
"""Model inputs that need no text encoder."""


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

    @cached_property
    def components(self) -> tuple[str, ...]:
        """The graphs of this folder, the model after its text encoders."""
        return tuple(n for n in (*TEXT_ENCODERS, *MODELS, *VAE) if self.graph(n).is_file())

    @property
    def model(self) -> str:
        """The component that is sampled."""
        return next(name for name in MODELS if name in self.components)

    @property
    def scheduler(self) -> dict[str, Any]:
        """The checkpoint's scheduler configuration, without infinities, for which JSON has no words.

        diffusers saves DPMSolverMultistepScheduler's ``lambda_min_clipped`` as -Infinity: no clipping.
        """
        config = _read(self.folder / "scheduler" / "scheduler_config.json")
        return {k: v for k, v in config.items() if not isinstance(v, float) or math.isfinite(v)}

    @property
    def solver(self) -> str:
        """The solver that the checkpoint was published with, or the nearest one here."""
        return default_solver(str(self.scheduler.get("_class_name")))

    @cached_property
    def exported(self) -> dict[str, Any]:
        """What our own export notes beside the graphs; nothing in optimum's folders."""
        path = self.folder / "export.json"
        return _read(path) if path.is_file() else {}

    @cached_property
    def conditioning(self) -> Conditioning:
        """How the model is told what to draw: as the export says, or as optimum names its inputs."""
        if "conditioning" in self.exported:
            return msgspec.convert(self.exported["conditioning"], Conditioning)
        inputs = self._model_inputs
        if "encoder_hidden_states" not in inputs:
            raise EngineError(f"{self.graph(self.model)}: an ONNX folder of such a model needs export.json.")
        guidance = "embedded" if "timestep_cond" in inputs else "classifier-free"
        if "text_embeds" not in inputs:
            rows = [["text_encoder.last_hidden_state"]]
            return Conditioning(text={"encoder_hidden_states": rows}, guidance=guidance)
        encoders = [name for name in TEXT_ENCODERS if name in self.components]
        # SDXL reads the layer before the last
        states = [f"{name}.hidden_states.{self.config(name)['num_hidden_layers'] - 1}" for name in encoders]
        index = _read(self.folder / "model_index.json")
        return Conditioning(
            text={"encoder_hidden_states": [states], "text_embeds": [[f"{encoders[-1]}.text_embeds"]]},
            guidance=guidance,
            zero_negative=bool(index.get("force_zeros_for_empty_prompt", True)),
        )

    @cached_property
    def _model_inputs(self) -> dict[str, list[int | str]]:
        return input_shapes(self.graph(self.model))

    def _token_dims(self) -> list[int | str]:
        """The token dimensions of the model's inputs of text: a number where its graph has a fixed one."""
        shapes = [self._model_inputs[given] for given in self.conditioning.text]
        return [shape[1] for shape in shapes if len(shape) == 3]

    def check_inputs(self, component: str, found: set[str]) -> None:
        """Refuse a graph that would be fed wrongly.

        Raises:
            EngineError: an input too many or too few.
        """
        spec = self.conditioning
        needed = {"vae_decoder": {"latent_sample"}, "vae_encoder": {"sample"}}.get(component, {"input_ids"})
        allowed = needed
        if component == self.model:
            classes = {"class_labels"} if spec.classes else set()
            needed = {"sample", "timestep", *spec.text, *classes}
            allowed = needed | GIVEN
        if not needed <= found <= allowed:
            raise EngineError(
                f"{self.graph(component)}: inputs are {', '.join(sorted(found))}; a {component} has"
                f" {', '.join(sorted(needed))}."
            )

    def latent_space(self) -> LatentSpace:
        """The autoencoder's identity and scaling, or the pixels' own."""
        model = self.config(self.model)
        patch = int(self.exported.get("patch", 1))
        if "vae_decoder" not in self.components:
            return LatentSpace(id="pixels", channels=int(model["in_channels"]), downscale=1, patch=patch)
        config = self.config("vae_decoder")
        return LatentSpace(
            id=self.exported.get("latent_space_id") or file_sha256(self.graph("vae_encoder")),
            channels=int(config["latent_channels"]),
            downscale=2 ** (len(config["block_out_channels"]) - 1),
            scaling_factor=float(config.get("scaling_factor") or 0.18215),
            shift_factor=float(config.get("shift_factor") or 0.0),
            patch=patch,
        )

    def sample_size(self) -> int:
        """The model's usual latent side."""
        return int(self.config(self.model).get("sample_size") or 64)

    def side_multiple(self) -> int:
        """Latent sides are multiples of this: patches, and what the model halves."""
        halvings = len(self.config(self.model).get("block_out_channels", ())) or 1
        return max(self.latent_space().patch, 1 << (halvings - 1))

    def window(self, component: str) -> int:
        """Tokens of one window of text, as a text encoder or the model sees them."""
        if component in TEXT_ENCODERS:
            return int(self.tokenizer(component, "")[1].max_length)
        rows = next((rows for rows in self.conditioning.text.values() if rows), [])
        return sum(self.window(row[0].split(".")[0]) for row in rows)

    def tokenizer(self, encoder: str, file: str) -> tuple[Tokenizer, TextWindow]:
        """A text encoder's tokenizer and its window; ``file`` is its name in the engine."""
        folder = self.folder / encoder.replace("text_encoder", "tokenizer")
        config = _read(folder / "tokenizer_config.json")
        special = folder / "special_tokens_map.json"
        pad = config.get("pad_token") or (special.is_file() and _read(special).get("pad_token")) or END
        length = self.exported.get("max_length", {}).get(encoder) or config.get("model_max_length", 77)
        free = all(isinstance(side, str) for side in self._token_dims())
        window = TextWindow(
            file=file,
            chunked=free and str(config.get("tokenizer_class")).startswith("CLIP"),
            max_length=int(length),
            pad_token=str(pad["content"] if isinstance(pad, dict) else pad),
        )
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return read_clip_tables(folder), window
        if (folder / "tokenizer.json").is_file():
            found = Tokenizer.from_file(str(folder / "tokenizer.json"))
            if self.exported.get("lowercase"):
                before = [normalizers.Lowercase(), normalizers.Strip()]
                own = [found.normalizer] if found.normalizer else []
                found.normalizer = normalizers.Sequence([*before, *own])
            return found, window
        raise EngineError(f"{folder}: neither vocab.json and merges.txt nor tokenizer.json is here.")


def is_onnx_folder(folder: Path) -> bool:
    """Whether a folder holds ONNX graphs rather than a torch checkpoint."""
    return any((folder / model / "model.onnx").is_file() for model in MODELS)


def open_source(folder: Path) -> Source:
    """Check that every file is there.

    Raises:
        EngineError: the first file that is missing, by name.
    """
    source = Source(folder)
    parts = [name for name in (*TEXT_ENCODERS, *MODELS, *VAE) if (folder / name).is_dir()]
    if not any(model in parts for model in MODELS):
        parts.append("unet")
    needed = [f"{name}/{file}" for name in parts for file in ("model.onnx", "config.json")]
    needed += ["vae_encoder/model.onnx"] if "vae_decoder" in parts else []
    needed += ["scheduler/scheduler_config.json"]
    needed += [
        f"{name.replace('text_encoder', 'tokenizer')}/tokenizer_config.json"
        for name in parts
        if name in TEXT_ENCODERS
    ]
    for name in needed:
        if not (folder / name).is_file():
            raise EngineError(f"{folder / name}: missing from the ONNX folder.")
    used = {row.split(".")[0] for rows in source.conditioning.text.values() for r in rows for row in r}
    for encoder in sorted(used - set(parts)):
        raise EngineError(f"{folder / encoder / 'model.onnx'}: missing from the ONNX folder.")
    return source


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"{path}: cannot be read ({error}).") from None
    return content
