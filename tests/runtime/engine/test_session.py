"""Providers of ONNX Runtime. If these fail, the CPU draws where a GPU was asked for, and nobody is told."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import onnxruntime as ort
import pytest

from safegen import Pipeline
from safegen.device import Device, open_device
from safegen.engine.engine import MODELS, Engine
from safegen.engine.session import CUDA, Session, _providers, load_cuda_libraries
from safegen.engine.session import TENSORRT as TENSORRT_PROVIDER
from safegen.errors import EngineError, SafegenError, UsageError


def test_the_tensorrt_provider_is_asked_for_by_name_and_never_replaced(tmp_path: Path) -> None:
    """On the device's own stream, with its engines kept; where it does not load, nothing draws."""

    class Stream:
        ptr = 1234

    given = _providers(Device("tensorrt", np, Stream()))
    names = [p if isinstance(p, str) else p[0] for p in given]
    assert names == [TENSORRT_PROVIDER, CUDA, "CPUExecutionProvider"]
    assert all(options["user_compute_stream"] == "1234" for _, options in given[:2])
    assert given[0][1]["trt_engine_cache_path"].endswith("safegen/tensorrt")
    with pytest.raises(EngineError, match="does not load here"):
        Session(MODELS / "fashion" / "text_encoder.onnx", device=Device("tensorrt", np, Stream()))
    with pytest.raises(SafegenError, match="known are cpu, cuda, tensorrt"):
        open_device("gpu")


def test_cuda_is_loaded_from_its_packages_without_a_word(monkeypatch, capsys) -> None:
    """ONNX Runtime finds CUDA in pip packages only when told to look, and prints what it misses: a
    program that reads --json would read that too."""
    looked = []
    monkeypatch.setattr(
        "onnxruntime.preload_dlls", lambda: (looked.append(1), print("Failed to load libcublas"))
    )
    load_cuda_libraries.cache_clear()
    _providers(Device("cuda", np, stream=SimpleNamespace(ptr=0)))
    assert looked
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("threads", [None, 1, 3, np.int64(2)])
def test_threads_reach_the_session_s_options(monkeypatch, threads: int | None) -> None:
    """An edge box gives drawing a share of its cores; what is left out is ONNX Runtime's to choose."""
    counts, real = [], ort.InferenceSession

    def session(path: Path, options: ort.SessionOptions, **more: object) -> ort.InferenceSession:
        counts.append(options.intra_op_num_threads)
        return real(path, options, **more)

    # this folder's conftest gives every session one thread
    monkeypatch.setattr(ort, "SessionOptions", onnxruntime.capi.onnxruntime_pybind11_state.SessionOptions)
    monkeypatch.setattr(ort, "InferenceSession", session)
    Pipeline.load("pixels", threads=threads)(class_label=1, steps=1)
    Session(MODELS / "fashion" / "text_encoder.onnx", threads=threads)
    assert counts == [threads or 0, threads or 0]


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_no_number_of_threads_is_refused_in_one_line(threads: object) -> None:
    graph = MODELS / "fashion" / "text_encoder.onnx"
    for opens in (Pipeline.load, partial(Engine.open, "pixels"), partial(Session, graph)):
        with pytest.raises(UsageError, match="threads is") as error:
            opens(threads=threads)
        assert len(str(error.value).splitlines()) == 1
