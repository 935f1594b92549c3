"""A folder that optimum-onnx itself wrote. If this fails, users of optimum need torch after all."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

from safegen import Pipeline
from safegen.manifest import read_manifest
from safegen_engines import build as engines

pytestmark = pytest.mark.slow

ENVIRONMENT = tiny.ROOT / "build" / "optimum-venv"
PINS = tiny.ROOT / "requirements" / "optimum.txt"


@pytest.fixture(scope="module")
def optimum_python() -> Path:
    """An environment of optimum's own: it cannot live beside transformers 5."""
    python, stamp = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "done.txt"
    if not stamp.is_file() or stamp.read_text() != PINS.read_text():
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
        install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", PINS]
        subprocess.run(install, check=True)
        stamp.write_text(PINS.read_text())
    return python


def test_an_engine_from_optimums_folder_draws_the_same_pictures(optimum_python: Path, tmp_path: Path) -> None:
    script = tiny.ROOT / "tests" / "optimum_export.py"
    folder = tmp_path / "optimum"
    subprocess.run(
        [optimum_python, script, tiny.EMBEDDED_CHECKPOINT, folder], check=True, capture_output=True
    )
    options = engines.Options(allow_unguarded=True)
    engines.build(folder, folder, tmp_path / "engine", options, lambda part: None)
    parts = read_manifest(tmp_path / "engine").components.values()
    assert {p.parity.reference for p in parts} == {"source graph"}
    both = [
        Pipeline.load(engine)("a photo of a coat", n=3, seed=1, guard="off", steps=12, guidance_scale=3.0)
        for engine in (tmp_path / "engine", tiny.EMBEDDED)
    ]
    for a, b in zip(*both, strict=True):
        assert np.abs(np.asarray(a.image).astype(int) - np.asarray(b.image)).max() <= 2
