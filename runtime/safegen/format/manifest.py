"""``engine.json``: what an engine folder holds, how it draws, and the digest of every file in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from safegen.errors import EngineError
from safegen.files import file_sha256, replacing
from safegen.format.seal import ZEROS, seal, sealed_digest

SCHEMA_VERSION = 6
OPSET = 20
"""Of the graphs that safegen writes. TensorRT for RTX fails on autoencoders at 23."""
FILE_NAME = "engine.json"
RTX = "tensorrt-rtx"
TENSORRT = "tensorrt"
ANY_AMPERE = "8.0+"
"""Stands for every compute capability from 8.0 on."""


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the folder."""

    sha256: str
    bytes: int


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A graph's input or output. Dimensions are numbers, or names where they vary."""

    dtype: str
    shape: list[int | str]


class Parity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The largest differences from the reference over random inputs at two shapes."""

    reference: str
    """``torch``, or ``source graph`` where the engine was built from ONNX."""
    max_abs: float
    max_rel: float
    """max_abs over the largest absolute value of the reference."""
    tolerance: float
    """What max_rel may be at most."""


class Compiled(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A component compiled for one kind of GPU, beside its portable graph."""

    file: str
    context: str | None
    """An ONNX file with one EPContext node that names ``file``, for hosts of ONNX Runtime. None where
    its provider does not read such an engine: it needs TensorRT 10."""
    backend: str
    """``tensorrt-rtx`` or ``tensorrt``."""
    version: str
    """Of the library that compiled it."""
    capabilities: list[str]
    """Compute capabilities of the GPUs that run it."""
    profile: dict[str, list[list[int]]]
    """Input -> its smallest, usual and largest shape."""
    weights: str | None = None
    """The typed ONNX graph that a weight-stripped engine gets its weights from; None where it holds them."""
    portable: bool = False
    """It brings its own runtime code, so that later versions of the library load it."""


class Component(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One graph."""

    file: str
    """The ONNX graph. Beside a compiled one it is in float32, and stands in where that gives NaN."""
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    parity: Parity
    precision: str
    """fp32, fp16, bf16, int8 or fp8; an autoencoder that overflows in fp16 stays in fp32."""
    optimized_for: str | None = None
    """What the saved graph is tied to; None runs anywhere."""
    compiled: Compiled | None = None


class StepGraph(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step of the loop with one guard, for hosts without array code, at the default size."""

    file: str
    compiled: Compiled | None = None


class LatentSpace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The autoencoder's side: latents = (encoder mean - shift_factor) * scaling_factor.

    A model of pixels has no autoencoder: its latents are pixels in [-1, 1], its downscale is 1.
    """

    id: str
    """SHA-256 of the autoencoder's weights, the same at every precision; ``pixels`` without one."""
    channels: int
    downscale: int
    scaling_factor: float = 1.0
    shift_factor: float = 0.0
    patch: int = 1
    """Sides of latents are multiples of this: a transformer's patch."""


class TextWindow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How prompts become the ids of one text encoder."""

    file: str
    max_length: int
    pad_token: str
    chunked: bool = False
    """Longer prompts go on in further windows, laid end to end; else they are cut."""


class Conditioning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the model is told besides noisy latents and timestep, by the names of its inputs."""

    text: dict[str, list[list[str]]] = {}
    """Model input -> rows laid end to end along the tokens, each row of ``encoder.output`` laid side
    by side along the features and padded with zeros to the widest row."""
    classes: int = 0
    """How many class labels the model knows; 0 has none. The last may be the null class."""
    null_class: int | None = None
    """The label of no class, for guidance and for drawing unconditionally."""
    guidance: str = "classifier-free"
    """``classifier-free`` (two evaluations), ``embedded`` (an input of the model) or ``none``."""
    zero_negative: bool = False
    """An empty negative prompt is zeros instead of its text states (SDXL)."""


class Defaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``generate`` uses where the user says nothing."""

    solver: str
    steps: int
    guidance_scale: float
    width: int
    height: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of ``engine.json``."""

    schema_version: int = SCHEMA_VERSION
    digest: str = ZEROS
    name: str
    target: str
    precision: str
    fingerprint: str
    """SHA-256 over everything that the engine was built from."""
    parts: dict[str, str]
    """What the fingerprint covers, part by part; :func:`explain <safegen_engines.build.fingerprint.explain>`
    says which differ."""
    built_with: dict[str, str]
    created: str
    components: dict[str, Component]
    model: str
    """The component that is sampled: ``unet`` or ``transformer``."""
    conditioning: Conditioning
    latent_space: LatentSpace
    tokenizers: dict[str, TextWindow]
    """By text encoder."""
    scheduler: dict[str, Any]
    """The checkpoint's scheduler_config.json."""
    defaults: Defaults
    guards: list[str]
    """Which guards may draw; ``off`` is among them only after --allow-unguarded."""
    text_guards: dict[str, int] = {}
    """Which guards on the text side the model takes -> model evaluations a step that each adds."""
    steps: dict[str, StepGraph]
    """By guard; ``ratio-2x2`` and ``ratio-4x4`` are ``ratio`` by regions, with ``-anywhere`` by such that
    overlap."""
    schedule: str
    """The default solver's rows for every number of steps, for hosts that know no solver:
    :mod:`safegen_engines.graph.schedule_table`."""
    bundle: str | None = None
    """The default negation bundle in this folder."""
    files: dict[str, File]

    @property
    def allow_unguarded(self) -> bool:
        """Whether the engine may draw without a guard."""
        return "off" in self.guards


def write_manifest(folder: Path, manifest: Manifest) -> str:
    """Write and seal ``engine.json``, last of all files of an engine; return its digest."""
    text = json.dumps(msgspec.to_builtins(manifest), indent=1, ensure_ascii=False, allow_nan=False)
    with replacing(folder / FILE_NAME) as scratch:
        scratch.write_text(text + "\n", "utf-8")
        return seal(scratch)


def read_manifest(folder: Path) -> Manifest:
    """Read ``engine.json`` and verify its own digest, not yet the other files.

    Raises:
        EngineError: no engine, a changed manifest, or a schema that this version does not read.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise EngineError(
            f"{folder}: no engine.json here, so no engine, or one whose build did not finish."
            " Run 'safegen build-engine CHECKPOINT -o DIR'."
        )
    stated, digest = sealed_digest(path)
    if not stated or stated != digest:
        raise EngineError(
            f"{path}: changed since the engine was built (digest {digest[:12] or 'missing'}, sealed"
            f" as {stated[:12] or 'missing'}). Copy the engine again, or build it anew."
        )
    try:
        version = json.loads(path.read_bytes()).get("schema_version")
        if version != SCHEMA_VERSION:
            raise EngineError(
                f"{path}: engine schema {version}, this safegen reads {SCHEMA_VERSION}."
                " Build it anew, or install the safegen that built it."
            )
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (msgspec.ValidationError, ValueError, AttributeError) as error:
        raise EngineError(f"{path}: not an engine manifest ({error}).") from None


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file with its size and SHA-256.

    Raises:
        EngineError: the first file that is missing, cut short or changed, or a name that leaves
            the folder.
    """
    graphs: list[Component | StepGraph] = [*manifest.components.values(), *manifest.steps.values()]
    compiled = [graph.compiled for graph in graphs if graph.compiled]
    named = {graph.file for graph in graphs} | {manifest.schedule}
    named |= {name for c in compiled for name in (c.file, c.context, c.weights) if name}
    named |= {window.file for window in manifest.tokenizers.values()}
    named |= {manifest.bundle} if manifest.bundle else set()
    if missing := sorted(named - set(manifest.files)):
        raise EngineError(f"{folder / FILE_NAME}: {missing[0]} is used but has no digest.")
    for name, file in manifest.files.items():
        path = folder / name
        if Path(name).name != name:
            raise EngineError(f"{folder / FILE_NAME}: {name!r} is not a plain file name.")
        if not path.is_file():
            raise EngineError(f"{path}: missing from the engine. Copy the folder again.")
        size = path.stat().st_size
        if size != file.bytes:
            raise EngineError(
                f"{path}: {size} bytes, the engine was sealed with {file.bytes}. Copy the folder again."
            )
        if file_sha256(path) != file.sha256:
            raise EngineError(
                f"{path}: changed since the engine was built. Copy the folder again, or build it anew."
            )
