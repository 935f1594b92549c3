"""Sources that a test may change."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def source(onnx_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(onnx_folder, tmp_path / "source"))


@pytest.fixture
def bare_source(source: Path) -> Path:
    """As optimum writes it: no references, no export.json."""
    (source / "export.json").unlink()
    for file in source.glob("*/reference.npz"):
        file.unlink()
    return source
