"""An ONNX folder to a sealed engine folder: one component after the other, resumable, gated."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import msgspec

import safegen
from safegen.check.isolate import Progress
from safegen.engine.text_states import text_guards_of
from safegen.errors import BundleError, EngineError, SafegenError
from safegen.files import file_sha256
from safegen.format.bundle import read_bundle
from safegen.format.manifest import (
    FILE_NAME,
    Component,
    Defaults,
    File,
    Manifest,
    StepGraph,
    TextWindow,
    read_manifest,
    write_manifest,
)
from safegen.sampling.schedule import read_schedule
from safegen.sampling.solver import CONSISTENCY
from safegen_engines.build import component, fingerprint, quantize
from safegen_engines.build.onnx_folder import TEXT_ENCODERS, VAE, Source, open_source
from safegen_engines.build.options import Options, check_options, prepare
from safegen_engines.build.target import Target
from safegen_engines.graph import schedule_table, step_graph
from safegen_engines.graph.trt_compile import Form

BUNDLE = "default.negation"


@dataclass(frozen=True)
class Built:
    """One finished component."""

    name: str
    seconds: float
    bytes: int
    component: Component
    """Its precision is fp32 where half precision was asked for and gave no finite numbers."""


Report = Callable[[Built], None]


def build(
    checkpoint: Path,
    onnx_folder: Path,
    out: Path,
    options: Options,
    report: Report,
    progress: Progress = lambda what, share: None,
) -> Manifest:
    """Build and seal an engine.

    Args:
        checkpoint: what the fingerprint covers.
        onnx_folder: the graphs; the same folder where the checkpoint is ONNX already.
        out: the engine folder.
        options: see :class:`Options`.
        report: called after each component.
        progress: called within a component.

    Raises:
        UsageError: the target cannot be built here.
        EngineError: a missing file, or a component that fails its parity gate or its compiler. The
            components that were finished before stay for the next run.
        BundleError: the default bundle does not fit the engine.
    """
    target = check_options(options)
    source = open_source(onnx_folder)
    work = prepare(out)
    if options.bundle and read_bundle(Path(options.bundle)).info.latent_space != source.latent_space().id:
        raise BundleError(f"{options.bundle}: frozen through another autoencoder than this engine's.")
    components = _components(source, work, target, options, report, progress)
    _forget(out)
    for name, part in components.items():
        for file in _files_of(part, work / name):
            file.replace(out / file.name)
    windows = {name: _tokenizer(source, out, name) for name in source.components if name in TEXT_ENCODERS}
    guards = [*options.guards, *(["off"] if options.allow_unguarded else [])]
    space = source.latent_space()
    side = source.sample_size()
    steps = _steps(out, guards, (space.channels, side, side), target, options.portable, progress)
    defaults = _defaults(source, options)
    schedule = read_schedule(source.scheduler, pixels="vae_decoder" not in source.components)
    table = schedule_table.write(out, schedule, defaults, (side // space.patch) ** 2)
    if options.bundle:
        shutil.copyfile(options.bundle, out / BUNDLE)
    parts = fingerprint.parts(checkpoint, options.key())
    manifest = Manifest(
        name=options.name or checkpoint.resolve().name,
        target=options.target,
        precision=options.precision,
        fingerprint=fingerprint.fingerprint(parts),
        parts=parts,
        built_with={"safegen": safegen.__version__, **fingerprint.libraries()},
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        components=components,
        model=source.model,
        conditioning=source.conditioning,
        latent_space=space,
        tokenizers=windows,
        scheduler=source.scheduler,
        defaults=defaults,
        guards=guards,
        text_guards=text_guards_of(source.conditioning),
        steps=steps,
        schedule=table,
        bundle=BUNDLE if options.bundle else None,
        files=_digests(out, components, windows, steps, [table, *([BUNDLE] if options.bundle else [])]),
    )
    write_manifest(out, manifest)
    _clean(work, checkpoint, options)
    return manifest


def _components(
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


def _forget(out: Path) -> None:
    """Take away the manifest of an earlier build, then every file that it named."""
    try:
        names = list(read_manifest(out).files)
    except SafegenError:
        names = []
    for name in (FILE_NAME, *names):
        (out / name).unlink(missing_ok=True)


def _tokenizer(source: Source, out: Path, encoder: str) -> TextWindow:
    """Save an encoder's tokenizer as ``tokenizer.json``, ``tokenizer_2.json`` and so on."""
    tokenizer, window = source.tokenizer(encoder, encoder.replace("text_encoder", "tokenizer") + ".json")
    tokenizer.save(str(out / window.file), pretty=False)
    return window


def _defaults(source: Source, options: Options) -> Defaults:
    side = source.sample_size() * source.latent_space().downscale
    spec = source.conditioning
    usual = 1.0 if source.solver == "lcm" else 4.0 if spec.classes else 7.5
    told = 8.5 if source.solver == "lcm" else 3.5  # the defaults of diffusers' LCM and Flux pipelines
    scale = {"none": 1.0, "embedded": told, "classifier-free": usual}[spec.guidance]
    return Defaults(
        solver=source.solver,
        steps=options.steps or {"lcm": 4, CONSISTENCY: 1}.get(source.solver, 30),
        guidance_scale=options.guidance_scale or scale,
        width=side,
        height=side,
    )


def _digests(
    out: Path,
    components: dict[str, Component],
    windows: dict[str, TextWindow],
    steps: dict[str, StepGraph],
    others: list[str],
) -> dict[str, File]:
    parts: list[Component | StepGraph] = [*components.values(), *steps.values()]
    names = [f.name for part in parts for f in _files_of(part, out)]
    names = [*dict.fromkeys(names), *(w.file for w in windows.values()), *others]
    return {n: File(file_sha256(out / n), (out / n).stat().st_size) for n in names}


def _clean(work: Path, checkpoint: Path, options: Options) -> None:
    shutil.rmtree(work)
    work.mkdir()
    key = fingerprint.quick_key(checkpoint, options.key())
    (work / "source.json").write_text(json.dumps({"quick_key": key}))


def _steps(
    out: Path,
    guards: list[str],
    latent_shape: tuple[int, int, int],
    target: Target,
    portable: bool,
    progress: Progress,
) -> dict[str, StepGraph]:
    """The step graph of each guard, compiled where the target's components are."""
    files = step_graph.write(out, guards, latent_shape)
    if target.backend is None:
        return {name: StepGraph(file.name) for name, file in files.items()}
    compiled = {
        file: component.step_apart(target, file, portable, progress) for file in dict.fromkeys(files.values())
    }
    return {name: StepGraph(file.name, compiled[file]) for name, file in files.items()}


def _files_of(part: Component | StepGraph, folder: Path) -> list[Path]:
    """The files of a component: its graph with external data, and what was compiled of it."""
    files = sorted(folder.glob(f"{part.file}*"))
    if part.compiled:
        files += [folder / name for name in (part.compiled.file, part.compiled.context) if name]
        files += sorted(folder.glob(f"{part.compiled.weights}*")) if part.compiled.weights else []
    return files


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
    size = sum(f.stat().st_size for f in _files_of(made, job.folder))
    report(Built(name, time.perf_counter() - began, size, made))
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
    return made if all(file.is_file() for file in _files_of(made, folder)) else None


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
