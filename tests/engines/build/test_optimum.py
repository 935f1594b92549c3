"""A folder that optimum-onnx itself wrote. If this fails, users of optimum need torch after all."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

from safegen import Pipeline
from safegen.format.manifest import read_manifest
from safegen_engines.build import build as engines
from safegen_engines.build.options import Options

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
        install = [python, "-m", "pip", "install", "-q", "--no-compile", "-r", PINS]
        subprocess.run(install, check=True)
        stamp.write_text(PINS.read_text())
    return python


def test_an_engine_from_optimums_folder_draws_the_same_pictures(optimum_python: Path, tmp_path: Path) -> None:
    script = tiny.ROOT / "tests" / "optimum_export.py"
    folder = tmp_path / "optimum"
    subprocess.run(
        [optimum_python, script, tiny.EMBEDDED_CHECKPOINT, folder], check=True, capture_output=True
    )
    options = Options(allow_unguarded=True)
    engines.build(folder, tmp_path / "engine", options)
    parts = read_manifest(tmp_path / "engine").components.values()
    assert {p.parity.reference for p in parts} == {"source graph"}
    both = [
        Pipeline.load(engine)("a photo of a coat", n=3, seed=1, guard="off", steps=12, guidance_scale=3.0)
        for engine in (tmp_path / "engine", tiny.EMBEDDED)
    ]
    for a, b in zip(*both, strict=True):
        assert np.abs(np.asarray(a.image).astype(int) - np.asarray(b.image)).max() <= 2


@pytest.mark.parametrize("family", ["sdxl", "lcm"])
def test_other_families_from_optimums_folder(
    optimum_python: Path, engine_of, tmp_path: Path, family: str
) -> None:
    """Two text encoders with the layer before the last, pooled text, time ids; the embedded guidance."""
    import families

    checkpoint = families.as_transformers_4_reads(families.write(family, tmp_path / "checkpoint"))
    script = tiny.ROOT / "tests" / "optimum_export.py"
    subprocess.run([optimum_python, script, checkpoint, tmp_path / "theirs"], check=True, capture_output=True)
    options = Options(allow_unguarded=True)
    engines.build(checkpoint, tmp_path / "engine", options, export=tiny.copied(tmp_path / "theirs"))
    both = (tmp_path / "engine", engine_of(family)[1])
    pictures = [
        Pipeline.load(engine)("a coat", n=2, seed=1, steps=4, guard="off", guidance_scale=4.0, size=(48, 32))
        for engine in both
    ]
    manifests = [read_manifest(engine) for engine in both]
    assert manifests[0].conditioning.guidance == manifests[1].conditioning.guidance
    assert manifests[0].conditioning.zero_negative == manifests[1].conditioning.zero_negative
    for a, b in zip(*pictures, strict=True):
        assert np.asarray(a.image).std() > 5
        assert np.abs(np.asarray(a.image).astype(int) - np.asarray(b.image)).max() <= 2
