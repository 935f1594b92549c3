"""The TensorRT session over a stand-in for the library that doubles its input by raw pointer.

If these fail, a GPU host reads stale buffers: one prompt's picture under another's name. That the real
library behaves as the stand-in does is for tests/gpu/ to show.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from safegen.device import Device
from safegen.engine import trt_session
from safegen.engine.trt_session import TrtSession
from safegen.errors import EngineError
from safegen.format.manifest import RTX, TENSORRT, Compiled
from safegen.machine import Gpu

PROFILE = {"x": [[1, 2], [2, 2], [4, 2]]}


class DeviceArray(np.ndarray):
    """NumPy memory with CuPy's way to its address."""

    @property
    def data(self) -> SimpleNamespace:
        return SimpleNamespace(ptr=self.ctypes.data)


class Stream:
    """Runs what is asked at once; while capturing, notes it."""

    ptr = 7

    def __init__(self) -> None:
        self.captured = None
        self.captures = self.replays = 0

    def begin_capture(self) -> None:
        self.captured = []

    def end_capture(self):
        work, self.captured = self.captured, None
        self.captures += 1

        def launch(stream) -> None:
            self.replays += 1
            for run in work:
                run()

        return SimpleNamespace(launch=launch)


def at(address: int, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)


class Context:
    def __init__(self, stream: Stream) -> None:
        self.stream, self.shape, self.addresses = stream, None, {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == Stream.ptr
        shape, addresses = self.shape, dict(self.addresses)  # fixed at capture, as CUDA does

        def run() -> None:
            at(addresses["y"], shape)[...] = 2 * at(addresses["x"], shape)

        run() if self.stream.captured is None else self.stream.captured.append(run)
        return True


class Files(list):
    """Notes the graphs whose weights are taken; has those of one file alone."""

    def append(self, file: str) -> bool:
        super().append(file)
        return file.endswith("x_typed.onnx")


def library(stream: Stream, validity: str = "VALID") -> SimpleNamespace:
    """A module with what the session uses of tensorrt and tensorrt_rtx."""
    kept: list[bytes] = []
    refitted = Files()
    config = SimpleNamespace(
        create_runtime_cache=lambda: SimpleNamespace(serialize=lambda: b"kernels", deserialize=kept.append),
        set_runtime_cache=lambda cache: True,
    )
    engine = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda i: "xy"[i],
        get_tensor_mode=lambda name: name,
        get_tensor_dtype=lambda name: np.float32,
        get_tensor_shape=lambda name: (-1, 2),
        create_execution_context=lambda *config: Context(stream),
        create_runtime_config=lambda: config,
    )
    runtime = SimpleNamespace(
        deserialize_cuda_engine=lambda content: engine if content == b"engine" else None,
        get_engine_validity=lambda content: (validity, 2),
    )

    class Log:
        ERROR, INTERNAL_ERROR = 1, 2

    return SimpleNamespace(
        Refitter=lambda engine, log: SimpleNamespace(refit_cuda_engine=lambda: True),
        OnnxParserRefitter=lambda refitter, log: SimpleNamespace(refit_from_file=refitted.append),
        refitted=refitted,
        __version__="10.3.0", ILogger=Log, Runtime=lambda log: runtime, nptype=lambda dtype: dtype,
        TensorIOMode=SimpleNamespace(INPUT="x"), CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE=1),
        EngineValidity=SimpleNamespace(INVALID="INVALID"), kept=kept,
        EngineInvalidityDiagnostics=SimpleNamespace(__members__={"UNSUPPORTED_CC": 2, "CUDA_ERROR": 64}),
    )  # fmt: skip


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
def open_session(tmp_path: Path, monkeypatch, stream: Stream):
    """(backend, cuda_graphs, validity, content) -> a session over the stand-in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(trt_session, "gpu", lambda: Gpu("Some GPU", "8.9", "12.6", 0))
    xp = SimpleNamespace(
        empty=lambda shape, dtype: np.empty(shape, dtype).view(DeviceArray), asarray=np.asarray
    )

    def open_it(backend=TENSORRT, cuda_graphs=False, validity="VALID", content=b"engine", weights=None):
        (tmp_path / "x.plan").write_bytes(content)
        trt = library(stream, validity)
        monkeypatch.setattr(trt_session, "import_module", lambda name: trt)
        compiled = Compiled("x.plan", None, backend, "10.3.0", ["8.9"], PROFILE, weights)
        device = Device("cuda", xp, stream)
        session = TrtSession(tmp_path, compiled, device, cuda_graphs=cuda_graphs)
        return session, trt

    return open_it


@pytest.mark.parametrize("backend", [TENSORRT, RTX])
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_shapes_in_turn_each_get_their_own_answer(open_session, backend: str, cuda_graphs: bool) -> None:
    session, _ = open_session(backend, cuda_graphs)
    rng = np.random.default_rng(0)
    kept = []
    for count in (2, 1, 4, 2, 1, 2, 4, 4, 1):
        x = rng.standard_normal((count, 2)).astype(np.float32)
        kept.append((x, session.run(x=x)["y"]))
    for x, y in kept:  # later runs leave earlier answers alone
        np.testing.assert_array_equal(y, 2 * x)


def test_a_shape_is_captured_once_and_replayed(open_session, stream: Stream) -> None:
    session, _ = open_session(TENSORRT, True)
    for _ in range(4):
        session.run(x=np.ones((2, 2), np.float32))
        session.run(x=np.ones((1, 2), np.float32))
    assert stream.captures == 2
    assert stream.replays == 6  # the first run of each shape is not captured


def test_tensorrt_for_rtx_keeps_its_kernels_for_the_next_process(open_session, tmp_path: Path) -> None:
    session, _ = open_session(RTX)
    session.run(x=np.ones((1, 2), np.float32))
    (file,) = (tmp_path / "cache" / "safegen").iterdir()
    assert file.read_bytes() == b"kernels"
    _, trt = open_session(RTX)
    assert trt.kept == [b"kernels"]


@pytest.mark.parametrize(
    ("inputs", "word"),
    [
        ({"x": np.ones((5, 2), np.float32)}, "takes \\[1, 2\\] to \\[4, 2\\]"),
        ({"z": np.ones((1, 2), np.float32)}, "it takes"),
    ],
)
def test_what_the_engine_does_not_take_is_refused(open_session, inputs: dict, word: str) -> None:
    session, _ = open_session()
    with pytest.raises(EngineError, match=word):
        session.run(**inputs)


def test_why_an_engine_does_not_run_here_is_said(open_session) -> None:
    with pytest.raises(EngineError, match="not compiled for this GPU's compute capability"):
        open_session(RTX, validity="INVALID")
    with pytest.raises(EngineError, match="does not load"):
        open_session(content=b"other")


def test_a_stripped_engine_takes_its_weights_from_its_graph(open_session, tmp_path: Path) -> None:
    session, trt = open_session(weights="x_typed.onnx")
    assert trt.refitted == [str(tmp_path / "x_typed.onnx")]
    assert session.run(x=np.ones((1, 2), np.float32))["y"].tolist() == [[2.0, 2.0]]
    with pytest.raises(EngineError, match=r"does not take the weights of other\.onnx"):
        open_session(weights="other.onnx")
