"""The C++ host, built once under sanitizers, and its tools."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from building import BUILD, ROOT, one_at_a_time, run


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
    """Configure and build the host in a folder of some name, with some options."""

    def build(name: str, *options: str) -> Path:
        with one_at_a_time():
            run(
                "cmake", "-S", ROOT / "cpp", "-B", BUILD / name, f"-DCMAKE_PREFIX_PATH={dependencies}",
                f"-DPython3_EXECUTABLE={sys.executable}", *options,
            )  # fmt: skip
            run("cmake", "--build", BUILD / name, "--parallel", 2)
        return BUILD / name

    return build


@pytest.fixture(scope="session")
def sanitized(configure: Callable[..., Path]) -> Path:
    """A build folder with AddressSanitizer and UndefinedBehaviorSanitizer."""
    return configure("sanitized", "-DSAFEGEN_TESTS=ON", "-DSAFEGEN_SANITIZE=ON", "-DCMAKE_BUILD_TYPE=Debug")
