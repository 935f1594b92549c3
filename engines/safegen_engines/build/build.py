"""A checkpoint or ONNX folder to a sealed engine folder: the whole sequence, in one call."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timezone
from pathlib import Path

import safegen
from safegen.check.isolate import Progress
from safegen.engine.text_states import text_guards_of
from safegen.errors import BundleError, SafegenError
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
from safegen_engines.build import component, fingerprint
from safegen_engines.build.components import Report, files_of, make_components
from safegen_engines.build.onnx_folder import TEXT_ENCODERS, Source
from safegen_engines.build.options import Options, check_options, prepare, up_to_date
from safegen_engines.build.source import Export, check_folder, make_source
from safegen_engines.build.target import Target
from safegen_engines.graph import schedule_table, step_graph

BUNDLE = "default.negation"


def build(
    checkpoint: Path,
    out: Path,
    options: Options,
    *,
    export: Export | None = None,
    report: Report = lambda part: None,
    progress: Progress = lambda what, share: None,
) -> Manifest:
    """Build and seal an engine, or return the manifest of one that was built from exactly this.

    Args:
        checkpoint: an ONNX folder, one that describes a bare ONNX file, or what ``export`` takes.
        out: the engine folder.
        options: see :class:`Options`.
        export: what exports a checkpoint; ONNX needs none.
        report: called after each component; never where the engine is up to date.
        progress: called within a component.

    Raises:
        ExportError: no such checkpoint, or what the exporter says.
        UsageError: the target cannot be built here, or an option is for the export of what is ONNX.
        EngineError: a missing file, or a component that fails its parity gate or its compiler. The
            components that were finished before stay for the next run.
        BundleError: the default bundle does not fit the engine.
    """
    check_folder(checkpoint)
    options, target = check_options(options)
    if up_to_date(checkpoint, out, options):
        return read_manifest(out)
    work = prepare(out)
    source = make_source(checkpoint, work, options, export)
    if options.bundle and read_bundle(Path(options.bundle)).info.latent_space != source.latent_space().id:
        raise BundleError(f"{options.bundle}: frozen through another autoencoder than this engine's.")
    components = make_components(source, work, target, options, report, progress)
    _forget(out)
    for name, part in components.items():
        for file in files_of(part, work / name):
            file.replace(out / file.name)
    manifest = _complete(checkpoint, source, out, options, components, target, progress)
    write_manifest(out, manifest)
    _clean(work, checkpoint, options)
    return read_manifest(out)


def _complete(
    checkpoint: Path,
    source: Source,
    out: Path,
    options: Options,
    components: dict[str, Component],
    target: Target,
    progress: Progress,
) -> Manifest:
    """Write what an engine has beside its components, and say what all of it is."""
    windows = {name: _tokenizer(source, out, name) for name in source.components if name in TEXT_ENCODERS}
    guards = [*options.guards, *(["off"] if options.allow_unguarded else [])]
    space, side = source.latent_space(), source.sample_size()
    steps = _steps(out, guards, (space.channels, side, side), target, options.portable, progress)
    defaults = _defaults(source, options)
    schedule = read_schedule(source.scheduler, pixels="vae_decoder" not in source.components)
    table = schedule_table.write(out, schedule, defaults, (side // space.patch) ** 2)
    if options.bundle:
        shutil.copyfile(options.bundle, out / BUNDLE)
    parts = fingerprint.parts(checkpoint, options.key())
    return Manifest(
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
    names = [f.name for part in parts for f in files_of(part, out)]
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
