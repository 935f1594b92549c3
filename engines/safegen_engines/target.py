"""What an engine can be built for, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from safegen.errors import UsageError
from safegen.manifest import RTX, TENSORRT


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
    description: str
    precisions: tuple[str, ...]
    backend: str | None = None
    """What compiles its graphs; None runs them as they are, through ONNX Runtime."""
    cuda: bool = True
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
_LATER = "quantized engines are not written yet"
_ORIN = {"fp8": f"{_NO_FP8}, and Orin has 8.7", "int8": _LATER}
_LATE = {"fp8": _LATER, "int8": _LATER}


def _jetson(
    name: str, board: str, capability: str, jetpack: str, versions: tuple[str, str],
    reasons: Mapping[str, str],
) -> Target:  # fmt: skip
    return Target(
        name,
        f"Jetson {board} under JetPack {jetpack}",
        ("fp16", "bf16", "fp32"),
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
            "any x86-64 or ARM processor, through ONNX Runtime",
            ("fp32", "fp16"),
            cuda=False,
            reasons={"bf16": "ONNX Runtime's CPU provider has no bf16 kernels"} | _LATE,
        ),
        Target(
            "cuda", "an NVIDIA GPU, through ONNX Runtime's CUDA provider", ("fp16", "fp32"), reasons=_LATE
        ),
        Target(
            "rtx",
            "every RTX GPU of the Ampere, Ada and Blackwell generations, through TensorRT for RTX",
            ("fp16", "bf16", "fp32"),
            backend=RTX,
            capabilities=("8.6", "8.9", "12.0"),
            versions=("1.1", "2"),
            reasons=_LATE,
        ),
        Target(
            "tensorrt",
            "this machine's NVIDIA GPU, through TensorRT",
            ("fp16", "bf16", "fp32"),
            backend=TENSORRT,
            versions=("10.3", "12"),
            on_device=True,
            reasons=_LATE,
        ),
        _jetson("orin-jp62", "Orin", "8.7", "6.1 or 6.2 (CUDA 12.6, TensorRT 10.3)", ("10.3", "10.4"), _ORIN),
        _jetson("orin-jp72", "Orin", "8.7", "7.2 (CUDA 13.2, TensorRT 10.16)", ("10.16", "10.17"), _ORIN),
        _jetson("thor-jp72", "Thor", "11.0", "7.2 (CUDA 13.2, TensorRT 10.16)", ("10.16", "10.17"), _LATE),
    )
}
PRECISIONS = ("fp32", "fp16", "bf16", "fp8", "int8")


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
