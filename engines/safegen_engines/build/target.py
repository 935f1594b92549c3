"""What an engine can be built for, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from safegen.errors import UsageError
from safegen.format.manifest import RTX, TENSORRT


@dataclass(frozen=True)
class Sides:
    """Shares of the default size between which pictures can be drawn, and the largest batch.

    Guidance doubles the batch: 8 draws four guided pictures at a time.
    """

    smallest: float
    largest: float
    batch: int
    """The autoencoder takes one picture at a time: its activations are the largest."""
    windows: int
    """Windows of text, for prompts longer than one."""


DYNAMIC = Sides(0.5, 1.5, batch=8, windows=4)
FIXED = Sides(1.0, 1.0, batch=2, windows=1)
"""Little memory: one size, one guided picture at a time."""


@dataclass(frozen=True)
class Target:
    """One kind of device."""

    name: str
    precisions: tuple[str, ...]
    backend: str | None = None
    """What compiles its graphs; None runs them as they are, through ONNX Runtime."""
    capabilities: tuple[str, ...] = ()
    """Compute capabilities of the GPUs that run its engines; empty: that of the GPU that built them."""
    versions: tuple[str, str] | None = None
    """Versions of the compiling library: at least, and below."""
    on_device: bool = False
    """It has to be built on the machine that draws."""
    machine: str | None = None
    """The processor of that machine."""
    sides: Sides = DYNAMIC
    workspace_share: float = 0.5
    """The share of free memory that the compiler may use to try its kernels."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why it does not have a precision."""


_NO_FP8 = "fp8 needs tensor cores of compute capability 8.9 or newer"
_ORIN = {"fp8": f"{_NO_FP8}, and Orin has 8.7"}
_WHOLE = "its graph would stay as large; only compiled engines gain by it"
_PLAIN = {"fp8": _WHOLE, "int8": _WHOLE}


_COMPILED = ("fp16", "bf16", "fp32", "int8", "fp8")


def _jetson(
    name: str, capability: str, versions: tuple[str, str], lacks: Mapping[str, str] | None = None
) -> Target:
    reasons = lacks or {}
    return Target(
        name,
        tuple(precision for precision in _COMPILED if precision not in reasons),
        backend=TENSORRT,
        capabilities=(capability,),
        versions=versions,
        on_device=True,
        machine="aarch64",
        sides=FIXED,
        workspace_share=0.25,
        reasons=reasons,
    )


TARGETS = {
    target.name: target
    for target in (
        Target(
            "cpu",
            ("fp32", "fp16"),
            reasons={"bf16": "ONNX Runtime's CPU provider has no bf16 kernels"} | _PLAIN,
        ),
        Target("cuda", ("fp16", "fp32"), reasons=_PLAIN),
        # Ampere, Ada and Blackwell
        Target("rtx", _COMPILED, backend=RTX, capabilities=("8.6", "8.9", "12.0"), versions=("1.1", "2")),
        Target("tensorrt", _COMPILED, backend=TENSORRT, versions=("10.3", "12"), on_device=True),
        # JetPack 6.1 and 6.2: CUDA 12.6, TensorRT 10.3
        _jetson("orin-jp62", "8.7", ("10.3", "10.4"), _ORIN),
        # JetPack 7.2: CUDA 13.2, TensorRT 10.16
        _jetson("orin-jp72", "8.7", ("10.16", "10.17"), _ORIN),
        _jetson("thor-jp72", "11.0", ("10.16", "10.17")),
    )
}


def capabilities(target: Target, precision: str) -> tuple[str, ...]:
    """The compute capabilities that a component is compiled for: fp8 leaves out those without it."""
    return tuple(c for c in target.capabilities if precision != "fp8" or runs_fp8(c))


def runs_fp8(capability: str) -> bool:
    """Whether GPUs of a compute capability multiply in fp8."""
    return _numbers(capability) >= (8, 9)


def find_target(name: str, precision: str | None = None) -> Target:
    """Look up a target and check that it has the precision.

    Raises:
        UsageError: no such target, or a precision that it does not have, with the reason.
    """
    if name not in TARGETS:
        raise UsageError(f"target is {name!r}; known are {', '.join(TARGETS)}.")
    target = TARGETS[name]
    if precision is not None and precision not in target.precisions:
        why = f" ({target.reasons[precision]})" if precision in target.reasons else ""
        has = ", ".join(target.precisions)
        raise UsageError(f"precision is {precision!r}; the target {name} has {has}{why}.")
    return target


def check_version(target: Target, version: str) -> None:
    """Refuse a library that builds engines which the target's runtime does not load.

    Raises:
        UsageError: the version lies outside of the target's range.
    """
    if target.versions is None:
        return
    least, below = target.versions
    if not _numbers(least) <= _numbers(version) < _numbers(below):
        raise UsageError(
            f"the target {target.name} needs {target.backend} {least} or newer, below {below};"
            f" this machine has {version}."
        )


def check_machine(target: Target, processor: str, capability: str | None) -> None:
    """Refuse to build on a machine whose engines the target cannot run.

    Args:
        target: what to build for.
        processor: this machine's, as :func:`platform.machine` names it.
        capability: this machine's GPU's compute capability; None without one.

    Raises:
        UsageError: the target's engines are built on the device itself, and this is not it.
    """
    if not target.on_device:
        return
    if target.machine and processor != target.machine:
        wanted = f"a {target.machine} machine, and this is {processor}"
    elif capability is None:
        wanted = "the machine that draws, and this one has no NVIDIA GPU"
    elif target.capabilities and capability not in target.capabilities:
        wanted = f"a GPU of compute capability {target.capabilities[0]}, and this one is {capability}"
    else:
        return
    raise UsageError(
        f"an engine for {target.name} is built on {wanted}. Build with --onnx-only here, carry the folder"
        f" there and run 'safegen build-engine FOLDER --target {target.name}'."
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
