"""The C++ host, built once under sanitizers, and its tools: fixtures for every test that runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "cpp"


def run(*command: object, **options) -> subprocess.CompletedProcess[str]:
    """A command that must succeed, with what it said."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
    return done


def one_at_a_time() -> FileLock:
    """Test processes share the build folders."""
    BUILD.mkdir(parents=True, exist_ok=True)
    return FileLock(BUILD / "lock")


def draw(sanitized: Path, engine: Path, out: Path, *options: object) -> tuple[np.ndarray, dict[str, Any]]:
    """A picture of the C++ host as (H, W, 3), and its record."""
    said = run(sanitized / "safegen-generate", engine, *options, "-o", out, "--json")
    return np.asarray(Image.open(out).convert("RGB")).astype(int), json.loads(said.stdout)["pictures"][0]


@pytest.fixture(scope="session")
def dependencies() -> Path:
    """Headers and libraries, unpacked beside the project from this machine's own package mirror."""
    if not shutil.which("cmake"):
        pytest.skip("cmake is not installed")
    with one_at_a_time():
        run(ROOT / "cpp" / "fetch_dependencies.sh", BUILD / "dependencies", "--fuzz")
    return BUILD / "dependencies" / "usr"


@pytest.fixture(scope="session")
def configure(dependencies: Path) -> Callable[..., Path]:
    """Configure and build the host in a folder of some name, with some options: all of it, or some target."""

    def build(name: str, *options: str, target: str = "all") -> Path:
        with one_at_a_time():
            run(
                "cmake", "-S", ROOT / "cpp", "-B", BUILD / name, f"-DCMAKE_PREFIX_PATH={dependencies}",
                f"-DPython3_EXECUTABLE={sys.executable}", *options,
            )  # fmt: skip
            run("cmake", "--build", BUILD / name, "--parallel", 2, "--target", target)
        return BUILD / name

    return build


@pytest.fixture(scope="session")
def clang(dependencies: Path) -> Path | None:
    """The machine's clang++, or the one unpacked beside the project."""
    if found := shutil.which("clang++") or shutil.which("clang++-14"):
        return Path(found)
    unpacked = dependencies / "lib" / "llvm-14" / "bin" / "clang++"
    if not unpacked.exists():
        return None
    os.environ["LD_LIBRARY_PATH"] = ":".join(map(str, (dependencies / "lib").glob("*-linux-gnu")))
    return unpacked


@pytest.fixture(scope="session")
def sanitized(configure: Callable[..., Path], clang: Path | None) -> Path:
    """A build folder with AddressSanitizer and UndefinedBehaviorSanitizer: clang takes half of g++'s time."""
    options = ["-DSAFEGEN_TESTS=ON", "-DSAFEGEN_SANITIZE=ON", "-DCMAKE_BUILD_TYPE=Debug"]
    return configure("sanitized", *options, *([f"-DCMAKE_CXX_COMPILER={clang}"] if clang else []))
