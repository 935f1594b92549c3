"""What runs on this machine, found out by running it."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Probe:
    """One execution provider, tried."""

    provider: str
    works: bool
    detail: str


def probe(graph: Path) -> list[Probe]:
    """Run a text encoder's graph on every provider that ONNX Runtime lists, and compare with the CPU.

    A listed provider may lack its libraries or its device, and ONNX Runtime then runs the CPU without
    an error: only nodes that its profile says ran there count.
    """
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    results: list[Probe] = []
    expected = None
    for provider in reversed(ort.get_available_providers()):  # the CPU comes last in the list
        try:
            output, nodes, milliseconds = _run_on(provider, graph)
        except Exception as error:  # every provider has exceptions of its own
            results.append(Probe(provider, False, str(error).splitlines()[0][:200]))
            continue
        expected = output if expected is None else expected
        if not nodes:
            results.append(Probe(provider, False, "runs nothing here; the CPU ran in its place"))
        elif not np.allclose(output, expected, atol=1e-2):
            results.append(Probe(provider, False, "its results differ from the CPU's"))
        else:
            detail = f"text encoder in {milliseconds:.1f} ms, {nodes} nodes ran there"
            results.append(Probe(provider, True, detail))
    return results


def _run_on(provider: str, graph: Path) -> tuple[NDArray[Any], int, float]:
    """(output, how many nodes ran on the provider, milliseconds of a second run)."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as scratch:
        options = ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / "profile")
        session = ort.InferenceSession(graph, options, providers=[provider])
        feed = session.get_inputs()[0]
        length = next((d for d in feed.shape[1:] if isinstance(d, int)), 8)
        ids = {feed.name: np.zeros((1, length), np.int64)}
        session.run(None, ids)
        began = time.perf_counter()
        output = session.run(None, ids)[0]
        milliseconds = (time.perf_counter() - began) * 1000
        events = json.loads(Path(session.end_profiling()).read_text())
    ran_on = (event.get("args", {}).get("provider") for event in events)
    return output, sum(name == provider for name in ran_on), milliseconds


def machine() -> dict[str, str]:
    """Facts about this machine, for people."""
    import onnxruntime as ort

    import safegen

    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    return {
        "safegen": safegen.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(os.cpu_count()),
        "memory": f"{pages / 2**30:.1f} GiB" if pages else "unknown",
        "onnxruntime": ort.__version__,
    }
