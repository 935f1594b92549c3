"""The C++ host beside this package: the same picture drawn by a fresh process of each, in turn."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from safegen.engine.engine import Engine, find_engine
from safegen.engine.pipeline import EMBEDDED, Pipeline
from safegen.errors import UsageError
from safegen.format.request import any_subject

PROGRAM = "safegen-generate"
"""The C++ host's example, as it is installed."""


@dataclass(frozen=True)
class HostTimes:
    """Medians over fresh processes, each drawing one picture."""

    first_picture_seconds: float
    """From the start of the process to its end, the picture written."""
    step_ms: float
    """One step after the first."""
    peak_memory_mib: float


def find_program(program: Path | str | None) -> str:
    """The C++ program: the one named, or ``safegen-generate`` on the path.

    Raises:
        UsageError: there is none.
    """
    found = shutil.which(program or PROGRAM)
    if not found:
        raise UsageError(
            f"{program or PROGRAM}: no such program. Build the C++ host (docs/cpp.md) and name its"
            f" {PROGRAM} with --program."
        )
    return found


def bench_hosts(
    engine: Path | str | None,
    bundle: Path | str | None,
    program: str,
    *,
    steps: int | None = None,
    runs: int = 3,
    threads: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, HostTimes]:
    """Draw one picture with each host ``runs`` times, in turn, so that both meet the same load.

    Args:
        engine: an engine folder; None is the embedded one.
        bundle: a .negation file; None is the engine's own.
        program: the C++ host's program.
        steps: model evaluations; None is the engine's default.
        runs: processes of each to take the median of.
        threads: of the CPU for each run of a graph; None is ONNX Runtime's choice.
        progress: called after each round.

    Raises:
        UsageError: not on this system, or a host that failed.
    """
    if not hasattr(os, "wait4"):
        raise UsageError("bench --host cpp reads processes' memory as Linux and macOS tell it.")
    where = str(find_engine(engine if engine is not None else EMBEDDED))
    asked = any_subject(Engine.open(where).manifest)
    options = {"--steps": steps, "--threads": threads}
    chosen = [part for name, value in options.items() if value for part in (name, str(value))]
    flags = {"prompt": "-p", "class_label": "-c"}
    named = [part for key, value in asked.items() for part in (flags[key], str(value))]
    with tempfile.TemporaryDirectory() as scratch:
        picture = str(Path(scratch) / "picture.png")
        told = json.dumps(
            {
                "engine": where,
                "bundle": bundle and str(bundle),
                "asked": asked,
                "steps": steps,
                "threads": threads,
            }
        )
        commands = {
            "python": [sys.executable, "-m", __spec__.name, told, picture],
            "cpp": [
                program,
                where,
                *(["-b", str(bundle)] if bundle else []),
                *named,
                *chosen,
                "--json",
                "-o",
                picture,
            ],
        }
        taken: dict[str, list[HostTimes]] = {host: [] for host in commands}
        for run in range(runs):
            for host, command in commands.items():
                taken[host].append(_one(command))
            progress(run + 1)
    fields = ("first_picture_seconds", "step_ms", "peak_memory_mib")
    return {
        host: HostTimes(*(statistics.median(getattr(one, field) for one in times) for field in fields))
        for host, times in taken.items()
    }


def _one(command: Sequence[str]) -> HostTimes:
    """Run a host once; its last line of output is JSON with the seconds at which each step was done."""
    with tempfile.TemporaryFile("w+") as said:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        wrong = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stderr.close()
        said.seek(0)
        lines = said.read().strip().splitlines()
    if process.returncode or not lines:
        raise UsageError(f"{command[0]}: failed ({wrong.strip().splitlines()[-1:] or 'no output'}).")
    marks = json.loads(lines[-1])["step_marks"]
    unit = 2**20 if sys.platform == "darwin" else 2**10
    step = float(np.median(np.diff(marks))) if len(marks) > 1 else float(marks[0])
    return HostTimes(seconds, 1000 * step, usage.ru_maxrss / unit)


def _draw(told: str, out: str) -> None:
    """This package's turn: one picture, and when each step was done."""
    given = json.loads(told)
    pipeline = Pipeline.load(given["engine"], given["bundle"], threads=given["threads"])
    marks: list[float] = []
    began = time.perf_counter()
    picture = pipeline(
        **given["asked"], steps=given["steps"], on_step=lambda step: marks.append(time.perf_counter() - began)
    )[0]
    picture.save(out)
    sys.stdout.write(json.dumps({"step_marks": marks}) + "\n")


if __name__ == "__main__":
    _draw(*sys.argv[1:])
