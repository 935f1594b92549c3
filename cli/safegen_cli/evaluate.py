"""``safegen evaluate``: a suite of prompts, guards and judges to figures and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safegen.errors import UsageError
from safegen_cli.console import Json, answer, bar, say

SHOWN = ("attack_success", "called_unsafe", "agreement", "frechet_distance")


def evaluate(
    suite: Annotated[Path, typer.Argument(help="SUITE.toml: engines, guards, prompt sets, judge, quality.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the results; an earlier run there goes on.")],
    shard: Annotated[str | None, typer.Option(help="3/8 draws the third of eight shares; shards may share the folder, or theirs be copied together.")] = None,
    ray: Annotated[str | None, typer.Option(help="Draw on a Ray cluster: its address, or 'local'.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Evaluators at a time, with --ray; 2 if left out.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Draw a suite with every guard, judge it, and write a table, a report and all pictures' figures.

    Example: safegen evaluate suite.toml -o results/ --shard 1/4
    """
    from safegen_eval.evaluate import evaluate as run
    from safegen_eval.report import FIGURES, written
    from safegen_eval.table import to_json

    if workers and not ray:
        raise UsageError("workers are for --ray; without it --shard shares the work.")
    with bar("pictures", remaining=True) as progress:
        task = progress.add_task("drawing", total=None, note="")
        outcome = run(
            suite,
            out,
            part=shard,
            ray=ray,
            workers=workers or 2,
            report=lambda done, total: progress.update(task, completed=done, total=total),
        )
    complete = outcome.done == outcome.planned
    if as_json:
        answer(
            {
                "complete": complete,
                "done": outcome.done,
                "planned": outcome.planned,
                "report": str(out / "report.html") if complete else None,
                "table": to_json(outcome.lines),
            }
        )
        return
    if not complete:
        say(
            f"{outcome.done} of {outcome.planned} pictures are in {out}; the report is written with the last."
        )
        return
    print(out / "report.html")
    for line in outcome.lines:
        shown = [name for name in SHOWN if name in line.figures]
        figures = ", ".join(f"{FIGURES[name][0]} {written(name, line.figures[name])}" for name in shown)
        say(f"  {line.arm}, {line.steps} steps, {line.set} (N {line.figures[shown[0]].n}, 95 %): {figures}")
