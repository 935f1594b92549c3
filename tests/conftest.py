"""What several tests need: tiny engines, built once a run, and images on disk."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import tiny
from hypothesis import settings

pytest_plugins = ["cpp_host"]
settings.register_profile("safegen", deadline=None)
settings.load_profile("safegen")


@pytest.fixture(scope="session")
def embedded() -> Path:
    """The engine folder that ships in the wheel."""
    return tiny.EMBEDDED


@pytest.fixture(scope="session", autouse=True)
def one_thread_for_torch() -> None:
    """Torch and ONNX Runtime in one process otherwise wait for each other's spinning threads."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny diffusers checkpoint."""
    return tiny.write_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="session")
def onnx_folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint as ONNX graphs with references."""
    from safegen_export.checkpoint import open_checkpoint
    from safegen_export.onnx import export

    out = tmp_path_factory.mktemp("onnx") / "tiny"
    export(open_checkpoint(checkpoint), out, clip_skip=0, report=lambda *figures: None)
    return out


@pytest.fixture(scope="session")
def engines(onnx_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Engines of the tiny checkpoint by prediction type, allowed to draw without a guard."""
    from safegen_engines import build

    folder = tmp_path_factory.mktemp("engines")
    found = {}
    for prediction in ("epsilon", "v_prediction"):
        source = tiny.with_prediction(onnx_folder, prediction, folder / f"{prediction}-onnx")
        options = build.Options(allow_unguarded=True)
        build.build(source, source, folder / prediction, options, lambda part: None)
        found[prediction] = folder / prediction
    return found


@pytest.fixture(scope="session")
def onnx_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Path]]:
    """Family name -> (checkpoint, ONNX folder) of a tiny one, each exported once a run."""
    import families

    from safegen_export.checkpoint import open_checkpoint
    from safegen_export.onnx import export

    made: dict[tuple[str, bool], tuple[Path, Path]] = {}

    def make(name: str, without_t5: bool = False) -> tuple[Path, Path]:
        if (name, without_t5) not in made:
            folder = tmp_path_factory.mktemp(name)
            checkpoint = families.write(name, folder / "checkpoint")
            opened = open_checkpoint(checkpoint, without_t5=without_t5,
                                     null_class=10 if name == "classes" else None)  # fmt: skip
            export(opened, folder / "onnx", clip_skip=0, report=lambda *figures: None)
            made[name, without_t5] = checkpoint, folder / "onnx"
        return made[name, without_t5]

    return make


@pytest.fixture(scope="session")
def engine_of(onnx_of: Callable[..., tuple[Path, Path]]) -> Callable[..., tuple[Path, Path]]:
    """Family name -> (checkpoint, engine for the CPU), each built once a run."""
    from safegen_engines import build

    made: dict[tuple[str, bool], tuple[Path, Path]] = {}

    def make(name: str, without_t5: bool = False) -> tuple[Path, Path]:
        if (name, without_t5) not in made:
            checkpoint, source = onnx_of(name, without_t5)
            options = build.Options(allow_unguarded=True)
            build.build(checkpoint, source, source.parent / "engine", options, lambda part: None)
            made[name, without_t5] = checkpoint, source.parent / "engine"
        return made[name, without_t5]

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
