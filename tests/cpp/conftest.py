"""The C++ host, built once a run under sanitizers, and its tools."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "cpp"


def run(*command: object, **options) -> subprocess.CompletedProcess[str]:
    """A command that must succeed, with what it said."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
    return done


@pytest.fixture(scope="session")
def dependencies() -> Path:
    """Headers and libraries, unpacked beside the project from this machine's own package mirror."""
    if not shutil.which("cmake"):
        pytest.skip("cmake is not installed")
    run(ROOT / "cpp" / "fetch_dependencies.sh", BUILD / "dependencies", "--fuzz")
    return BUILD / "dependencies" / "usr"


@pytest.fixture(scope="session")
def configure(dependencies: Path):
    """Configure and build the host in a folder with some options."""

    def build(name: str, *options: str) -> Path:
        run(
            "cmake", "-S", ROOT / "cpp", "-B", BUILD / name, f"-DCMAKE_PREFIX_PATH={dependencies}",
            f"-DPython3_EXECUTABLE={sys.executable}", *options,
        )  # fmt: skip
        run("cmake", "--build", BUILD / name, "--parallel", 2)
        return BUILD / name

    return build


@pytest.fixture(scope="session")
def sanitized(configure) -> Path:
    """A build folder with AddressSanitizer and UndefinedBehaviorSanitizer."""
    return configure("sanitized", "-DSAFEGEN_TESTS=ON", "-DSAFEGEN_SANITIZE=ON", "-DCMAKE_BUILD_TYPE=Debug")
