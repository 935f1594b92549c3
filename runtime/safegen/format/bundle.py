"""The negation bundle: one sealed safetensors file with both banks and the gate between them."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from safegen.errors import BundleError
from safegen.files import replacing
from safegen.format.seal import ZEROS, seal, sealed_digest
from safegen.guard.bank import Bank, make_bank
from safegen.guard.gate import Density, Gate
from safegen.guard.regions import SIDES, Regions
from safegen.guard.settings import Positive, Ratio, Settings

SCHEMA_VERSION = 5
MAX_HEADER_BYTES = 1 << 20
BANKS = ("negation", "benign", "axes")
"""float16 tensors of a bundle; those of :class:`Gate` and :class:`Density` are float64, as
``gate_FIELD`` and ``paper_FIELD``."""


class BundleInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a bundle says of itself."""

    schema_version: int = SCHEMA_VERSION
    name: str
    """What is negated, for people."""
    latent_space: str
    """SHA-256 of the autoencoder's weights: the engine must have the same."""
    latent_shape: tuple[int, int, int]
    """(C, H, W) of one latent."""
    image_size: tuple[int, int]
    """(width, height) in pixels."""
    regions: int = 1
    """Regions a side that ``ratio`` judges one by one, one of :data:`safegen.guard.regions.SIDES`; both banks
    hold the regions of their images."""
    anywhere: bool = False
    """The regions overlap: negation images show the thing alone and are as large as a region; of each
    benign image as many regions are held as would not overlap, drawn by lot."""
    negation_count: int
    """Images."""
    benign_count: int
    """Images."""
    target_count: int
    """How many rows of the benign bank, from the first on, may take the place of a picture."""
    benign_source: str
    """``images``, or ``drawn by the engine``."""
    source_digest: str
    """SHA-256 over the digests of the source images, in order."""
    created: str
    """UTC, ISO 8601."""
    guard: Settings = Ratio()
    bandwidth: Positive
    """H of the kernels at x0, with which ``ratio``'s gate looks."""
    foreseen_from: str
    """What the gate's rate was set on: ``prompts``, ``images``, ``images, unseen by the model``, or
    ``labels and`` one of the two."""

    @property
    def layout(self) -> Regions:
        """How pictures are cut for ``ratio``."""
        return Regions(self.regions, self.anywhere)


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle in memory. Latents are scaled as the model sees them."""

    info: BundleInfo
    digest: str
    negation: NDArray[np.float16]
    """(N, C, H, W), or regions of r a side: (N r r, C, H / r, W / r), image by image; for things anywhere
    (N, C, H / r, W / r)."""
    benign: NDArray[np.float16]
    """(M, C, H, W), or regions, in no order of images."""
    axes: NDArray[np.float16]
    """(K, D) of the gate's :class:`safegen.guard.bank.Metric`; D numbers a latent or region."""
    gate: Gate
    """Of ``ratio``."""
    density: Density
    """Of ``paper``."""

    def bank(self) -> Bank:
        """Both banks as float32 rows with their squared norms."""
        return make_bank(self.negation, self.benign, self.info.target_count, self.axes)


def write_bundle(
    path: Path,
    info: BundleInfo,
    *,
    negation: NDArray[np.float16],
    benign: NDArray[np.float16],
    axes: NDArray[np.float16],
    gate: Gate,
    density: Density,
) -> str:
    """Write a bundle whole or not at all, and return its digest."""
    tensors: dict[str, NDArray[Any]] = dict(zip(BANKS, (negation, benign, axes), strict=True))
    tensors |= {f"gate_{field}": values for field, values in gate._asdict().items()}
    tensors |= {f"paper_{field}": values for field, values in density._asdict().items()}
    metadata = {"digest": ZEROS, "safegen": msgspec.json.encode(info).decode()}
    with replacing(path) as scratch:
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, scratch, metadata)
        return seal(scratch)


def read_bundle(path: Path) -> Bundle:
    """Read and verify a bundle.

    Raises:
        BundleError: the file is missing, is no bundle, is of another schema, or has changed.
    """
    _check_header(path)
    stated, digest = sealed_digest(path)
    if not stated:
        raise BundleError(f"{path}: not a negation bundle. Make one with 'safegen freeze'.")
    if stated != digest:
        raise BundleError(
            f"{path}: the bundle has changed since it was frozen (digest {digest[:12]}, sealed as"
            f" {stated[:12]}). Copy it again, or freeze it anew."
        )
    try:
        with safe_open(path, framework="numpy") as file:
            info = _read_info(path, (file.metadata() or {}).get("safegen", "{}"))
            banks = {name: _tensor(path, file, name, np.float16) for name in BANKS}
            gate = Gate(*(_tensor(path, file, f"gate_{field}", np.float64) for field in Gate._fields))
            density = Density(
                *(_tensor(path, file, f"paper_{field}", np.float64) for field in Density._fields)
            )
    except SafetensorError as error:
        raise BundleError(f"{path}: not a negation bundle ({error}).") from None
    bundle = Bundle(info=info, digest=digest, **banks, gate=gate, density=density)
    _check_banks(path, bundle)
    _check_curves(path, bundle)
    return bundle


def _tensor(path: Path, file: Any, name: str, dtype: type[np.generic]) -> NDArray[Any]:
    tensor: NDArray[Any] = file.get_tensor(name)
    if tensor.dtype != dtype:
        raise BundleError(f"{path}: {name} is of {tensor.dtype}, not of {dtype.__name__}.")
    if not np.isfinite(tensor).all():
        raise BundleError(f"{path}: {name} has numbers that are not finite. Freeze it anew.")
    return tensor


def _check_header(path: Path) -> None:
    """Refuse a truncated or foreign file before anything parses it."""
    if not path.is_file():
        raise BundleError(f"{path}: no such bundle. Make one with 'safegen freeze'.")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 0 < length <= min(MAX_HEADER_BYTES, size - 8):
            raise BundleError(f"{path}: not a negation bundle, or cut short.")


def _read_info(path: Path, text: str) -> BundleInfo:
    try:
        said = json.loads(text)
        version = said.get("schema_version") if isinstance(said, dict) else None
        if version != SCHEMA_VERSION:
            raise BundleError(
                f"{path}: bundle schema {version}, this safegen reads {SCHEMA_VERSION}."
                " Freeze it anew, or install the safegen that wrote it."
            )
        return msgspec.json.decode(text, type=BundleInfo)
    except (msgspec.DecodeError, json.JSONDecodeError) as error:
        raise BundleError(f"{path}: not a negation bundle ({error}).") from None


def _check_banks(path: Path, bundle: Bundle) -> None:
    info, layout = bundle.info, bundle.info.layout
    if not layout.fits(info.latent_shape):
        raise BundleError(
            f"{path}: {info.regions} regions a side of latents {info.latent_shape}; known are"
            f" {', '.join(map(str, SIDES))}, where they divide both sides; anywhere is for 2 and more."
        )
    channels, *sides = info.latent_shape
    shape = (channels, *(side // info.regions for side in sides))
    expected = {
        "negation": ((info.negation_count * layout.rows, *shape), bundle.negation.shape),
        "benign": ((info.benign_count * info.regions**2, *shape), bundle.benign.shape),
    }
    for name, (stated, found) in expected.items():
        if stated != found or not stated[0]:
            raise BundleError(f"{path}: {name} is {found}, its description says {stated}.")
    axes = bundle.axes.shape
    if len(axes) != 2 or not axes[0] or axes[1] != math.prod(shape):
        raise BundleError(f"{path}: axes is {axes}, not some rows of {math.prod(shape)} numbers.")
    if not 0 < info.target_count <= len(bundle.benign):
        raise BundleError(f"{path}: {info.target_count} targets of {len(bundle.benign)} benign latents.")


def _check_curves(path: Path, bundle: Bundle) -> None:
    """What thresholds are read from: levels rise, and every level has its number."""
    gate, density = bundle.gate, bundle.density
    levels = gate.signal.shape
    wrong = {
        "gate_signal": len(levels) != 1 or not levels[0] or not _rises(gate.signal, 0.0, 1.0),
        "gate_location": gate.location.shape != levels,
        "gate_scores": gate.scores.ndim != 1 or not gate.scores.size or (np.diff(gate.scores) < 0).any(),
        "paper_log_snr": density.log_snr.ndim != 1
        or not density.log_snr.size
        or (np.diff(density.log_snr) <= 0).any(),
        "paper_quantiles": density.quantiles.ndim != 2
        or density.quantiles.shape[0] != density.log_snr.size
        or density.quantiles.shape[1] < 2
        or (np.diff(density.quantiles, axis=1) < 0).any(),
    }
    for name in (name for name, bad in wrong.items() if bad):
        raise BundleError(f"{path}: {name} is no calibration of a gate. Freeze it anew.")


def _rises(values: NDArray[Any], low: float, high: float) -> bool:
    return bool(values.min() >= low and values.max() <= high and (np.diff(values) > 0).all())
