"""Every component of an engine, one after the other; what an interrupted build finished is taken up."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from safegen.check.isolate import Progress
from safegen.errors import EngineError, SafegenError
from safegen.format.manifest import Component, StepGraph
from safegen_engines.build import component, fingerprint, quantize
from safegen_engines.build.onnx_folder import VAE, Source
from safegen_engines.build.options import Options
from safegen_engines.build.target import Target
from safegen_engines.graph.trt_compile import Form


@dataclass(frozen=True)
class Built:
    """One finished component."""

    name: str
    seconds: float
    bytes: int
    count: int
    """Components of the whole engine."""
    component: Component
    """Its precision is fp32 where half precision was asked for and gave no finite numbers."""


Report = Callable[[Built], None]


def make_components(
    source: Source, work: Path, target: Target, options: Options, report: Report, progress: Progress
) -> dict[str, Component]:
    """Every component; one that fails does not keep the others from being finished for the next run."""
    quantized = _quantized(source, work, options.precision, progress)
    components = {}
    failed: list[SafegenError] = []
    for name in source.components:
        try:
            own = quantized if name == source.model else None
            components[name] = _component(source, work, name, target, options, own, report, progress)
        except EngineError as error:
            failed.append(error)
    if failed:
        raise failed[0]
    return components


def _component(
    source: Source,
    work: Path,
    name: str,
    target: Target,
    options: Options,
    quantized: Path | None,
    report: Report,
    progress: Progress,
) -> Component:
    """Build one component, or take it from an interrupted run with the same content key."""
    began = time.perf_counter()
    precision = _precision(source, name, options.precision)
    form = Form(options.strip_weights, options.portable)
    job = component.Job(source, work / name, name, target, precision, form, quantized)
    mark = job.folder / "done.json"
    key = fingerprint.component_key(source.folder / name, precision, target.name, **vars(form))
    made = _stored(mark, key, job.folder)
    if made is None:
        made = component.make(job, lambda what, share: progress(f"{name}: {what}", share))
        mark.write_text(json.dumps({"key": key, "component": msgspec.to_builtins(made)}))
    size = sum(f.stat().st_size for f in files_of(made, job.folder))
    report(Built(name, time.perf_counter() - began, size, len(source.components), made))
    return made


def _quantized(source: Source, work: Path, precision: str, progress: Progress) -> Path | None:
    """The sampled model's graph in 8 bits: as it came with the ONNX folder, or made here."""
    if precision not in quantize.QUANTIZED:
        return None
    carried, made = quantize.graph_of(source, precision), work / f"{precision}.onnx"
    if carried.is_file():
        return carried
    if not made.is_file():
        quantize.quantize(source, precision, made, progress)
    return made


def _stored(mark: Path, key: str, folder: Path) -> Component | None:
    """What an interrupted run had finished, if its files are still here."""
    if not mark.is_file():
        return None
    stored = json.loads(mark.read_text())
    if stored["key"] != key:
        return None
    made = msgspec.convert(stored["component"], Component)
    return made if all(file.is_file() for file in files_of(made, folder)) else None


def _precision(source: Source, name: str, wanted: str) -> str:
    """What a component gets: 8 bits are for the sampled model alone, the others get fp16.

    SDXL's autoencoder overflows in half precision, and stays fp32 unless it is marked safe.
    """
    if wanted in quantize.QUANTIZED:
        if name == source.model:
            return wanted
        wanted = "fp16"
    unsafe = "text_embeds" in source.conditioning.text and source.config(name).get("force_upcast", True)
    return "fp32" if name in VAE and unsafe and wanted == "fp16" else wanted


def files_of(part: Component | StepGraph, folder: Path) -> list[Path]:
    """The files of a component: its graph with external data, and what was compiled of it."""
    files = sorted(folder.glob(f"{part.file}*"))
    if part.compiled:
        files += [folder / name for name in (part.compiled.file, part.compiled.context) if name]
        files += sorted(folder.glob(f"{part.compiled.weights}*")) if part.compiled.weights else []
    return files
