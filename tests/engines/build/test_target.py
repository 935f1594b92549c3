"""What can be built where. If these fail, hours of building end in an engine that its device refuses."""

from __future__ import annotations

import pytest

from safegen.errors import UsageError
from safegen.format.manifest import RTX, TENSORRT
from safegen_engines.build.options import Options, check_options
from safegen_engines.build.target import TARGETS, check_machine, check_version, find_target
from safegen_engines.graph.ep_context import is_readable


def test_weight_stripped_engines_need_a_gpu_to_compile() -> None:
    for target in ("rtx", "cpu"):
        with pytest.raises(UsageError, match="strip_weights"):
            check_options(Options(target=target, precision="fp16", strip_weights=True))


def test_no_target_promises_a_precision_without_reason_for_the_others() -> None:
    for target in TARGETS.values():
        for precision in {"fp32", "fp16", "bf16", "fp8", "int8"} - set(target.precisions):
            if target.name == "cuda" and precision == "bf16":
                continue
            with pytest.raises(UsageError, match=r"\(.+\)"):
                find_target(target.name, precision)


@pytest.mark.parametrize(
    ("target", "processor", "capability", "word"),
    [
        ("orin-jp62", "x86_64", "8.9", "aarch64 machine"),
        ("orin-jp62", "aarch64", None, "no NVIDIA GPU"),
        ("thor-jp72", "aarch64", "8.7", "11.0, and this one is 8.7"),
        ("tensorrt", "x86_64", None, "no NVIDIA GPU"),
    ],
)
def test_an_engine_that_could_not_run_is_not_built(target, processor, capability, word) -> None:
    with pytest.raises(UsageError, match=word):
        check_machine(TARGETS[target], processor, capability)


def test_what_can_be_built_is() -> None:
    check_machine(TARGETS["orin-jp62"], "aarch64", "8.7")
    check_machine(TARGETS["tensorrt"], "x86_64", "9.0")
    check_machine(TARGETS["rtx"], "x86_64", None)


@pytest.mark.parametrize(
    ("target", "version", "fits"),
    [
        ("orin-jp62", "10.3.0", True),
        ("orin-jp62", "10.16.1", False),
        ("orin-jp72", "10.16.1", True),
        ("tensorrt", "11.0.0", True),
        ("tensorrt", "8.6.1", False),
        ("rtx", "1.7.1.116", True),
        ("cpu", "whatever", True),
    ],
)
def test_each_target_takes_its_own_versions(target: str, version: str, fits: bool) -> None:
    if fits:
        check_version(TARGETS[target], version)
    else:
        with pytest.raises(UsageError, match=version):
            check_version(TARGETS[target], version)


def test_onnx_runtime_hosts_get_no_wrapper_that_they_cannot_open() -> None:
    assert is_readable(RTX, "1.7.1")
    assert is_readable(TENSORRT, "10.3.0")
    assert not is_readable(TENSORRT, "11.0.0")
