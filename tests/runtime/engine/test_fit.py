"""Which GPU and library a compiled engine is for. If these fail, it crashes inside the library."""

from pathlib import Path

import pytest

from safegen.engine.trt_session import check_fit, fits
from safegen.errors import EngineError
from safegen.format.manifest import ANY_AMPERE, RTX, TENSORRT, Compiled
from safegen.machine import Gpu


@pytest.mark.parametrize(
    ("backend", "capabilities", "here", "version", "word"),
    [
        (RTX, ["8.6", "8.9", "12.0"], "9.0", "1.7", "this GPU .* has 9.0"),
        (RTX, ["8.9", "12.0"], "7.5", "1.7", "compiled for compute capability 8.9, 12.0"),
        (TENSORRT, ["8.7"], "8.9", "10.3.0", "this GPU .* has 8.9"),
        (TENSORRT, ["8.7"], "8.7", "10.16.1", "compiled by TensorRT 10.3.0"),
    ],
)
def test_an_engine_for_another_gpu_is_refused(
    monkeypatch, backend, capabilities, here, version, word
) -> None:
    monkeypatch.setattr("safegen.engine.trt_session.gpu", lambda: Gpu("Some GPU", here, "12.6", 0))
    with pytest.raises(EngineError, match=word):
        check_fit(Path("x"), Compiled("x", None, backend, "10.3.0", capabilities, {}), version)


def test_an_engine_for_this_gpu_passes(monkeypatch) -> None:
    monkeypatch.setattr("safegen.engine.trt_session.gpu", lambda: Gpu("Some GPU", "8.7", "12.6", 0))
    check_fit(Path("x"), Compiled("x", None, TENSORRT, "10.3.0.26", ["8.7"], {}), "10.3.0.30")
    check_fit(Path("x"), Compiled("x", None, RTX, "1.7", ["8.6", "8.9"], {}), "1.7")


def test_a_portable_engine_outlives_updates_and_not_the_other_way(monkeypatch) -> None:
    monkeypatch.setattr("safegen.engine.trt_session.gpu", lambda: Gpu("Some GPU", "8.9", "12.6", 0))
    portable = Compiled("x", None, TENSORRT, "10.3.0", [ANY_AMPERE], {}, portable=True)
    check_fit(Path("x"), portable, "10.16.1")
    for version in ("10.2.0", "11.0.0"):
        with pytest.raises(EngineError, match="compiled by TensorRT"):
            check_fit(Path("x"), portable, version)
    monkeypatch.setattr("safegen.engine.trt_session.gpu", lambda: Gpu("Old GPU", "7.5", "12.6", 0))
    with pytest.raises(EngineError, match=r"this GPU .* has 7\.5"):
        check_fit(Path("x"), portable, "10.3.0")


def test_shapes_are_checked_before_the_library_sees_them() -> None:
    bounds = ([1, 4, 32, 32], [8, 4, 96, 96])
    assert fits(bounds, (8, 4, 96, 32))
    assert not fits(bounds, (9, 4, 96, 32))
    assert not fits(bounds, (1, 4, 16, 32))
    assert not fits(bounds, (1, 4, 32))
