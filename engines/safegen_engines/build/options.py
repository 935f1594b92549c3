"""What the user may choose of a build, what of it cannot be built here, and whether it was built before."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safegen
from safegen.engine.trt_session import import_module
from safegen.errors import EngineError, SafegenError, UsageError
from safegen.files import file_sha256
from safegen.format.bundle import read_bundle
from safegen.format.manifest import FILE_NAME, TENSORRT, read_manifest
from safegen.guard.settings import SIGNABLE
from safegen.machine import gpu
from safegen_engines.build import fingerprint
from safegen_engines.build.target import Target, check_machine, check_version, find_target, runs_fp8

WORK = ".build"


@dataclass(frozen=True)
class Options:
    """What the user may choose. All of it enters the fingerprint."""

    target: str = "cpu"
    precision: str = ""
    """Empty: the target's usual one, before anything reads it."""
    clip_skip: int = 0
    null_class: int | None = None
    without_t5: bool = False
    loras: tuple[tuple[Path, float], ...] = ()
    """Files and scales, fused when the checkpoint is exported."""
    portable: bool = False
    """TensorRT engines that outlive its updates, and run on other GPUs:
    :class:`safegen_engines.graph.trt_compile.Form`."""
    strip_weights: bool = False
    """Compiled engines without weights, which they take from a graph beside them."""
    allow_unguarded: bool = False
    guards: tuple[str, ...] = SIGNABLE
    name: str | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    bundle: str | None = None
    """Path of the default bundle."""

    def key(self) -> dict[str, Any]:
        """The options as the fingerprint sees them: a bundle by its content."""
        content = file_sha256(Path(self.bundle)) if self.bundle else None
        loras = [[file_sha256(path), scale] for path, scale in self.loras]
        return {**self.__dict__, "bundle": content, "loras": loras, "safegen": safegen.__version__}


def up_to_date(source: Path, out: Path, options: Options) -> bool:
    """Whether ``out`` was built from exactly this. Reads file contents only if their times changed."""
    try:
        manifest = read_manifest(out)
        stored = json.loads((out / WORK / "source.json").read_text())
    except (SafegenError, OSError, ValueError):
        return False
    if any(not (out / n).is_file() or (out / n).stat().st_size != f.bytes for n, f in manifest.files.items()):
        return False
    if stored == {"quick_key": fingerprint.quick_key(source, options.key())}:
        return True
    return manifest.fingerprint == fingerprint.fingerprint(fingerprint.parts(source, options.key()))


def check_options(options: Options) -> tuple[Options, Target]:
    """Refuse what cannot be built here, before anything is exported; returns the options with a precision.

    Raises:
        UsageError: no such target or precision, another machine, or a library of another version.
        EngineError: the library is not installed.
        BundleError: the default bundle cannot be read.
    """
    target = find_target(options.target, options.precision or None)
    options = replace(options, precision=options.precision or target.precisions[0])
    here = gpu()
    check_machine(target, platform.machine(), here.capability if here else None)
    if target.on_device and options.precision == "fp8" and here and not runs_fp8(here.capability):
        raise UsageError(
            f"precision fp8 needs compute capability 8.9 or newer; this GPU has {here.capability}."
        )
    if options.portable and target.backend != TENSORRT:
        raise UsageError(f"portable: is for engines of TensorRT; the target is {target.name}.")
    if options.strip_weights and (not target.backend or here is None):
        why = "compiles none" if not target.backend else "can do that only where an NVIDIA GPU is"
        raise UsageError(f"strip_weights: building for {target.name} {why}.")
    if target.backend:
        check_version(target, str(import_module(target.backend).__version__))
    if options.bundle:
        read_bundle(Path(options.bundle))
    return options, target


def prepare(out: Path) -> Path:
    """Make or take up the work folder of a build.

    Raises:
        EngineError: the folder holds something that is no engine.
    """
    strangers = (
        out.is_dir() and any(out.iterdir()) and not ((out / FILE_NAME).is_file() or (out / WORK).is_dir())
    )
    if strangers or out.is_file():
        raise EngineError(f"{out}: holds other things than an engine. Choose a new folder with -o.")
    (out / WORK).mkdir(parents=True, exist_ok=True)
    return out / WORK
