"""A graph that runs: named arrays in, named arrays out, through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from safegen.errors import EngineError

DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


class Session:
    """One ONNX graph on ONNX Runtime's CPU provider."""

    def __init__(self, path: Path, *, optimize: bool = True) -> None:
        """Open a graph.

        Args:
            path: an .onnx file, its external data beside it.
            optimize: False runs the graph exactly as written, for comparisons.

        Raises:
            EngineError: the file is missing or ONNX Runtime cannot load it.
        """
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ORT has its own family of exceptions, all bare
            raise EngineError(f"{path}: ONNX Runtime cannot load it ({_first_line(error)}).") from None
        self._path = path
        self._dtypes = {i.name: DTYPES.get(i.type, np.float32) for i in self._session.get_inputs()}
        self.inputs = {i.name: (i.type, list(i.shape)) for i in self._session.get_inputs()}
        self.outputs = {o.name: (o.type, list(o.shape)) for o in self._session.get_outputs()}

    def run(self, **inputs: Any) -> dict[str, NDArray[Any]]:
        """Run once. Arrays are cast to the graph's types; outputs are keyed by name.

        Raises:
            EngineError: an input is missing, unknown or of a shape that the graph refuses.
        """
        feed = {name: np.asarray(x, self._dtypes.get(name)) for name, x in inputs.items()}
        try:
            return dict(zip(self.outputs, self._session.run(list(self.outputs), feed), strict=True))
        except Exception as error:
            shapes = ", ".join(f"{k} {list(v.shape)}" for k, v in feed.items())
            raise EngineError(f"{self._path}: failed on {shapes} ({_first_line(error)}).") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
