"""The graphs an engine is built of: an ONNX folder's own, a bare file's, or a checkpoint's, exported."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from safegen.check.isolate import Progress
from safegen.errors import ExportError, SafegenError, UsageError
from safegen_engines.build.onnx_folder import Source, is_onnx_folder, open_source
from safegen_engines.build.options import Options, prepare
from safegen_engines.build.own_model import is_bare, write_onnx_folder
from safegen_engines.build.quantize import QUANTIZED, graph_of, quantize
from safegen_engines.build.target import find_target

Export = Callable[[Path, Path, Options], None]
"""(checkpoint, folder, options): write a checkpoint's graphs into a folder, or finish what an earlier run
left there. The command line gives safegen_export's, which needs torch; this package never imports it."""


def make_source(checkpoint: Path, work: Path, options: Options, export: Export | None) -> Source:
    """Open the graphs of an ONNX folder, or write those of a checkpoint into the work folder first.

    What stops before its first graph is finished leaves no work folder.

    Raises:
        UsageError: an option for the export, and the graphs are there already.
        EngineError: a file is missing, or describes a bare model wrongly.
        ExportError: what the exporter says.
    """
    try:
        return open_source(_graphs(checkpoint, work / "onnx", options, export))
    except SafegenError:
        if not any(work.glob("onnx/*/done.txt")):
            shutil.rmtree(work / "onnx", ignore_errors=True)
        for folder in (work, work.parent):
            if not any(folder.iterdir()):
                folder.rmdir()
        raise


def _graphs(checkpoint: Path, folder: Path, options: Options, export: Export | None) -> Path:
    if is_bare(checkpoint) and not is_onnx_folder(checkpoint):
        write_onnx_folder(checkpoint, folder)
        return folder
    if export is not None and not is_onnx_folder(checkpoint):
        export(checkpoint, folder, options)
        return folder
    if options.clip_skip or options.without_t5 or options.loras or options.null_class is not None:
        raise UsageError(
            "clip_skip, null_class, lora and without_t5 take effect at the export; this is ONNX already."
        )
    return checkpoint  # opening it names the first file that is missing


def write_onnx(
    checkpoint: Path,
    out: Path,
    options: Options,
    *,
    export: Export,
    progress: Progress = lambda what, share: None,
) -> None:
    """Write the ONNX folder alone: a device that has no torch builds from it.

    Args:
        checkpoint: a diffusers folder, or one that describes a bare ONNX file.
        out: the folder to write.
        options: those of the export; a precision in 8 bits, for which a graph is made here.
        export: what exports a checkpoint.
        progress: called while a graph is quantized.

    Raises:
        UsageError: an option for the build, an ONNX folder already, or ``out`` holds other things.
        ExportError: no such folder, or what the exporter says.
        EngineError: a graph cannot be quantized.
    """
    find_target(options.target)
    check_folder(checkpoint)
    _refuse_later_options(options)
    if is_onnx_folder(checkpoint):
        raise UsageError(f"{checkpoint}: is an ONNX folder already; carry it to the device as it is.")
    if out.exists() and not (is_onnx_folder(out) or not any(out.iterdir())):
        raise UsageError(f"{out}: holds other things. Choose a new folder with -o.")
    scratch = out.with_name(f".{out.name}.build")
    source = make_source(checkpoint, prepare(scratch), options, export)
    if options.precision in QUANTIZED:
        quantize(source, options.precision, graph_of(source, options.precision), progress)
    shutil.rmtree(out, ignore_errors=True)
    source.folder.rename(out)
    shutil.rmtree(scratch)


def check_folder(checkpoint: Path) -> None:
    """Refuse what is no folder.

    Raises:
        ExportError: there is none.
    """
    if not checkpoint.is_dir():
        raise ExportError(f"{checkpoint}: no such folder.")


def _refuse_later_options(options: Options) -> None:
    """An option that only building reads would be lost without a word."""
    names = (
        "bundle",
        "guards",
        "allow_unguarded",
        "name",
        "steps",
        "guidance_scale",
        "portable",
        "strip_weights",
    )
    unset = Options()
    given = [name for name in names if getattr(options, name) != getattr(unset, name)]
    if given:
        raise UsageError(
            f"{', '.join(given)}: for the build on the device, not for --onnx-only; give it there."
        )
