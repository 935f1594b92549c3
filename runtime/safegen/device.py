"""Where arrays live and what runs there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def array_namespace(x: Any) -> Any:
    """The Python array API namespace of an array: NumPy, CuPy or array-api-strict."""
    if hasattr(x, "__array_namespace__"):
        return x.__array_namespace__()
    import cupy

    return cupy.get_array_module(x)


def to_host(x: Any) -> NDArray[Any]:
    """Copy an array to host memory as NumPy; nothing is copied if it is there already."""
    if hasattr(x, "get"):
        return np.asarray(x.get())
    return np.asarray(x)
