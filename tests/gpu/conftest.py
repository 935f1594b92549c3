"""The GPU matrix: what this machine can build, and the report that it leaves."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny

from safegen.check.doctor import machine
from safegen.device import Device, open_device
from safegen.engine.session import CUDA, available_providers
from safegen.machine import gpu, jetpack
from safegen_engines.build import build
from safegen_engines.build.components import Built
from safegen_engines.build.options import Options
from safegen_engines.build.target import TARGETS

REPORT = tiny.ROOT / "gpu-report.json"
rows: list[dict[str, Any]] = []
outcomes: dict[str, str] = {}


def targets_here() -> list[str]:
    """Every target that this machine can both build and run."""
    here = gpu()
    if here is None:
        return []
    found = ["cuda"] if CUDA in available_providers() else []  # PyPI's wheel has none for a Jetson
    if importlib.util.find_spec("tensorrt_rtx") and here.capability in TARGETS["rtx"].capabilities:
        found.append("rtx")
    if importlib.util.find_spec("tensorrt"):
        import tensorrt

        jetsons = (t for t in TARGETS.values() if t.machine and here.capability in t.capabilities)
        fitting = [t.name for t in jetsons if tensorrt.__version__.startswith(str(t.versions[0]) + ".")]
        found.append(fitting[0] if jetpack() and fitting else "tensorrt")
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "target" in metafunc.fixturenames:
        metafunc.parametrize("target", targets_here() or ["no-gpu"], scope="session")


@pytest.fixture(scope="session", autouse=True)
def device() -> Device:
    """The GPU. Without one these tests fail rather than pass by skipping."""
    return open_device("cuda")


@pytest.fixture(scope="session")
def fashion_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as ONNX: exported here, or carried here where there is no torch."""
    if carried := os.environ.get("SAFEGEN_GPU_ONNX"):
        return Path(carried)
    if importlib.util.find_spec("torch") is None:
        pytest.exit(
            "no torch here: on a workstation run 'safegen build-engine training/checkpoint --onnx-only -o"
            " fashion-onnx', carry the folder here and set SAFEGEN_GPU_ONNX to it."
        )
    from safegen_export.checkpoint import open_checkpoint
    from safegen_export.to_onnx import export

    out = tmp_path_factory.mktemp("gpu") / "onnx"
    export(open_checkpoint(tiny.EMBEDDED_CHECKPOINT), out, clip_skip=0, report=lambda *figures: None)
    return out


@pytest.fixture(scope="session")
def engine_for(fashion_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Target -> the embedded model built for it, in its usual precision or another, with its bundle."""
    made: dict[tuple[str, str | None], Path] = {}

    def make(target: str, precision: str | None = None) -> Path:
        if (target, precision) not in made:
            out = tmp_path_factory.mktemp(target) / "engine"
            options = Options(
                target=target, precision=precision or TARGETS[target].precisions[0], allow_unguarded=True,
                steps=25, guidance_scale=3.0, bundle=str(tiny.EMBEDDED / "default.negation"),
            )  # fmt: skip
            built: list[Built] = []
            build.build(fashion_onnx, out, options, report=built.append)
            rows.extend(
                {
                    "what": "build",
                    "target": target,
                    "precision": b.component.precision,
                    "component": b.name,
                    "seconds": b.seconds,
                    "bytes": b.bytes,
                }
                for b in built
            )
            made[target, precision] = out
        return made[target, precision]

    return make


@pytest.fixture
def note() -> Callable[..., None]:
    """Add a row of figures to the report."""
    return lambda **figures: rows.append(figures)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    result = outcome.get_result()  # type: ignore[attr-defined]
    if result.when == "call" or result.failed:
        outcomes[item.nodeid] = result.outcome


def pytest_sessionfinish() -> None:
    if outcomes:
        REPORT.write_text(json.dumps({"machine": machine(), "tests": outcomes, "figures": rows}, indent=1))
        print(f"\n{REPORT}: attach it to an issue")
