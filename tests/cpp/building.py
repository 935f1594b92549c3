"""Where the C++ host is built for the tests, and how."""

from __future__ import annotations

import subprocess
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
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
