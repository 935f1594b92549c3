"""Facts about this machine: memory, the GPU and its driver, JetPack."""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gpu:
    """The first NVIDIA GPU, as the driver's own library names it."""

    name: str
    capability: str
    """Compute capability, for example ``8.9``."""
    driver: str
    """The newest CUDA version that the driver supports."""
    total: int
    """Bytes of memory; a Jetson shares them with the CPU."""


def cache_folder() -> Path:
    """Where kernels compiled for this machine are kept: outside of engine folders, which are sealed."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "safegen"


def gpu() -> Gpu | None:
    """Ask ``libcuda`` about device 0, without creating a context on it; None without driver or device."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        try:
            cuda = ctypes.CDLL("nvcuda.dll")
        except OSError:
            return None
    version, device, major, minor = (ctypes.c_int() for _ in range(4))
    total, name = ctypes.c_size_t(), ctypes.create_string_buffer(256)
    done: list[int] = [
        cuda.cuInit(0),
        cuda.cuDriverGetVersion(ctypes.byref(version)),
        cuda.cuDeviceGet(ctypes.byref(device), 0),
        cuda.cuDeviceGetName(name, 256, device),
        cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device),
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device),
        cuda.cuDeviceTotalMem_v2(ctypes.byref(total), device),
    ]
    if any(done):
        return None
    return Gpu(
        name=name.value.decode(errors="replace"),
        capability=f"{major.value}.{minor.value}",
        driver=f"{version.value // 1000}.{version.value % 1000 // 10}",
        total=total.value,
    )


def jetpack(release: Path = Path("/etc/nv_tegra_release")) -> str | None:
    """The release of Jetson Linux under JetPack, for example ``L4T 36.4.3``; None elsewhere."""
    if not release.is_file():
        return None
    found = re.search(r"R(\d+).*?REVISION:\s*([\d.]+)", release.read_text(errors="replace"))
    return f"L4T {found[1]}.{found[2]}" if found else "unknown"


def available_memory(path: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that a new process could get without swapping; None where the system does not say."""
    if not path.is_file():
        return None
    found = re.search(r"^MemAvailable:\s*(\d+) kB", path.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None
