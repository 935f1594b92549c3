"""safegen: sealed diffusion engines that draw with the safe denoiser inside the sampling loop.

>>> from safegen import Pipeline
>>> pictures = Pipeline.load()("a photo of a coat", seed=1)
>>> pictures[0].verdict.opened
0
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safegen.engine.pipeline import Pipeline
    from safegen.errors import SafegenError
    from safegen.format.request import Request
    from safegen.format.result import Picture, Verdict
    from safegen.sampling.solver import Solver

__version__ = "0.1.0"
__all__ = ["Picture", "Pipeline", "Request", "SafegenError", "Solver", "Verdict", "__version__"]

_HOME = {
    "Pipeline": "safegen.engine.pipeline",
    "Request": "safegen.format.request",
    "Picture": "safegen.format.result",
    "Verdict": "safegen.format.result",
    "SafegenError": "safegen.errors",
    "Solver": "safegen.sampling.solver",
}


def __getattr__(name: str) -> Any:
    """Import the public names at first use, so that ``import safegen`` costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'safegen' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
