"""What several tests need: tiny engines, built once a run, and images on disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from filelock import FileLock
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import tiny
from hypothesis import settings

from safegen.check import isolate
from safegen_engines.build import component, quantize
from safegen_engines.build.options import Options

pytest_plugins = ["cpp_host"]
settings.register_profile("safegen", deadline=None)
settings.load_profile("safegen")


class OneThread(ort.SessionOptions):
    """Two workers whose sessions each spin a thread on every core take nearly twice as long."""

    def __init__(self) -> None:
        super().__init__()
        self.intra_op_num_threads = 1


ort.SessionOptions = OneThread

LONGEST = ("family_parity", "rtx", "optimum", "quantize", "cpp_host", "embedded", "build", "cli", "cpp_fuzz")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """``make check`` imports no file of slow tests alone: torch and diffusers would take half its time."""
    quick = "not slow" in config.option.markexpr and collection_path.suffix == ".py"
    return True if quick and "\npytestmark = pytest.mark.slow\n" in collection_path.read_text() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: left to the end, one worker runs them while the other has nothing to do."""
    place = {f"test_{name}": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture(scope="session")
def embedded() -> Path:
    """The engine folder that ships in the wheel."""
    return tiny.EMBEDDED


@pytest.fixture(scope="session", autouse=True)
def one_thread_for_torch() -> None:
    """Torch and ONNX Runtime in one process otherwise wait for each other's spinning threads."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def here(function: Callable[..., Any], *args: Any, progress: Any = None, memory: int | None = None) -> Any:
    """As :func:`safegen.check.isolate.in_own_process`, in this one."""
    return function(*args, progress)


@pytest.fixture(scope="session", autouse=True)
def builds_stay_in_this_process() -> Iterator[None]:
    """A process for each component takes seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (component, quantize):
            patch.setattr(module, "in_own_process", here)
        yield


@pytest.fixture
def own_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each component in its own process, as users have it."""
    monkeypatch.setattr(component, "in_own_process", isolate.in_own_process)


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """(name, make) -> a folder, made at its first use in this run, whichever worker asks."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder_of(name: str, make: Callable[[Path], object]) -> Path:
        folder, scratch = shared / "once" / name, shared / "once" / f"{name}.part"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                shutil.rmtree(scratch, ignore_errors=True)
                scratch.mkdir()
                make(scratch)
                scratch.rename(folder)
        return folder

    return folder_of


@pytest.fixture(scope="session")
def exported(once: Once) -> Callable[[Any, Path], Path]:
    """(checkpoint, folder) -> the folder with its ONNX graphs; parts that checkpoints share, once a run."""
    parts = once("parts", lambda folder: None)

    def make(opened: Any, folder: Path) -> Path:
        from safegen_export import to_onnx

        keys = {name: to_onnx._key(opened, name, 0) for name in opened.components}
        for name, key in keys.items():
            if (parts / key).exists():
                shutil.copytree(parts / key, folder / name)
        to_onnx.export(opened, folder, clip_skip=0, report=lambda *figures: None)
        for name, key in keys.items():
            if not (parts / key).exists():
                scratch = tempfile.mkdtemp(dir=parts)
                shutil.copytree(folder / name, scratch, dirs_exist_ok=True)
                with contextlib.suppress(OSError):  # the other worker was first
                    Path(scratch).rename(parts / key)
        return folder

    return make


@pytest.fixture(scope="session")
def checkpoint(once: Once) -> Path:
    """A tiny diffusers checkpoint."""
    return once("tiny", lambda folder: tiny.write_checkpoint(folder / "checkpoint")) / "checkpoint"


@pytest.fixture(scope="session")
def onnx_folder(checkpoint: Path, exported: Callable[[Any, Path], Path], once: Once) -> Path:
    """The tiny checkpoint as ONNX graphs with references."""
    from safegen_export.checkpoint import open_checkpoint

    return once("tiny-onnx", lambda folder: exported(open_checkpoint(checkpoint), folder / "tiny")) / "tiny"


@pytest.fixture(scope="session")
def engines(onnx_folder: Path, once: Once) -> dict[str, Path]:
    """Engines of the tiny checkpoint by prediction type, allowed to draw without a guard."""
    from safegen_engines.build import build

    predictions = ("epsilon", "v_prediction")

    def make(folder: Path) -> None:
        for prediction in predictions:
            source = tiny.with_prediction(onnx_folder, prediction, folder / f"{prediction}-onnx")
            options = Options(allow_unguarded=True)
            build.build(source, folder / prediction, options)

    folder = once("tiny-engines", make)
    return {prediction: folder / prediction for prediction in predictions}


@pytest.fixture(scope="session")
def onnx_of(exported: Callable[[Any, Path], Path], once: Once) -> Callable[..., tuple[Path, Path]]:
    """Family name -> (checkpoint, ONNX folder) of a tiny one, each exported once a run."""
    import families

    from safegen_export.checkpoint import open_checkpoint

    def make(name: str, without_t5: bool = False) -> tuple[Path, Path]:
        def write(folder: Path) -> None:
            opened = open_checkpoint(
                families.write(name, folder / "checkpoint"),
                without_t5=without_t5,
                null_class=10 if name == "classes" else None,
            )
            exported(opened, folder / "onnx")

        folder = once(f"{name}{'-without-t5' if without_t5 else ''}", write)
        return folder / "checkpoint", folder / "onnx"

    return make


@pytest.fixture(scope="session")
def engine_of(onnx_of: Callable[..., tuple[Path, Path]], once: Once) -> Callable[..., tuple[Path, Path]]:
    """Family name -> (checkpoint, engine for the CPU), each built once a run."""
    from safegen_engines.build import build

    def make(name: str, without_t5: bool = False) -> tuple[Path, Path]:
        checkpoint, source = onnx_of(name, without_t5)

        def write(folder: Path) -> None:
            options = Options(allow_unguarded=True)
            build.build(checkpoint, folder / "engine", options, export=tiny.copied(source))

        return checkpoint, once(f"{source.parent.name}-engine", write) / "engine"

    return make


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    """Twelve small pictures of noise."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (40, 30, 3), np.uint8)).save(folder / f"{i:02}.png")
    return folder
