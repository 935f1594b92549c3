"""``safegen calibrate``: how sharp a bundle's gate is, and what that costs ordinary pictures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safegen.errors import UsageError
from safegen_cli.console import Json, answer, bar, read_lines, reporter, say
from safegen_cli.images import images_of

if TYPE_CHECKING:
    from safegen_engines.freeze.calibrate import Recalibrated


def calibrate(
    bundle: Annotated[Path, typer.Argument(help="The .negation file.")],
    negation: Annotated[list[str], typer.Option("--negation", help="Images of what must never be drawn, other than the bundle's: folders, globs or files (repeatable); for one frozen --anywhere, whole pictures that show it.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The bundle to write.")],
    benign: Annotated[list[str] | None, typer.Option("--benign", help="Ordinary images, other than the bundle's (repeatable).")] = None,
    benign_prompts: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="A file with one ordinary prompt a line, instead: closer to what users draw.")] = None,
    benign_label: Annotated[list[int] | None, typer.Option(help="For a model of classes: labels that are ordinary, beside --benign (repeatable).")] = None,
    rate: Annotated[float, typer.Option(help="Share of ordinary pictures on which the gate may open.")] = 0.005,
    engine: Annotated[Path | None, typer.Option("-e", "--engine", help="Engine folder; the embedded one if left out.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the ROC to this PNG or SVG file.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images encoded at a time.")] = 8,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Set a bundle's gate for a rate of false alarms, on images that it has not seen, and show the ROC.

    Example: safegen calibrate a.negation --negation more/ --benign ordinary/ --rate 0.01 -o b.negation
    """
    import msgspec

    from safegen.check.bench import bench
    from safegen.engine.engine import Engine
    from safegen.engine.pipeline import EMBEDDED
    from safegen_cli.plot import check_plot
    from safegen_engines.freeze.calibrate import recalibrate

    if bool(benign) == bool(benign_prompts):
        raise UsageError("give either --benign or --benign-prompts: what the gate must let pass.")
    check_plot(plot)
    prompts = read_lines(benign_prompts)
    never, ordinary = images_of(negation), images_of(benign or [])
    with bar("images") as progress:
        found = recalibrate(
            Engine.open(engine or EMBEDDED),
            bundle,
            never,
            out,
            benign=ordinary,
            benign_prompts=prompts,
            benign_labels=benign_label or [],
            rate=rate,
            batch_size=batch_size,
            report=reporter(progress),
        )
    cost = bench(engine, out, batch=1, runs=1)
    if plot:
        plot_roc(found, plot)
    if as_json:
        answer(
            {
                "file": str(out),
                **asdict(found),
                "info": msgspec.to_builtins(found.info),
                "guard_ms": cost.guard_ms,
                "step_ms": cost.step_ms,
            }
        )
        return
    print(out)
    _say_gate(found, rate)
    say(f"  cost here: {cost.guard_ms:.2f} ms of a step's {cost.step_ms:.2f} ms")


def _say_gate(found: Recalibrated, rate: float) -> None:
    """The ROC, and what each bandwidth catches."""
    say(
        f"  measured on {found.negation} negation and {found.ordinary} ordinary pictures; digest {found.digest[:12]}"
    )
    if found.known:
        say(f"  {found.known} negation images are in the bundle and were left out")
    say("  rate asked for   opens on ordinary ones   catches of the negation images")
    for point in found.roc:
        mark = "  <- stored" if point.rate == rate else ""
        say(f"  {point.rate:14.1%}   {point.false_alarms:22.2%}   {point.caught:30.1%}{mark}")
    tried = ", ".join(f"{h:.2f}: {caught:.1%}" for h, caught in found.caught_by_bandwidth.items())
    say(f"  bandwidth {found.info.bandwidth:.2f}; caught at this rate by each: {tried}")


def plot_roc(found: Recalibrated, path: Path) -> None:
    """Caught against false alarms, both as measured."""
    from safegen_cli.plot import figure, save

    canvas = figure()
    axes = canvas.subplots()
    axes.plot([p.false_alarms for p in found.roc], [p.caught for p in found.roc], marker="o")
    axes.plot([found.chosen.false_alarms], [found.chosen.caught], marker="o", markersize=12, fillstyle="none")
    for point in found.roc:
        axes.annotate(
            f"{point.rate:.1%}",
            (point.false_alarms, point.caught),
            xytext=(5, -10),
            textcoords="offset points",
            fontsize=8,
        )
    axes.set(xlabel="gate opens on ordinary pictures", ylabel="caught of the negation images", ylim=(0, 1.02))
    save(canvas, path)
