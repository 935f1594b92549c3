"""Whether a stage of a build fits into this machine's memory, said before it starts."""

from __future__ import annotations

from safegen.errors import EngineError

SPARE = 400_000_000
"""What Python and the libraries take, whatever the graph."""


def check(name: str, needed: int, free: int | None) -> None:
    """Refuse a stage that needs more bytes for its weights than are free; None does not know.

    Raises:
        EngineError: it will not fit; the message says both.
    """
    needed += SPARE
    if free is not None and needed > free:
        raise EngineError(
            f"{name}: this stage needs about {needed / 2**30:.1f} GiB of memory, and"
            f" {free / 2**30:.1f} are free."
            " Close other programs, add swap, or build on a larger machine (--onnx-only)."
        )
