"""What an engine was built from, part by part; and the quick way to see that nothing changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from safegen.engine.trt_session import MODULES
from safegen.files import file_sha256
from safegen.format.manifest import OPSET
from safegen.machine import gpu, jetpack
from safegen_engines.build.target import TARGETS
from safegen_engines.graph import step_graph

LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "numpy",
    "nvidia_modelopt",
)
"""Whatever of these is installed can change a graph."""
WEIGHTS = (".safetensors", ".bin", ".data", ".onnx_data")


def libraries(names: tuple[str, ...] = LIBRARIES) -> dict[str, str]:
    """Versions of the installed libraries that take part in a build."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def files_of(source: Path) -> Iterator[Path]:
    """Every file of a checkpoint that could reach the engine, in a fixed order."""
    return (f for f in sorted(source.rglob("*")) if f.is_file() and not f.name.startswith("."))


def parts(source: Path, options: Mapping[str, object]) -> dict[str, str]:
    """Everything that the engine depends on, by name: digests of files, options, versions, the machine.

    Args:
        source: the checkpoint or ONNX folder.
        options: as :meth:`safegen_engines.build.options.Options.key` gives them, ``target`` among them.
    """
    found = source_parts(source)
    target = TARGETS[str(options.get("target", "cpu"))]
    found |= {"profiles": json.dumps(vars(target.sides))} if target.backend else {}
    found |= {name: json.dumps(value, sort_keys=True) for name, value in options.items()}
    return found | _surroundings(str(options.get("target", "cpu")))


def source_parts(source: Path) -> dict[str, str]:
    """Digests of a checkpoint's or ONNX folder's weights, graphs and everything else."""
    kinds: dict[str, dict[str, str]] = {"weights": {}, "graph": {}, "configuration": {}}
    for file in files_of(source):
        kind = "weights" if file.suffix in WEIGHTS else "graph" if file.suffix == ".onnx" else "configuration"
        kinds[kind][str(file.relative_to(source))] = file_sha256(file)
    return {kind: _digest(files) for kind, files in kinds.items()}


def _surroundings(name: str) -> dict[str, str]:
    """Opset, guard graph, library versions; for engines tied to this machine its GPU, driver and JetPack."""
    target = TARGETS[name]
    found = {"opset": str(OPSET), "guard graph": step_graph.digest(), **libraries()}
    if target.backend:
        found |= libraries(_names(MODULES[target.backend]))
    if target.on_device:
        here = gpu()
        found["gpu"] = here.capability if here else "none"
        found["driver"] = here.driver if here else "none"
        found["jetpack"] = jetpack() or "none"
    return found


def _names(module: str) -> tuple[str, ...]:
    """The distributions that may carry a compiler's module."""
    return module, f"{module}_cu12", f"{module}_cu13"


def fingerprint(found: Mapping[str, str]) -> str:
    """SHA-256 over the parts."""
    return _digest(dict(found))


def explain(then: Mapping[str, str], now: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The parts that differ: name -> (at the build, now); ``none`` where a side lacks it."""
    names = sorted(set(then) | set(now))
    pairs = {name: (then.get(name, "none"), now.get(name, "none")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def today(then: Mapping[str, str], target: str, source: Path | None) -> dict[str, str]:
    """The parts of an engine as they would be if it were built here today.

    Args:
        then: the parts at its build.
        target: its target.
        source: what to build it from; None takes the source as unchanged.
    """
    here = _surroundings(target)
    compilers = (name for module in MODULES.values() for name in _names(module))
    fixed = {k: v for k, v in then.items() if k not in {*LIBRARIES, *compilers}}
    return fixed | here | (source_parts(source) if source else {})


def component_key(folder: Path, precision: str, target: str, **form: bool) -> str:
    """Content key of one built component."""
    options = {"precision": precision, "target": target, **form}
    return fingerprint(parts(folder, options))


def quick_key(source: Path, options: Mapping[str, object]) -> str:
    """The same over sizes and modification times: where it agrees, the contents need no reading."""
    files = {str(f.relative_to(source)): [f.stat().st_size, f.stat().st_mtime_ns] for f in files_of(source)}
    return _digest({"files": files, "options": dict(options), **_surroundings(str(options["target"]))})


def _digest(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
