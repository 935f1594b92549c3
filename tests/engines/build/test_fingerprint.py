"""What an engine depends on. If these fail, a stale one is taken for a fresh one."""

from __future__ import annotations

from pathlib import Path

import pytest

from safegen_engines.build import fingerprint
from safegen_engines.build.options import Options

pytestmark = pytest.mark.slow


def parts_of(folder: Path, **options: object) -> dict[str, str]:
    return fingerprint.parts(folder, Options(**options).key())


def test_the_same_inputs_give_the_same_fingerprint(onnx_folder: Path) -> None:
    first, second = (fingerprint.fingerprint(parts_of(onnx_folder, target="rtx")) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("target", ["rtx", "orin-jp62"])
def test_each_part_changes_the_fingerprint(onnx_folder: Path, target: str) -> None:
    parts = parts_of(onnx_folder, target=target)
    needed = {"weights", "graph", "configuration", "opset", "precision", "profiles", "guards", "onnx"}
    needed |= {"guard graph"}
    needed |= {"tensorrt_rtx"} if target == "rtx" else {"gpu", "driver", "jetpack"}
    assert needed <= set(parts)
    whole = fingerprint.fingerprint(parts)
    for name in parts:
        changed = fingerprint.fingerprint({**parts, name: "other"})
        assert changed != whole, name
        assert list(fingerprint.explain(parts, {**parts, name: "other"})) == [name]
