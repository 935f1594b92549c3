"""Where arrays live: NumPy on the CPU, or CuPy on one stream of a GPU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safegen.errors import EngineError, UsageError, first_line

Array = Any
"""An array of any namespace of the Python array API standard: NumPy, CuPy, or the recorder of graphs."""


@dataclass(frozen=True)
class Device:
    """The CPU, or one GPU and the stream that everything runs on."""

    name: str
    """``cpu``, ``cuda``, or ``tensorrt``: the same GPU, graphs by ONNX Runtime's TensorRT provider."""
    xp: Any
    """The Python array API namespace of its arrays."""
    stream: Any = None

    def active(self) -> AbstractContextManager[Any]:
        """Make the stream the one that arrays are computed on."""
        return nullcontext() if self.stream is None else self.stream

    def wait(self) -> None:
        """Until the device has done all that was asked of it."""
        if self.stream is not None:
            self.stream.synchronize()


CPU = Device("cpu", np)
DEVICES = ("cpu", "cuda", "tensorrt")


def open_device(name: str) -> Device:
    """The device of that name.

    Raises:
        UsageError: no such device.
        EngineError: CuPy is missing, or no GPU answers.
    """
    if name not in DEVICES:
        raise UsageError(f"device is {name!r}; known are {', '.join(DEVICES)}.")
    if name == "cpu":
        return CPU
    try:
        import cupy
        from array_api_compat import cupy as xp
    except ImportError as error:
        raise EngineError(
            f"a GPU engine needs CuPy and array-api-compat ({first_line(error)}): pip install 'safegen[gpu]'."
        ) from None
    try:
        cupy.cuda.Device(0).use()
        stream = cupy.cuda.Stream(non_blocking=True)
        stream.use()  # for this thread; another enters Device.active
        return Device(name, xp, stream)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise EngineError(f"no NVIDIA GPU answers ({first_line(error)}). Run 'safegen doctor'.") from None


def array_namespace(x: Any) -> Any:
    """The Python array API namespace of an array: NumPy, CuPy or array-api-strict."""
    if type(x).__module__.partition(".")[0] != "cupy":
        return x.__array_namespace__()
    from array_api_compat import cupy  # CuPy's own namespace lacks names of the standard

    return cupy


def to_host(x: Array) -> NDArray[Any]:
    """Any array as NumPy's; from a GPU it is copied, and waited for."""
    return x.get() if hasattr(x, "get") else np.asarray(x)


def is_finite(x: Array) -> bool:
    """Whether every number is; a GPU is waited for."""
    xp = array_namespace(x)
    return bool(xp.all(xp.isfinite(x)))
