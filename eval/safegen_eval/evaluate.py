"""A suite from its file to its report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import safegen
from safegen.files import file_sha256, replacing
from safegen_eval.quality import Features
from safegen_eval.report import write_report
from safegen_eval.run import (
    PICTURES,
    Evaluator,
    Report,
    Unit,
    gather,
    plan_units,
    program_digest,
    run_here,
    run_missing,
    shard,
    sources_of,
)
from safegen_eval.suite import Suite, read_suite
from safegen_eval.table import Line, figures_of, find_reference, reference_features, to_json


@dataclass(frozen=True)
class Outcome:
    """What is there after a run."""

    done: int
    planned: int
    """Pictures of the whole suite, whatever the shard."""
    lines: list[Line]
    """The table, once every picture is there."""


def evaluate(
    path: Path,
    out: Path,
    *,
    part: str | None = None,
    ray: str | None = None,
    workers: int = 2,
    report: Report = lambda done, total: None,
) -> Outcome:
    """Draw and judge; once every picture is there, write pictures.parquet, table.json and report.html.

    Args:
        path: SUITE.toml.
        out: a folder; what an earlier run left there is not drawn again.
        part: ``3/8`` draws the third of eight equal shares.
        ray: the address of a Ray cluster, or ``local``.
        workers: evaluators at a time, on Ray.
        report: progress.

    Raises:
        UsageError: the suite, or a file or package that it needs, is missing or wrong.
    """
    suite = read_suite(path)
    folder = suite.quality.reference
    reference = find_reference(Path(folder)) if folder else []
    units = plan_units(suite)
    run = partial(run_here, suite)
    if ray:
        from safegen_eval.on_ray import run_on_ray

        run = partial(run_on_ray, suite, address=ray, workers=workers)
    run_missing(shard(units, part), out, run, report)
    return finish(suite, units, out, reference)


def finish(suite: Suite, units: Sequence[Unit], out: Path, reference: Sequence[Path]) -> Outcome:
    """Write the results, if every unit is done."""
    planned = sum(len(unit.todo) for unit in units)
    parts = list(gather(units, out))
    pictures = pa.concat_tables(parts) if parts else PICTURES.empty_table()
    if len(pictures) < planned or not planned:
        return Outcome(len(pictures), planned, [])
    real = _real(suite, reference)
    lines = figures_of(pictures, real, suite.arms[0].name)
    with replacing(out / "pictures.parquet") as scratch:
        pq.write_table(pictures, scratch, compression="zstd")
    with replacing(out / "table.json") as scratch:
        scratch.write_text(json.dumps(to_json(lines), indent=1) + "\n", "utf-8")
    write_report(out / "report.html", suite, lines, pictures, _sources(suite))
    return Outcome(len(pictures), planned, lines)


def _real(suite: Suite, reference: Sequence[Path]) -> Features | None:
    """Features of the suite's reference images, where there are some and features can be had."""
    featurize = Evaluator(suite).featurize if reference else None
    return reference_features(reference, featurize) if featurize else None


def _sources(suite: Suite) -> dict[str, str]:
    """Digests of the program, every engine and bundle that drew, and the model that judged."""
    found = {f"safegen {safegen.__version__}": program_digest()}
    for source in sources_of(suite).values():
        found[f"engine {source.name}"] = source.engine
        if source.bundle:
            found[f"bundle {source.bundle_name}"] = source.bundle
    if suite.judge.model:
        found[f"judge {Path(suite.judge.model).name}"] = file_sha256(Path(suite.judge.model))
    return found
