"""An ONNX folder to a sealed engine folder: one component after the other, resumable, gated."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import safegen
from safegen.bundle import read_bundle
from safegen.errors import BundleError, EngineError, SafegenError
from safegen.guard_settings import GUARDS
from safegen.manifest import (
    FILE_NAME,
    Component,
    Defaults,
    File,
    Manifest,
    Parity,
    Tensor,
    TextWindow,
    read_manifest,
    write_manifest,
)  # fmt: skip
from safegen.seal import file_sha256
from safegen.session import Session
from safegen.solver import CONSISTENCY
from safegen_engines import fingerprint, ort, parity
from safegen_engines.source import TEXT_ENCODERS, VAE, Source, open_source
from safegen_engines.target import find_target

WORK = ".build"
BUNDLE = "default.negation"


@dataclass(frozen=True)
class Options:
    """What the user may choose. All of it enters the fingerprint."""

    target: str = "cpu"
    precision: str = "fp32"
    clip_skip: int = 0
    null_class: int | None = None
    without_t5: bool = False
    loras: tuple[str, ...] = ()
    """``FILE`` or ``FILE:SCALE``, fused when the checkpoint is exported."""
    allow_unguarded: bool = False
    guards: tuple[str, ...] = GUARDS
    name: str | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    bundle: str | None = None
    """Path of the default bundle."""

    def key(self) -> dict[str, Any]:
        """The options as the fingerprint sees them: a bundle by its content."""
        content = file_sha256(Path(self.bundle)) if self.bundle else None
        loras = [[text, *(file_sha256(p) for p in _files(text))] for text in self.loras]
        return {**self.__dict__, "bundle": content, "loras": loras, "safegen": safegen.__version__}


def _files(lora: str) -> list[Path]:
    """The file that ``FILE:SCALE`` names."""
    return [path for path in (Path(lora), Path(lora.rpartition(":")[0])) if path.is_file()][:1]


@dataclass(frozen=True)
class Built:
    """One finished component."""

    name: str
    seconds: float
    bytes: int
    parity: Parity
    precision: str
    """fp32 where half precision was asked for and gave no finite numbers."""
    optimized: bool


Report = Callable[[Built], None]


def up_to_date(source: Path, out: Path, options: Options) -> bool:
    """Whether ``out`` was built from exactly this. Reads file contents only if their times changed."""
    try:
        manifest = read_manifest(out)
        stored = json.loads((out / WORK / "source.json").read_text())
    except (SafegenError, OSError, ValueError):
        return False
    if any(not (out / n).is_file() or (out / n).stat().st_size != f.bytes
           for n, f in manifest.files.items()):  # fmt: skip
        return False
    if stored == {"quick_key": fingerprint.quick_key(source, options.key())}:
        return True
    return manifest.fingerprint == fingerprint.fingerprint(source, options.key())


def prepare(out: Path) -> Path:
    """Make or take up the work folder of a build.

    Raises:
        EngineError: the folder holds something that is no engine.
    """
    strangers = out.is_dir() and any(out.iterdir()) and not (
        (out / FILE_NAME).is_file() or (out / WORK).is_dir()
    )  # fmt: skip
    if strangers or out.is_file():
        raise EngineError(f"{out}: holds other things than an engine. Choose a new folder with -o.")
    (out / WORK).mkdir(parents=True, exist_ok=True)
    return out / WORK


def build(checkpoint: Path, onnx_folder: Path, out: Path, options: Options, report: Report) -> Manifest:
    """Build and seal an engine.

    Args:
        checkpoint: what the fingerprint covers.
        onnx_folder: the graphs; the same folder where the checkpoint is ONNX already.
        out: the engine folder.
        options: see :class:`Options`.
        report: called after each component.

    Raises:
        EngineError: a missing file, or a component that fails its parity gate.
        BundleError: the default bundle does not fit the engine.
    """
    find_target(options.target, options.precision)
    source = open_source(onnx_folder)
    work = prepare(out)
    if options.bundle and read_bundle(Path(options.bundle)).info.latent_space != source.latent_space().id:
        raise BundleError(f"{options.bundle}: frozen through another autoencoder than this engine's.")
    components = {name: _component(source, work, name, options, report) for name in source.components}
    _forget(out)
    for folder in (work / name for name in source.components):
        for file in folder.glob("*.onnx*"):
            file.replace(out / file.name)
    windows = {name: _tokenizer(source, out, name) for name in source.components if name in TEXT_ENCODERS}
    if options.bundle:
        shutil.copyfile(options.bundle, out / BUNDLE)
    manifest = Manifest(
        name=options.name or checkpoint.resolve().name,
        target=options.target,
        precision=options.precision,
        fingerprint=fingerprint.fingerprint(checkpoint, options.key()),
        built_with={"safegen": safegen.__version__, **fingerprint.libraries()},
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        components=components,
        model=source.model,
        conditioning=source.conditioning,
        latent_space=source.latent_space(),
        tokenizers=windows,
        scheduler=source.scheduler,
        defaults=_defaults(source, options),
        guards=[*options.guards, *(["off"] if options.allow_unguarded else [])],
        bundle=BUNDLE if options.bundle else None,
        files=_digests(out, components, windows, bool(options.bundle)),
    )
    write_manifest(out, manifest)
    _clean(work, checkpoint, options)
    return manifest


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
    out: Path, components: dict[str, Component], windows: dict[str, TextWindow], bundle: bool
) -> dict[str, File]:
    names = [f.name for c in components.values() for f in sorted(out.glob(f"{c.file}*"))]
    names += [*(w.file for w in windows.values()), *([BUNDLE] if bundle else [])]
    return {n: File(file_sha256(out / n), (out / n).stat().st_size) for n in names}


def _clean(work: Path, checkpoint: Path, options: Options) -> None:
    shutil.rmtree(work)
    work.mkdir()
    key = fingerprint.quick_key(checkpoint, options.key())
    (work / "source.json").write_text(json.dumps({"quick_key": key}))


def _component(source: Source, work: Path, name: str, options: Options, report: Report) -> Component:
    """Build one component, or take it from an interrupted run with the same content key."""
    began = time.perf_counter()
    folder, mark = work / name, work / name / "done.json"
    precision = _precision(source, name, options.precision)
    key = fingerprint.fingerprint(source.folder / name, {"precision": precision})
    stored = json.loads(mark.read_text()) if mark.is_file() else {}
    if stored.get("key") != key or not (folder / f"{name}.onnx").is_file():
        shutil.rmtree(folder / "parts", ignore_errors=True)
        folder.mkdir(exist_ok=True)
        try:
            stored = {"key": key, **_make(source, folder, name, precision)}
        except parity.NotFiniteError:
            if precision == "fp32":
                raise
            stored = {"key": key, **_make(source, folder, name, "fp32")}
        mark.write_text(json.dumps(stored))
    path = folder / f"{name}.onnx"
    session = Session(path)
    checked = Parity(**stored["parity"])
    size = sum(f.stat().st_size for f in folder.glob("*.onnx*"))
    report(Built(name, time.perf_counter() - began, size, checked, stored["precision"], stored["optimized"]))
    return Component(
        file=path.name,
        inputs={k: Tensor(d, s) for k, (d, s) in session.inputs.items()},
        outputs={k: Tensor(d, s) for k, (d, s) in session.outputs.items()},
        parity=checked,
        precision=stored["precision"],
        optimized_for="ONNX Runtime's CPU provider, any processor" if stored["optimized"] else None,
    )


def _precision(source: Source, name: str, wanted: str) -> str:
    """fp32 for SDXL's autoencoder unless it is marked safe: it overflows in half precision."""
    unsafe = "text_embeds" in source.conditioning.text and source.config(name).get("force_upcast", True)
    return "fp32" if name in VAE and unsafe else wanted


def _make(source: Source, folder: Path, name: str, precision: str) -> dict[str, Any]:
    model = ort.load_graph(source.graph(name))
    source.check_inputs(name, {i.name for i in model.graph.input})
    parts = folder / "parts"
    parts.mkdir(exist_ok=True)
    plain, optimized = parts / f"{name}.onnx", parts / f"optimized-{name}.onnx"
    ort.save_graph(ort.to_fp16(model) if precision == "fp16" else model, plain)
    del model
    ort.optimize_offline(plain, optimized)
    reference, cases = parity.read_cases(source, name)
    better = ort.faster(plain, optimized, cases[0][0])
    chosen = optimized if better else plain
    checked = parity.check(name, Session(chosen), cases, reference, precision)
    if better:
        ort.save_graph(ort.load_graph(optimized), plain)
    for file in parts.glob(f"{plain.name}*"):
        file.replace(folder / file.name)
    shutil.rmtree(parts)
    return {
        "precision": precision,
        "parity": {f: getattr(checked, f) for f in checked.__struct_fields__},
        "optimized": better,
    }
