"""What an engine was built from, as one digest; and the quick way to see that nothing changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from safegen.seal import file_sha256

LIBRARIES = ("torch", "diffusers", "transformers", "onnx", "onnxscript", "onnxruntime", "numpy")
"""Whatever of these is installed can change a graph."""


def libraries() -> dict[str, str]:
    """Versions of the installed libraries that take part in a build."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def files_of(source: Path) -> Iterator[Path]:
    """Every file of a checkpoint that could reach the engine, in a fixed order."""
    return (f for f in sorted(source.rglob("*")) if f.is_file() and not f.name.startswith("."))


def fingerprint(source: Path, options: Mapping[str, object]) -> str:
    """SHA-256 over the source's files, the options and the library versions."""
    parts = {
        "files": {str(f.relative_to(source)): file_sha256(f) for f in files_of(source)},
        "options": options,
        "libraries": libraries(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def quick_key(source: Path, options: Mapping[str, object]) -> str:
    """The same over sizes and modification times: where it agrees, the contents need no reading."""
    files = {str(f.relative_to(source)): (f.stat().st_size, f.stat().st_mtime_ns)
             for f in files_of(source)}  # fmt: skip
    parts = {"files": files, "options": options, "libraries": libraries()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
