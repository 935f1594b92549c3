"""``safegen bench``: how fast an engine draws here."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safegen.errors import UsageError
from safegen_cli.console import Json, answer, bar

if TYPE_CHECKING:
    from safegen.check.bench import Bench


def bench(
    engine: Annotated[Path | None, typer.Option("-e", "--engine", help="Engine folder; the embedded one if left out.")] = None,
    bundle: Annotated[Path | None, typer.Option("-b", "--bundle", help="Negation bundle; the engine's own if left out.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Model evaluations; the engine's default if left out.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures drawn at a time.")] = 1,
    runs: Annotated[int, typer.Option(min=1, help="Batches to take the median of, after one that warms up.")] = 3,
    cuda_graphs: Annotated[bool, typer.Option("--cuda-graphs", help="Let compiled engines replay captured launches.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the CPU, for each run of a graph; ONNX Runtime's choice if left out.")] = None,
    host: Annotated[str, typer.Option(help="python, or cpp: fresh processes of both hosts side by side.")] = "python",
    program: Annotated[Path | None, typer.Option(help="With --host cpp: the C++ host's safegen-generate; the one on the path if left out.")] = None,
    against: Annotated[Path | None, typer.Option(help="The engine's checkpoint, to time diffusers on it beside.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Time an engine: each component, a step, the guard's share of it, pictures a second, memory.

    Example: safegen bench -e engine/ --against stable-diffusion-v1-5/
    """
    from safegen.check.bench import bench as measure

    if host not in ("python", "cpp"):
        raise UsageError(f"host is {host!r}; known are python, cpp.")
    if program and host != "cpp":
        raise UsageError("program is the C++ host's; add --host cpp.")
    if host == "cpp":
        if batch_size != 1 or cuda_graphs or against:
            raise UsageError("batch_size, cuda_graphs and against are for --host python; leave them out.")
        _hosts(engine, bundle, program, {"steps": steps, "runs": runs, "threads": threads}, as_json)
        return
    with bar("batches") as progress:
        task = progress.add_task("drawing", total=runs + 1, note="")
        result = measure(
            engine,
            bundle,
            steps=steps,
            batch=batch_size,
            runs=runs,
            cuda_graphs=cuda_graphs,
            threads=threads,
            progress=lambda done: progress.update(task, completed=done),
        )
    found: dict[str, Any] = asdict(result)
    if against:
        from safegen_export.time_diffusers import compare

        beside = compare(
            engine,
            bundle,
            against,
            steps=result.steps,
            batch=result.batch,
            rounds=runs,
            threads=threads,
            cuda_graphs=cuda_graphs,
        )
        found |= asdict(beside)
    if as_json:
        answer(found)
    else:
        _show(result, found)


def _show(result: Bench, found: dict[str, Any]) -> None:
    """One line a figure."""
    for name, ms in result.components_ms.items():
        print(f"{name:22} {ms:10.2f} ms")
    print(f"{'a step':22} {result.step_ms:10.2f} ms")
    print(f"{'the guard in a step':22} {result.guard_ms:10.2f} ms  {result.guard_share:.1%}")
    print(f"{'opening':22} {result.open_seconds:10.2f} s")
    print(
        f"{'pictures':22} {result.images_per_second:10.3f} a second, {result.size[0]}x{result.size[1]},"
        f" {result.steps} steps, {result.batch} at a time, on {result.device}"
    )
    print(f"{'peak memory':22} {result.peak_memory_mib:10.0f} MiB")
    if result.gpu_memory_mib is not None:
        print(f"{'on the GPU':22} {result.gpu_memory_mib:10.0f} MiB")
    if "times_diffusers" in found:
        print(
            f"{'beside diffusers':22} {found['images_per_second_beside']:10.3f} a second, diffusers"
            f" {found['diffusers_images_per_second']:.3f}: {found['times_diffusers']:.2f} times as fast,"
            f" the median of {found['rounds']} rounds in turn; threads for each: {found['threads']}"
        )


def _hosts(
    engine: Path | None,
    bundle: Path | None,
    program: Path | None,
    told: dict[str, Any],
    as_json: bool,
) -> None:
    """The C++ host beside this package."""
    from safegen.check.bench_cpp import bench_hosts, find_program

    found = find_program(program)
    with bar("rounds") as progress:
        task = progress.add_task("drawing", total=told["runs"], note="")
        times = bench_hosts(
            engine,
            bundle,
            found,
            **told,
            progress=lambda done: progress.update(task, completed=done),
        )
    if as_json:
        answer({host: asdict(of) for host, of in times.items()})
        return
    print(f"{'':26} {'python':>10} {'cpp':>10}")
    rows = {
        "process start to picture": ("first_picture_seconds", "s"),
        "a step": ("step_ms", "ms"),
        "peak memory": ("peak_memory_mib", "MiB"),
    }
    for name, (field, unit) in rows.items():
        print(
            f"{name:26} {getattr(times['python'], field):10.2f} {getattr(times['cpp'], field):10.2f} {unit}"
        )
