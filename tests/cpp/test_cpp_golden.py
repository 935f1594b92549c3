"""Malformed bundles in both hosts. If these fail, a file that one host refuses guards in the other."""

from __future__ import annotations

from pathlib import Path

import malformed
import pytest
from cpp_host import run

from safegen.errors import BundleError
from safegen.format.bundle import read_bundle
from safegen.guard.settings import MODES, RIVALS

pytestmark = pytest.mark.slow


def verdicts(sanitized: Path, paths: list[Path]) -> list[str]:
    """What the C++ host says of each bundle, one line a file."""
    said = run(sanitized / "tests" / "verify", *paths).stdout.splitlines()
    assert len(said) == len(paths)
    return said


def in_python(path: Path) -> str:
    try:
        read_bundle(path)
    except BundleError:
        return "3"
    return "read"


def test_both_hosts_refuse_and_read_the_same(sanitized: Path, tmp_path: Path) -> None:
    paths = malformed.write_all(tmp_path, {**malformed.REFUSED, **malformed.READ})
    for path, line in zip(paths, verdicts(sanitized, paths), strict=True):
        code, _, message = line.partition(" ")
        assert code == in_python(path), f"{path.stem}: {line}"
        assert code == ("3" if path.stem in malformed.REFUSED else "read"), path.stem
        assert code == "read" or message.startswith(f"{path}: ")


def test_both_hosts_refuse_a_broken_file(sanitized: Path, tmp_path: Path) -> None:
    """Cut, longer, and changed without a new seal."""
    whole = (malformed.GOLDEN / "golden.negation").read_bytes()
    changed = bytearray(whole)
    changed[-1] ^= 1
    broken = {
        "cut": whole[:-1],
        "longer": whole + b"\0",
        "changed": changed,
        "empty": b"",
        "short": whole[:7],
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in (*broken, "missing")]
    assert {line[0] for line in verdicts(sanitized, paths)} == {"3"}
    assert {in_python(path) for path in paths} == {"3"}


def test_bytes_that_no_tensor_has_are_refused_though_sealed(sanitized: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.negation"
    whole = (malformed.GOLDEN / "golden.negation").read_bytes()
    path.write_bytes(
        whole.replace(read_bundle(malformed.GOLDEN / "golden.negation").digest.encode(), b"0" * 64) + b"\0"
    )
    malformed.seal(path)
    assert verdicts(sanitized, [path])[0][0] == in_python(path) == "3"


def test_a_guard_of_research_is_python_s_alone(sanitized: Path, tmp_path: Path) -> None:
    """Python reads such a bundle; here one line says that it cannot be drawn with."""
    changes = {mode: malformed.key("guard", {"mode": mode}) for mode in MODES}
    paths = malformed.write_all(tmp_path, changes)
    for path, line in zip(paths, verdicts(sanitized, paths), strict=True):
        assert in_python(path) == "read"
        refused = (
            f"4 {path}: the guard '{path.stem}' is for research and runs in the Python package alone;"
            " this host draws with ratio, paper, official, off."
        )
        assert line == (refused if path.stem in RIVALS else "read")
