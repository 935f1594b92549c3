"""Messages of other libraries. If these fail, one that says nothing or a page ends in a traceback."""

from pathlib import Path

import pytest

from safegen.check import doctor
from safegen.engine import session, trt_session
from safegen.engine.engine import MODELS
from safegen.errors import LONGEST_REASON, EngineError, first_line


def raises(error: Exception):
    def function(*args, **options):
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError(), "ValueError"),
        (ValueError(" \n "), "ValueError"),
        (RuntimeError("no kernel\n  at line 3\n  at line 9"), "no kernel"),
        (RuntimeError("\n\nafter empty lines"), "after empty lines"),
        (OSError("x" * 9999), "x" * LONGEST_REASON),
    ],
)
def test_a_message_becomes_one_line(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_a_provider_that_says_nothing_is_one_that_does_not_work(monkeypatch) -> None:
    """The doctor goes on to the next."""
    monkeypatch.setattr(doctor, "_run_on", raises(ValueError()))
    found = doctor.probe(MODELS / "fashion" / "text_encoder.onnx")
    assert {(p.works, p.detail) for p in found} == {(False, "ValueError")}
    assert "CPUExecutionProvider" in {p.provider for p in found}


def test_a_compiler_that_says_nothing_is_one_that_does_not_work(monkeypatch) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(doctor, "import_module", raises(RuntimeError()))
    assert {p.detail for p in doctor.probe_compilers()} == {"RuntimeError"}


def test_a_compiler_that_does_not_load_is_one_line(monkeypatch) -> None:
    wrong = ImportError("libnvinfer.so.10: cannot open\nwhile loading\ntensorrt")
    monkeypatch.setattr(trt_session.importlib, "import_module", raises(wrong))
    with pytest.raises(EngineError, match="cannot open") as caught:
        trt_session.import_module("tensorrt")
    assert "\n" not in str(caught.value)


def test_a_graph_that_fails_names_its_file_and_one_line(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(session.ort, "InferenceSession", raises(RuntimeError("bad node\nstack\nstack")))
    with pytest.raises(EngineError, match=r"x\.onnx: ONNX Runtime cannot load it \(bad node\)\.$"):
        session.Session(tmp_path / "x.onnx")
