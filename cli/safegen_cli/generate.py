"""``safegen generate``: prompts to pictures."""

from __future__ import annotations

import json
import secrets
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
    from safegen.format.result import Picture
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
    preview: Annotated[Path | None, typer.Option(help="After each step write the picture foreseen to this PNG.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Write the guard's figures of each step to this JSON file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw those figures to this PNG or SVG file.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Draw pictures, guarded.

    Example: safegen generate "a photo of a coat" -n 4 --seed 7
    """
    from safegen.engine.pipeline import Pipeline
    from safegen.files import check_place
    from safegen.sampling.solver import Solver
    from safegen_cli.plot import check_plot, plot_traces

    texts = ([prompt] if prompt is not None else []) + read_lines(prompts)
    total = max(1, len(texts), len(class_label or [])) * count
    _check_out(out, total)
    if trace:
        check_place(trace)
    check_png(preview)
    check_plot(plot)
    pipeline = Pipeline.load(engine, bundle, device=device, cuda_graphs=cuda_graphs)
    start = secrets.randbelow(2**32 - count) if seed is None else seed
    plan = Solver(solver or pipeline.engine.manifest.defaults.solver, eta, karras, spacing)
    with bar("steps") as progress:
        watch = _Watch(progress, preview, pipeline, batch_size, total)
        pictures = pipeline(
            texts or None,
            class_label=class_label,
            negative_prompt=negative_prompt,
            text_guard=text_guard,
            concepts=concept,
            n=count,
            seed=start,
            steps=steps,
            solver=plan,
            guidance_scale=guidance_scale,
            size=parse_size(size),
            guard=guard,
            init=_open(init),
            strength=strength,
            mask=_open(mask),
            batch_size=batch_size,
            on_step=watch,
        )
    files = [_save(picture, out) for picture in pictures]
    records = [_record(file, picture) for file, picture in zip(files, pictures, strict=True)]
    if trace:
        _write_trace(trace, records, pictures)
    if plot:
        plot_traces(pictures, plot)
    if as_json:
        answer(records)
    else:
        for file, picture in zip(files, pictures, strict=True):
            print(file)
            say(_sentence(picture))


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


def _write_trace(path: Path, records: list[dict[str, Any]], pictures: list[Picture]) -> None:
    """The record of each picture with the guard's figures of each step."""
    from safegen.files import replacing

    steps_of = [[asdict(w) for w in p.verdict.trace] for p in pictures]
    lines = [{**r, "trace": t} for r, t in zip(records, steps_of, strict=True)]
    with replacing(path) as scratch:
        scratch.write_text(json.dumps(lines, indent=1, ensure_ascii=False), "utf-8")


def _open(path: Path | None) -> Image.Image | None:
    """An image file, read whole."""
    from safegen.format.image import open_image

    return open_image(path) if path else None


class _Watch:
    """Moves the bar at each step and writes how often the gate has opened so far beside it."""

    def __init__(
        self, progress: Progress, preview: Path | None, pipeline: Pipeline, batch_size: int, pictures: int
    ) -> None:
        self._progress, self._preview, self._pipeline = progress, preview, pipeline
        self._batches = -(-pictures // batch_size)
        self._task: TaskID | None = None
        self._opened = 0

    def __call__(self, step: Step) -> None:
        if self._task is None:
            self._task = self._progress.add_task("drawing", total=self._batches * step.count, note="")
        if step.evidence is not None:
            self._opened += int((step.evidence.weight > 0).sum())
        note = f"gate opened {self._opened} times" if self._opened else "gate shut"
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


def _record(file: Path, picture: Picture) -> dict[str, Any]:
    return {"file": str(file), **picture.metadata()}


def _sentence(picture: Picture) -> str:
    verdict = picture.verdict
    if not picture.settings["guarded"]:
        return "  DRAWN WITHOUT A GUARD (this engine was built with --allow-unguarded)"
    if verdict.strongest_evidence is None:
        return f"  guard {verdict.guard}: did not look at any step"
    return (
        f"  guard {verdict.guard}: gate opened at {verdict.opened} of {verdict.steps} steps,"
        f"{f' leaned away at {verdict.leaned},' if verdict.leaned else ''} strongest"
        f" evidence {verdict.strongest_evidence:+.2f}, nearest reference {verdict.nearest_reference}"
    )
