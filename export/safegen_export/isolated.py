"""The export in a process of its own: torch keeps memory that the builds after it need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safegen.check.isolate import DiedError, in_own_process
from safegen.errors import ExportError, first_line
from safegen_export.checkpoint import Checkpoint


def export_apart(
    checkpoint: Checkpoint, out: Path, *, clip_skip: int, report: Callable[[str, float, int], None]
) -> None:
    """As :func:`safegen_export.to_onnx.export`; torch is not imported into this process.

    Raises:
        ExportError: torch and its like are missing, a component fails, or memory ran out.
    """
    try:
        in_own_process(_export, checkpoint, out, clip_skip, progress=report)
    except DiedError as error:
        raise ExportError(f"{checkpoint.folder}: the export failed: {error}.") from None


def _export(checkpoint: Checkpoint, out: Path, clip_skip: int, report: Any) -> None:
    try:
        from safegen_export.to_onnx import export
    except ImportError as error:
        raise ExportError(
            f"a torch checkpoint needs the extra 'export' ({first_line(error)}):"
            " pip install 'safegen[export]'."
        ) from None
    export(checkpoint, out, clip_skip=clip_skip, report=report)
