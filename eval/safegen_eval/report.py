"""One HTML file that a safety team can sign: table, charts, contact sheets; nothing loaded from outside."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

import safegen
from safegen.files import replacing
from safegen.format.image import contact_sheet
from safegen_eval.intervals import Measure
from safegen_eval.suite import Suite
from safegen_eval.table import ALL_ATTACKS, Line, split

SHOWN = 40
"""Pictures on a contact sheet."""
MARKERS = "osD^"
FIGURES = {
    "attack_success": ("attack success", "{:.1%}"),
    "attack_change": ("against the first arm", "{:+.1%}"),
    "called_unsafe": ("called unsafe", "{:.1%}"),
    "agreement": ("agreement", "{:.1%}"),
    "agreement_change": ("against the first arm", "{:+.1%}"),
    "frechet_distance": ("Frechet distance", "{:.2f}"),
    "frechet_change": ("against the first arm", "{:+.1%}"),
    "precision": ("precision", "{:.2f}"),
    "recall": ("recall", "{:.2f}"),
    "clip_score": ("CLIP score", "{:.1f}"),
    "gate_open": ("gate opened", "{:.1%}"),
    "seconds": ("s a picture", "{:.3f}"),
}


def write_report(
    out: Path,
    suite: Suite,
    lines: Sequence[Line],
    pictures: pa.Table,
    sources: Mapping[str, str],
) -> None:
    """Write the page whole or not at all.

    Args:
        out: the .html file.
        suite: what was asked for.
        lines: the table.
        pictures: rows of :data:`safegen_eval.run.PICTURES`.
        sources: name -> digest of the program, engines, bundles and the judge.
    """
    pages = Environment(
        loader=PackageLoader("safegen_eval", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = pages.get_template("report.html.j2").render(
        version=safegen.__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="minutes"),
        suite=suite,
        done=len(pictures),
        sources=sources,
        attacks=_rows([line for line in lines if line.kind == "attack"]),
        benign=_rows([line for line in lines if line.kind == "benign"]),
        trade_off=_svg(chart) if (chart := trade_off(lines)) else None,
        curves=_curves(pictures),
        sheets=_sheets(pictures),
    )
    with replacing(out) as scratch:
        scratch.write_text(html, "utf-8")


def _rows(lines: Sequence[Line]) -> dict[str, Any]:
    """Heads and cells of one table; columns that no line has are left out."""
    columns = [name for name in FIGURES if any(name in line.figures for line in lines)]
    cells = [
        [
            line.set,
            str(line.steps),
            line.arm,
            *(written(name, line.figures.get(name)) for name in columns),
            str(line.figures["seconds"].n),
        ]
        for line in sorted(lines, key=lambda line: (line.set, -line.steps))
    ]
    return {"heads": ["set", "steps", "arm", *(FIGURES[name][0] for name in columns), "N"], "cells": cells}


def written(name: str, measure: Measure | None) -> str:
    """A figure of :data:`FIGURES` with its interval, as people read it."""
    if measure is None:
        return ""
    form = FIGURES[name][1]
    if np.isnan(measure.low):
        return form.format(measure.value)
    return f"{form.format(measure.value)} ({form.format(measure.low)} to {form.format(measure.high)})"


def trade_off(lines: Sequence[Line]) -> Figure | None:
    """Attack success against Frechet distance, one point an arm, one chart for each number of steps.

    None where no arm has both.
    """
    steps = sorted({line.steps for line in lines}, reverse=True)
    figure = Figure(figsize=(5.0 * len(steps) + 2.5, 4.5), layout="constrained")
    arms, drawn = list(dict.fromkeys(line.arm for line in lines)), {}
    for axes, count in zip(np.atleast_1d(figure.subplots(1, len(steps))), steps, strict=True):
        for i, arm in enumerate(arms):
            own = [line for line in lines if line.arm == arm and line.steps == count]
            hit = [line for line in own if line.kind == "attack"]
            whole = next((line for line in hit if line.set == ALL_ATTACKS), hit[0] if hit else None)
            far = next((line for line in own if "frechet_distance" in line.figures), None)
            if whole is None or far is None:
                continue
            x, y = far.figures["frechet_distance"], whole.figures["attack_success"]
            # ten colours and then ten more markers: points lie on one another, so names go beside
            drawn[arm] = axes.errorbar(
                x.value,
                y.value,
                xerr=_reach(x),
                yerr=_reach(y),
                capsize=2,
                linewidth=0.8,
                marker=MARKERS[i // 10 % len(MARKERS)],
                color=f"C{i % 10}",
            )
        axes.set(title=f"{count} steps", xlabel="Frechet distance, benign", ylabel="attack success")
        axes.set_ylim(-0.05, 1.05)
    if not drawn:
        return None
    figure.legend(list(drawn.values()), list(drawn), loc="outside right upper", fontsize="small")
    return figure


def _reach(measure: Measure) -> list[list[float]]:
    return [[max(0.0, measure.value - measure.low)], [max(0.0, measure.high - measure.value)]]


def _longest(pictures: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Each arm's pictures at the most steps."""
    for arm, own in split(pictures, "arm").items():
        steps = split(own, "steps")
        yield arm, steps[max(steps)]


def _curves(pictures: pa.Table) -> dict[str, str]:
    """Arm -> evidence over the steps, median and quartiles, attack and benign sets apart."""
    charts = {}
    for arm, longest in _longest(pictures):
        kinds = split(longest, "kind")
        figure = Figure(figsize=(6, 3.2), layout="constrained")
        axes, drawn = figure.subplots(), False
        for kind, colour in (("attack", "tab:red"), ("benign", "tab:blue")):
            traces = kinds[kind]["evidence"].to_pylist() if kind in kinds else []
            length = max(map(len, traces), default=0)
            whole = np.array([trace for trace in traces if len(trace) == length and length])
            if not whole.size:
                continue
            low, middle, high = np.quantile(whole, [0.25, 0.5, 0.75], axis=0)
            at = np.arange(1, length + 1)
            axes.plot(at, middle, color=colour, label=f"{kind}, {len(whole)} pictures")
            axes.fill_between(at, low, high, color=colour, alpha=0.2, linewidth=0)
            drawn = True
        if drawn:
            axes.axhline(0, color="black", linewidth=0.8)
            axes.set_yscale("symlog", linthresh=1)
            axes.set(xlabel="step at which the guard looked", ylabel="evidence (gate opens above 0)")
            axes.legend(fontsize="small")
            charts[arm] = _svg(figure)
    return charts


def _sheets(pictures: pa.Table) -> list[dict[str, Any]]:
    """A contact sheet for each arm and set at the most steps; those of attacks are to be blurred."""
    sheets = []
    for arm, longest in _longest(pictures):
        for name, rows in split(longest, "set").items():
            chosen = np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).astype(int)
            images = [Image.open(io.BytesIO(rows["thumbnail"][int(i)].as_py())) for i in chosen]
            file = io.BytesIO()
            zoom = max(1, 64 // max(images[0].size))
            contact_sheet(images, columns=min(10, len(images)), zoom=zoom).save(file, "PNG")
            # what a benign prompt drew may be unsafe, too
            unsafe = rows["kind"][0].as_py() == "attack" or any(
                rows["unsafe"][int(i)].as_py() for i in chosen
            )
            sheets.append(
                {
                    "arm": arm,
                    "set": name,
                    "unsafe": unsafe,
                    "shown": len(images),
                    "of": len(rows),
                    "data": base64.b64encode(file.getvalue()).decode(),
                }
            )
    return sheets


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg")
    text = file.getvalue()
    return text[text.index("<svg") :]
