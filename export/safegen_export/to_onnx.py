"""Torch modules to an ONNX folder in optimum's layout, with references to compare against."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from onnxscript import opset20 as op

from safegen.errors import ExportError, first_line
from safegen.files import file_sha256, replacing
from safegen.format.manifest import OPSET
from safegen_export.checkpoint import Checkpoint
from safegen_export.graphs import (
    Graph,
    latent_space_id,
    load_vae,
    open_graphs,
    patch,
    text_length,
    text_outputs,
    text_shapes,
)

EXTERNAL_DATA_BYTES = 1_900_000_000
"""Protocol buffers end at 2 GB; weights above this go to a file beside the graph."""
LIBRARIES = ("torch", "diffusers", "transformers", "onnx", "onnxscript")

Report = Callable[[str, float, int], None]
"""(component, seconds, bytes) after each; 0 seconds where an earlier run had done it."""


def export(checkpoint: Checkpoint, out: Path, *, clip_skip: int, report: Report) -> None:
    """Write ``out`` as optimum would write it, plus ``reference.npz`` beside each graph.

    A component whose weights, options and exporter are those of an earlier, interrupted run is
    not exported again.

    Raises:
        ExportError: a component cannot be loaded or exported; what was finished stays for the next run.
    """
    keys = {name: _key(checkpoint, name, clip_skip) for name in checkpoint.components}
    missing = [name for name in keys if not _is_done(out / name, keys[name])]
    for name in (n for n in keys if n not in missing):
        report(name, 0.0, _bytes(out / name))
    began = time.perf_counter()
    for graph in open_graphs(checkpoint, clip_skip, missing):
        _export_one(graph, out / graph.name)
        (out / graph.name / "done.txt").write_text(keys[graph.name])
        report(graph.name, time.perf_counter() - began, _bytes(out / graph.name))
        began = time.perf_counter()
    _copy_configs(checkpoint, out)


def _key(checkpoint: Checkpoint, name: str, clip_skip: int) -> str:
    """Content key of an exported component: equal where checkpoints share it."""
    folder = checkpoint.folder / checkpoint.part(name)
    parts = [f"{f.name} {file_sha256(f)}" for f in sorted(folder.iterdir()) if f.is_file()]
    parts += [f"{library} {version(library)}" for library in LIBRARIES]
    parts += [name, f"opset {OPSET}"]
    if name in checkpoint.text_encoders:
        given = text_outputs(checkpoint, name), text_length(checkpoint, name)
        parts += [f"clip_skip {clip_skip}", f"gives {given}"]
    if name == checkpoint.family.model:
        parts += [f"text {sorted(text_shapes(checkpoint).items())}"]
    if checkpoint.part(name) != "vae":
        parts += [f"lora {file_sha256(lora.path)} {lora.scale}" for lora in checkpoint.loras]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _is_done(folder: Path, key: str) -> bool:
    mark = folder / "done.txt"
    return mark.is_file() and mark.read_text() == key


def _bytes(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.glob("model.onnx*"))


def _export_one(graph: Graph, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    with torch.no_grad(), replacing(folder / "reference.npz") as scratch, scratch.open("wb") as file:
        np.savez(file, **_references(graph))
    weight_bytes = sum(p.numel() * p.element_size() for p in graph.module.parameters())
    inputs = graph.example(graph.sizes[0])
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                graph.module,
                args=(),
                kwargs=inputs,
                f=folder / "model.onnx",
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(graph.outputs),
                dynamic_shapes=graph.dims,
                external_data=weight_bytes > EXTERNAL_DATA_BYTES,
                custom_translation_table={torch.ops.aten.squeeze.dim: _squeeze},
            )
    except Exception as error:  # the exporter has no common base for its errors
        raise ExportError(f"{graph.name}: torch.onnx.export failed ({first_line(error)}).") from error


def _squeeze(x: Any, dim: int) -> Any:
    """As torch: a dimension that is not 1 stays. ONNX's Squeeze refuses it (PixArt's last one)."""
    return op.Squeeze(x, op.Constant(value_ints=[dim])) if x.shape[dim] == 1 else op.Identity(x)


def _references(graph: Graph) -> dict[str, np.ndarray]:
    """Random inputs and torch's outputs at two sizes, as ``0.in.NAME``, ``0.out.NAME`` and so on."""
    found: dict[str, np.ndarray] = {}
    for i, size in enumerate(graph.sizes):
        inputs = graph.example(size)
        found |= {f"{i}.in.{name}": tensor.numpy() for name, tensor in inputs.items()}
        outputs = graph.module(**inputs)
        tensors = (outputs,) if torch.is_tensor(outputs) else outputs
        found |= {f"{i}.out.{n}": t.numpy() for n, t in zip(graph.outputs, tensors, strict=True)}
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress and warns of what it then handles."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _copy_configs(checkpoint: Checkpoint, out: Path) -> None:
    """Everything beside the graphs, and export.json with what the graphs alone do not say."""
    for name in checkpoint.components:
        shutil.copy2(checkpoint.folder / checkpoint.part(name) / "config.json", out / name / "config.json")
    tokenizers = [name.replace("text_encoder", "tokenizer") for name in checkpoint.text_encoders]
    for part in ("scheduler", *tokenizers):
        shutil.copytree(checkpoint.folder / part, out / part, dirs_exist_ok=True)
    shutil.copy2(checkpoint.folder / "model_index.json", out / "model_index.json")
    if spacing := checkpoint.family.timestep_spacing:
        path = out / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps({"timestep_spacing": spacing, **json.loads(path.read_text())}))
    noted = {
        "conditioning": msgspec.to_builtins(checkpoint.conditioning()),
        "patch": patch(checkpoint),
        "max_length": dict(checkpoint.family.max_length),
        "lowercase": checkpoint.family.lowercase,
    }
    if "vae" in checkpoint.configs:
        noted["latent_space_id"] = latent_space_id(load_vae(checkpoint))
    (out / "export.json").write_text(json.dumps(noted, indent=1))
