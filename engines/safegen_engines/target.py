"""What an engine can be built for, as data."""

from __future__ import annotations

from dataclasses import dataclass

from safegen.errors import UsageError


@dataclass(frozen=True)
class Target:
    """One kind of device."""

    name: str
    description: str
    precisions: tuple[str, ...]


TARGETS = {
    "cpu": Target("cpu", "any x86-64 or ARM processor, through ONNX Runtime", ("fp32", "fp16")),
}


def find_target(name: str, precision: str) -> Target:
    """Look up a target and check that it has the precision.

    Raises:
        UsageError: no such target, or a precision that it does not have.
    """
    if name not in TARGETS:
        raise UsageError(f"target is {name!r}; known are {', '.join(TARGETS)}.")
    target = TARGETS[name]
    if precision not in target.precisions:
        raise UsageError(f"precision is {precision!r}; the target {name} has {', '.join(target.precisions)}.")
    return target
