"""An open, verified engine folder: its graphs, its tokenizer, its schedule."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from safegen.device import Array, Device, array_namespace, is_finite, open_device, to_host
from safegen.engine.session import CUDA, Session, available_providers, check_threads
from safegen.engine.trt_session import TrtSession
from safegen.errors import EngineError, UsageError
from safegen.format import tokenizer
from safegen.format.manifest import Manifest, read_manifest, verify_files
from safegen.sampling import conditioning
from safegen.sampling.conditioning import Conditioning, Subject
from safegen.sampling.schedule import Schedule, read_schedule
from safegen.sampling.solver import Solver, plan
from safegen.sampling.table import Table

MODELS = Path(__file__).parent.parent / "models"
"""The engines that ship in the package: ``fashion`` (text) and ``pixels`` (classes, no autoencoder)."""


def find_engine(folder: Path | str) -> Path:
    """The folder itself, or, where there is none of that name, the engine of :data:`MODELS`."""
    path = Path(folder)
    if not path.exists() and str(folder) == path.name and (MODELS / path).is_dir():
        return MODELS / path
    return path


class Engine:
    """Graphs are opened at first use, after every byte of the folder has been verified."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        device: Device,
        *,
        cuda_graphs: bool = False,
        threads: int | None = None,
    ) -> None:
        """Use :meth:`open`, which verifies."""
        self.folder = folder
        self.manifest = manifest
        self.device = device
        self._cuda_graphs = cuda_graphs
        self._threads = check_threads(threads)
        self._sessions: dict[str, Session | TrtSession] = {}
        self._fallen: set[str] = set()

    @classmethod
    def open(
        cls,
        folder: Path | str,
        *,
        device: Device | None = None,
        cuda_graphs: bool = False,
        threads: int | None = None,
    ) -> Engine:
        """Verify a folder and return its engine.

        Args:
            folder: an engine folder; where there is none of that name, an engine of :data:`MODELS`.
            device: where it runs; None is the CPU for the target ``cpu``, else the first GPU.
            cuda_graphs: let compiled engines replay captured launches: faster, for more memory.
            threads: of the CPU for each run of a graph, 1 or more; None is ONNX Runtime's choice.

        Raises:
            UsageError: no number of threads.
            EngineError: anything missing, changed or unknown, or no GPU; the message names it.
        """
        check_threads(threads)
        path = find_engine(folder)
        manifest = read_manifest(path)
        verify_files(path, manifest)
        where = device or open_device("cpu" if manifest.target == "cpu" else "cuda")
        return cls(path, manifest, where, cuda_graphs=cuda_graphs, threads=threads)

    def session(self, component: str) -> Session | TrtSession:
        """The graph of a component, for example ``unet``: the compiled one where there is one."""
        if component not in self._sessions:
            if component not in self.manifest.components:
                raise EngineError(f"{self.folder}: this engine has no {component}.")
            self._sessions[component] = self._open_session(component)
        return self._sessions[component]

    def _open_session(self, component: str) -> Session | TrtSession:
        part, fallen = self.manifest.components[component], component in self._fallen
        if part.compiled and not fallen:
            return TrtSession(self.folder, part.compiled, self.device, cuda_graphs=self._cuda_graphs)
        # a Jetson has no CUDA provider: what stands in there is slow, but it is there
        on_cpu = fallen and CUDA not in available_providers()
        graph = self.folder / part.file
        return Session(graph, device=self.device, on_cpu=on_cpu, threads=self._threads)

    def fall_back(self, component: str) -> None:
        """From now on run a component's portable float32 graph in place of its compiled one.

        Raises:
            EngineError: there is none, or it is what gave NaN or infinity.
        """
        if component in self._fallen or not self.manifest.components[component].compiled:
            raise EngineError(
                f"{self.folder}: {component} gives NaN or infinity. Rebuild with --precision fp32."
            )
        warnings.warn(
            f"{component} gave NaN or infinity in {self.manifest.components[component].precision}; its"
            " float32 graph runs in its place, slower. Rebuild with --precision fp32 or bf16.",
            RuntimeWarning,
            stacklevel=2,
        )
        self._fallen.add(component)
        self._sessions.pop(component, None)

    def run(self, component: str, **inputs: Any) -> dict[str, Array]:
        """Run a component once; where it gives NaN or infinity, its float32 graph instead."""
        outputs = self._run_in_parts(component, inputs)
        if all(map(is_finite, outputs.values())):
            return outputs
        self.fall_back(component)
        return self.run(component, **inputs)

    def _run_in_parts(self, component: str, inputs: dict[str, Any]) -> dict[str, Array]:
        """Run a batch, in as many parts as the largest batch of a compiled graph makes of it."""
        compiled, session = self.manifest.components[component].compiled, self.session(component)
        count = next(iter(inputs.values())).shape[0]
        largest = count
        if compiled and component not in self._fallen:
            largest = min(high[0] for _, _, high in compiled.profile.values() if high)
        if count <= largest:
            return session.run(**inputs)
        parts = [
            session.run(**{n: x[start : start + largest, ...] if x.ndim else x for n, x in inputs.items()})
            for start in range(0, count, largest)
        ]
        return {name: self.device.xp.concat([part[name] for part in parts]) for name in parts[0]}

    @cached_property
    def schedule(self) -> Schedule:
        """The noise schedule of the checkpoint."""
        pixels = "vae_decoder" not in self.manifest.components
        return read_schedule(self.manifest.scheduler, pixels=pixels)

    @cached_property
    def tokenizers(self) -> dict[str, Tokenizer]:
        """The tokenizer of each text encoder."""
        return {
            name: tokenizer.open_tokenizer(self.folder / window.file, window.max_length, window.pad_token)
            for name, window in self.manifest.tokenizers.items()
        }

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, H', W') of the latents of a picture."""
        space = self.manifest.latent_space
        return space.channels, height // space.downscale, width // space.downscale

    def check_shape(self, shape: tuple[int, int, int]) -> None:
        """Refuse latents of a size that the model's graph does not take.

        Raises:
            UsageError: the model knows one size alone.
        """
        known = self.manifest.components[self.manifest.model].inputs["sample"].shape[1:]
        if any(isinstance(k, int) and k != side for k, side in zip(known, shape, strict=True)):
            scale = self.manifest.latent_space.downscale
            sides = "x".join(str(int(side) * scale) for side in reversed(known[1:]))
            raise UsageError(f"this model draws {sides} pictures alone; leave the size out.")

    def plan(self, solver: Solver, steps: int, size: tuple[int, int]) -> Table:
        """The table of a solver for a picture of (width, height) pixels."""
        _, rows, columns = self.latent_shape(*size)
        patch = self.manifest.latent_space.patch
        return plan(self.schedule, solver, steps, (rows // patch) * (columns // patch))

    def count_chunks(self, *prompts: str) -> int:
        """How many windows the longest of some prompts fills; 1 where longer prompts are cut."""
        windows = self.manifest.tokenizers
        filled = (
            tokenizer.count_chunks(tokens, prompt)
            for name, tokens in self.tokenizers.items()
            for prompt in prompts
            if windows[name].chunked
        )
        return max(filled, default=1)

    def encode_prompts(self, prompts: Sequence[str], chunks: int = 1) -> dict[str, Array]:
        """Text states of prompts by model input, each prompt in so many windows laid end to end."""
        return self.join_text(self.text_states(prompts, chunks))

    def text_states(self, prompts: Sequence[str], chunks: int = 1) -> dict[str, Array]:
        """``encoder.output`` -> states (B, chunks L, E), or (B, E) where the encoder pooled them."""
        outputs = {}
        for name, tokens in self.tokenizers.items():
            windows = chunks if self.manifest.tokenizers[name].chunked else 1
            ids = tokenizer.encode(tokens, prompts, windows)
            found = self.run(name, input_ids=ids.reshape(-1, ids.shape[-1]))
            for key, states in found.items():
                xp, count = array_namespace(states), len(prompts)
                parts = xp.reshape(states, (count, windows, *states.shape[1:]))
                # pooled states are those of the first window
                whole = xp.reshape(parts, (count, -1, states.shape[-1]))
                outputs[f"{name}.{key}"] = whole if states.ndim == 3 else parts[:, 0, :]
        return outputs

    def join_text(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """States by encoder to the inputs of the model."""
        rows = self.manifest.conditioning.text
        return {given: conditioning.join(named, outputs) for given, named in rows.items()}

    def condition(
        self, subjects: Sequence[Subject], size: tuple[int, int], guidance_scale: float, chunks: int = 1
    ) -> dict[str, Any]:
        """Everything the model is told about pictures of these subjects.

        Args:
            subjects: prompts for a model of text, class labels or None for one of classes.
            size: (width, height) in pixels.
            guidance_scale: enters models that take it as an input.
            chunks: windows of text, the same for every picture of a batch.

        Raises:
            UsageError: None, though the model has no null class.
        """
        spec, count = self.manifest.conditioning, len(subjects)
        named: dict[str, Any] = {}
        if spec.text:
            named |= self.encode_prompts([str(subject or "") for subject in subjects], chunks)
        if spec.classes:
            if None in subjects and spec.null_class is None:
                raise UsageError("this model has no null class: it draws only of a class label.")
            labels = [spec.null_class if subject is None else subject for subject in subjects]
            named["class_labels"] = np.array(labels, np.int64)
        inputs = self.session(self.manifest.model).inputs
        named |= conditioning.of_numbers(inputs, count, size, guidance_scale)
        return {name: self.device.xp.asarray(values) for name, values in named.items()}

    def uncondition(
        self,
        negative_prompt: str,
        count: int,
        size: tuple[int, int],
        guidance_scale: float,
        chunks: int = 1,
    ) -> dict[str, Any]:
        """The side that guidance leads away from: a negative prompt, or the null class."""
        spec = self.manifest.conditioning
        one = self.condition([negative_prompt if spec.text else None], size, guidance_scale, chunks)
        if spec.zero_negative and not negative_prompt:
            one |= {name: self.device.xp.zeros_like(one[name]) for name in spec.text}
        return conditioning.repeat(one, count)

    def predict(self, x: Array, timestep: float, given: Conditioning) -> Array:
        """The model's output for latents (B, C, H, W) at a timestep, told what is given."""
        model = self.session(self.manifest.model)
        rank = len(model.inputs["timestep"][1])
        time = np.full((x.shape[0],) if rank else (), timestep)
        outputs = self._run_in_parts(self.manifest.model, {"sample": x, "timestep": time, **given})
        return next(iter(outputs.values()))

    def decode(self, latents: Array) -> NDArray[np.uint8]:
        """Latents (B, C, H', W') to RGB pixels (B, H, W, 3); pixels without an autoencoder are as they are.

        Raises:
            EngineError: the decoder gave NaN or infinity.
        """
        space, xp = self.manifest.latent_space, self.device.xp
        sample = xp.asarray(latents) / space.scaling_factor + space.shift_factor
        if "vae_decoder" in self.manifest.components:
            sample = self.run("vae_decoder", latent_sample=sample)["sample"]
        elif not is_finite(sample):
            raise EngineError(f"{self.folder}: the picture is not finite. Rebuild with --precision fp32.")
        shares = xp.clip(xp.astype(sample, xp.float32) / 2 + 0.5, 0, 1)
        pixels = to_host(xp.astype(xp.round(xp.permute_dims(shares, (0, 2, 3, 1)) * 255), xp.uint8))
        return np.repeat(pixels, 3, axis=3) if pixels.shape[3] == 1 else pixels

    def encode_images(self, pixels: NDArray[np.uint8]) -> Array:
        """RGB pixels (B, H, W, 3) to latents (B, C, H', W').

        They are the posterior's mean, scaled; without an autoencoder the pixels, grey where the model is.
        """
        space = self.manifest.latent_space
        xp = self.device.xp
        sample = xp.asarray(pixels.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
        if "vae_encoder" not in self.manifest.components:
            return sample if space.channels == 3 else xp.mean(sample, axis=1, keepdims=True)
        outputs = self.run("vae_encoder", sample=sample)
        mean = xp.astype(next(iter(outputs.values()))[:, : space.channels, :, :], xp.float32)
        return (mean - space.shift_factor) * space.scaling_factor
