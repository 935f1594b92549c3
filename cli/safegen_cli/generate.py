"""``safegen generate``: prompts to pictures."""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress, TaskID

from safegen.errors import UsageError
from safegen_cli.console import Json, answer, bar, check_png, parse_size, read_lines, say

if TYPE_CHECKING:
    from PIL import Image

    from safegen.engine.pipeline import Pipeline
    from safegen.format.request import Common
    from safegen.format.result import Picture, Watch
    from safegen.sampling.loop import Step


def generate(
    prompt: Annotated[str | None, typer.Argument(help="What to draw.")] = None,
    engine: Annotated[Path | None, typer.Option("-e", "--engine", help="Engine folder; the embedded one if left out.")] = None,
    bundle: Annotated[Path | None, typer.Option("-b", "--bundle", help="Negation bundle; the engine's own if left out.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="A .png file, or a folder. Left out: PROMPT-SEED.png here, never over an existing file.")] = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Pictures a prompt; picture i has seed + i.")] = 1,
    prompts: Annotated[Path | None, typer.Option("--prompts", exists=True, dir_okay=False, help="A file with one prompt a line.")] = None,
    class_label: Annotated[list[int] | None, typer.Option(help="Label to draw, for a model of classes (repeatable).")] = None,
    negative_prompt: Annotated[str, typer.Option(help="What guidance should lead away from.")] = "",
    text_guard: Annotated[str | None, typer.Option(help="safree, or sld:weak, medium, strong or max; alone (--guard off) or beside the guard.")] = None,
    concept: Annotated[list[str] | None, typer.Option(help="What --text-guard turns from, in words (repeatable); the bundle's name if left out.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed draws the same picture; random if left out.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Model evaluations.")] = None,
    solver: Annotated[str | None, typer.Option(help="ddim, ddpm, euler, euler-a, dpm++2m or lcm; flow-euler for flow models.")] = None,
    eta: Annotated[float, typer.Option(help="DDIM's noise, 0 to 1.")] = 0.0,
    karras: Annotated[bool | None, typer.Option("--karras/--no-karras", help="Karras noise levels (euler, dpm++2m).")] = None,
    spacing: Annotated[str | None, typer.Option(help="leading, linspace or trailing.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="How closely to follow the prompt; 1 is not at all closer.")] = None,
    size: Annotated[str | None, typer.Option(help="512 or WIDTHxHEIGHT.")] = None,
    guard: Annotated[str | None, typer.Option(help="ratio, theorem, official[:PRESET], paper, spell, sgf, bank-mean, renoise-only or off; the bundle's own if left out.")] = None,
    init: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="An image to start from.")] = None,
    strength: Annotated[float | None, typer.Option(help="How much of --init is drawn anew, above 0 to 1; 0.8 if left out.")] = None,
    mask: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Redraw --init only where this image is white.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures drawn at a time.")] = 4,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or tensorrt (ONNX Runtime's provider); by the engine's target if left out.")] = None,
    cuda_graphs: Annotated[bool, typer.Option("--cuda-graphs", help="Let compiled engines replay captured launches: faster, for more memory.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the CPU, for each run of a graph; ONNX Runtime's choice if left out.")] = None,
    preview: Annotated[Path | None, typer.Option(help="After each step write the picture foreseen to this PNG.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Write the guard's figures of each step to this JSON file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw those figures to this PNG or SVG file.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Draw pictures, guarded, and write each one as soon as it is finished.

    Example: safegen generate "a photo of a coat" -n 4 --seed 7
    """
    from safegen.engine.pipeline import Pipeline
    from safegen.files import check_place
    from safegen.format.request import requests_of
    from safegen.sampling.solver import Solver
    from safegen_cli.plot import check_plot, plot_traces

    texts = ([prompt] if prompt is not None else []) + read_lines(prompts)
    total = max(1, len(texts), len(class_label or [])) * count
    _check_out(out, total)
    if trace:
        check_place(trace)
    check_png(preview)
    check_plot(plot)
    pipeline = Pipeline.load(engine, bundle, device=device, cuda_graphs=cuda_graphs, threads=threads)
    common: Common = {
        "n": count,
        "negative_prompt": negative_prompt,
        "steps": steps,
        "solver": Solver(solver or pipeline.engine.manifest.defaults.solver, eta, karras, spacing),
        "guidance_scale": guidance_scale,
        "size": parse_size(size),
        "guard": guard,
        "text_guard": text_guard,
        "concepts": tuple(concept or ()),
        "init": _open(init),
        "strength": strength,
        "mask": _open(mask),
        "batch_size": batch_size,
    }
    first = secrets.randbelow(2**32) if seed is None else seed
    requests = requests_of(texts or None, class_label, first, common)
    written = _Written(out, as_json=as_json, keep=bool(as_json or trace or plot))
    with bar("steps") as progress, interruption() as interrupted:
        watch = _Watch(progress, preview, pipeline, -(-total // batch_size), interrupted)
        stopped = written.add_all(pipeline.draw(requests, watch))
    if trace:
        _write_trace(trace, written)
    if plot:
        plot_traces(written.traces, plot)
    if as_json:
        answer(written.records)
    if stopped:
        say(f"stopped: {written.count} of {total} pictures are finished and written.")
        raise typer.Exit(130)


def _check_out(out: Path | None, pictures: int) -> None:
    """Refuse, before anything is drawn, a place that cannot take so many pictures."""
    from safegen.files import check_place
    from safegen.format.image import SUFFIXES

    if out and out.suffix.lower() == ".png" and pictures > 1:
        raise UsageError(f"{out}: one file for {pictures} pictures; give a folder with -o.")
    if out and out.suffix.lower() in SUFFIXES and out.suffix.lower() != ".png" and not out.is_dir():
        raise UsageError(
            f"{out}: pictures are written as PNG, with their verdict inside; name it {out.stem}.png."
        )
    check_place(out if out and out.suffix.lower() == ".png" else (out or Path()) / "picture.png")


@contextlib.contextmanager
def interruption() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed: once, it interrupts nothing, so that no finished picture is lost.

    The second one does, and so does the first where something else handles it already.
    """
    pressed = threading.Event()

    def note(number: int, frame: object) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield pressed.is_set
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Written:
    """Saves pictures as they come; of each it keeps what the end of the command needs, never the pixels."""

    def __init__(self, out: Path | None, *, as_json: bool, keep: bool) -> None:
        self._out, self._as_json, self._keep = out, as_json, keep
        self.count = 0
        self.records: list[dict[str, Any]] = []
        self.traces: list[tuple[str, tuple[Watch, ...]]] = []

    def add_all(self, pictures: Iterator[Picture]) -> bool:
        """Save each; whether Ctrl-C ended it early."""
        try:
            for picture in pictures:
                self._add(picture)
        except KeyboardInterrupt:
            return True
        return False

    def _add(self, picture: Picture) -> None:
        file = _save(picture, self._out)
        self.count += 1
        if self._keep:
            self.records.append({"file": str(file), **picture.metadata()})
            self.traces.append((f"{picture.title} ({picture.settings['seed']})", picture.verdict.trace))
        if not self._as_json:
            print(file, flush=True)
            say(_sentence(picture))


def _write_trace(path: Path, written: _Written) -> None:
    """The record of each picture with the guard's figures of each step."""
    from safegen.files import replacing

    pairs = zip(written.records, written.traces, strict=True)
    lines = [{**record, "trace": [asdict(w) for w in trace]} for record, (_, trace) in pairs]
    with replacing(path) as scratch:
        scratch.write_text(json.dumps(lines, indent=1, ensure_ascii=False), "utf-8")


def _open(path: Path | None) -> Image.Image | None:
    """An image file, read whole."""
    from safegen.format.image import open_image

    return open_image(path) if path else None


class _Watch:
    """Moves the bar at each step and writes beside it how often the guard has corrected a picture so far."""

    def __init__(
        self,
        progress: Progress,
        preview: Path | None,
        pipeline: Pipeline,
        batches: int,
        interrupted: Callable[[], bool],
    ) -> None:
        self._progress, self._preview, self._pipeline = progress, preview, pipeline
        self._batches, self._interrupted = batches, interrupted
        self._task: TaskID | None = None
        self._corrected = 0

    def __call__(self, step: Step) -> None:
        if self._interrupted():
            raise KeyboardInterrupt
        if self._task is None:
            self._task = self._progress.add_task("drawing", total=self._batches * step.count, note="")
        if step.evidence is not None:
            self._corrected += int((step.evidence.weight > 0).sum())
        note = f"corrected {self._corrected} times" if self._corrected else "nothing corrected"
        self._progress.update(self._task, advance=1, note=note)
        if self._preview:
            from PIL import Image

            from safegen.format.image import save_png

            save_png(
                Image.fromarray(self._pipeline.engine.decode(step.x0)[0]),
                self._preview,
                {"preview_of_step": step.index},
            )


def _save(picture: Picture, out: Path | None) -> Path:
    from safegen.format.image import free_name

    if out and out.suffix.lower() == ".png":
        out.parent.mkdir(parents=True, exist_ok=True)
        picture.save(out)
        return out
    folder = out or Path()
    folder.mkdir(parents=True, exist_ok=True)
    path = free_name(folder, picture.title, picture.settings["seed"])
    picture.save(path)
    return path


def _sentence(picture: Picture) -> str:
    verdict = picture.verdict
    if not picture.settings["guarded"]:
        return "  DRAWN WITHOUT A GUARD (this engine was built with --allow-unguarded)"
    if verdict.strongest_evidence is None:
        return f"  guard {verdict.guard}: did not look at any step"
    return (
        f"  guard {verdict.guard}: gate open at {verdict.opened} of {verdict.steps} steps, corrected at"
        f" {verdict.corrected}, strongest"
        f" evidence {verdict.strongest_evidence:+.2f}, nearest reference {verdict.nearest_reference}"
    )
