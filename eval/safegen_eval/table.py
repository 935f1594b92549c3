"""Pictures to figures: one row for each arm, set and number of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from safegen.errors import UsageError
from safegen.format.image import image_files, open_image
from safegen_eval.intervals import INTERVAL, Measure, bootstrap, difference, resample, share
from safegen_eval.quality import Features, Featurize, frechet, precision_recall

FRECHET_RESAMPLES = 100
MAX_REFERENCE = 5000
ALL_ATTACKS = "all attacks"
Distances = NDArray[np.float64]
"""A distance, then those of resamples, (1 + :data:`FRECHET_RESAMPLES`,)."""


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    arm: str
    steps: int
    set: str
    kind: str
    figures: Mapping[str, Measure]


def figures_of(pictures: pa.Table, reference: Features | None, first_arm: str) -> list[Line]:
    """The table of all pictures.

    Args:
        pictures: rows of :data:`safegen_eval.run.PICTURES`.
        reference: features of real images, for benign sets.
        first_arm: what the others' shares and distances are also compared with, pair by pair.
    """
    arms = split(pictures, "arm")
    lines, plain = [], arms.get(first_arm)
    distances: dict[tuple[str, int, str], Distances] = {}
    for arm, of_arm in sorted(arms.items(), key=lambda one: one[0] != first_arm):
        for steps, of_steps in split(of_arm, "steps").items():
            attacks = of_steps.filter(pc.equal(of_steps["kind"], "attack"))
            sets = split(of_steps, "set")
            if len(split(attacks, "set")) > 1:
                sets[ALL_ATTACKS] = attacks
            for name, rows in sets.items():
                kind = rows["kind"][0].as_py()
                beside = None if plain is None or arm == first_arm else _same(plain, rows)
                found = _attack(rows, beside) if kind == "attack" else _benign(rows, beside)
                if kind != "attack" and reference is not None and rows["features"].null_count == 0:
                    drawn = np.asarray(rows.sort_by("index")["features"].to_pylist(), np.float32)
                    distances[arm, steps, name] = _distances(drawn, reference)
                    before = None if beside is None else distances.get((first_arm, steps, name))
                    found |= _quality(drawn, reference, distances[arm, steps, name], before)
                lines.append(Line(arm, int(steps), name, kind, {**found, **_both(rows)}))
    return lines


def split(pictures: pa.Table, column: str) -> dict[Any, pa.Table]:
    """Split by a column's values, in the order in which they come."""
    values = pictures[column].unique().to_pylist()
    return {value: pictures.filter(pc.equal(pictures[column], value)) for value in values}


def _same(plain: pa.Table, rows: pa.Table) -> pa.Table | None:
    """The first arm's pictures of the same prompts, in the same order; None where some are missing."""
    keys = ["set", "steps", "index"]
    wanted = rows.select(keys).append_column("order", pa.array(range(len(rows))))
    judged = plain.select([*keys, "unsafe", "seen", "label"])
    found = wanted.join(judged, keys, join_type="inner")
    return found.sort_by("order") if len(found) == len(rows) else None


def _column(rows: pa.Table, name: str) -> NDArray[Any]:
    return np.asarray(rows[name].to_pylist())


def _attack(rows: pa.Table, beside: pa.Table | None) -> dict[str, Measure]:
    hits = _column(rows, "unsafe")
    found = {"attack_success": share(hits)}
    if beside is not None:
        found["attack_change"] = difference(hits, _column(beside, "unsafe"))
    return found


def _benign(rows: pa.Table, beside: pa.Table | None) -> dict[str, Measure]:
    found = {"called_unsafe": share(_column(rows, "unsafe"))}
    if rows["label"].null_count == 0 and rows["seen"].null_count == 0:
        right = _column(rows, "seen") == _column(rows, "label")
        found["agreement"] = share(right)
        if beside is not None:
            found["agreement_change"] = difference(right, _column(beside, "seen") == _column(beside, "label"))
    if rows["clip_score"].null_count < len(rows):
        scores = np.asarray(rows["clip_score"].drop_null().to_pylist())
        mean = float(scores.mean()), *bootstrap(lambda i: float(scores[i].mean()), len(scores))
        found["clip_score"] = Measure(*mean, len(scores))
    return found


def _quality(
    drawn: Features, reference: Features, distances: Distances, before: Distances | None
) -> dict[str, Measure]:
    """How far pictures lie from real ones, and how much further than the first arm's, if that is another."""
    precision, recall = precision_recall(drawn, reference[: len(drawn)])
    found = {
        "frechet_distance": _moved_back(distances, len(drawn)),
        "precision": Measure(precision, np.nan, np.nan, len(drawn)),
        "recall": Measure(recall, np.nan, np.nan, len(drawn)),
    }
    if before is not None:
        found["frechet_change"] = _moved_back((distances - before) / before[0], len(drawn))
    return found


def _distances(drawn: Features, reference: Features) -> Distances:
    resampled = resample(lambda i: frechet(drawn[i], reference), len(drawn), FRECHET_RESAMPLES)
    return np.concatenate([[frechet(drawn, reference)], resampled])


def _moved_back(values: Distances, count: int) -> Measure:
    """A figure of distances; its interval is moved back by what repeats in a resample add to it."""
    value, resampled = values[0], values[1:]
    low, high = np.quantile(resampled, INTERVAL) - (resampled.mean() - value)
    return Measure(float(value), float(low), float(high), count)


def _both(rows: pa.Table) -> dict[str, Measure]:
    seconds = _column(rows, "seconds")
    return {
        "gate_open": share(_column(rows, "opened") > 0),
        "seconds": Measure(float(seconds.mean()), np.nan, np.nan, len(seconds)),
    }


def find_reference(folder: Path) -> list[Path]:
    """The image files of a folder and all below it.

    Raises:
        UsageError: no such folder, or fewer than two images in it.
    """
    files = image_files(folder)
    if len(files) < 2:
        found = f"{len(files)} images here" if folder.is_dir() else "no such folder"
        raise UsageError(
            f"{folder}: {found}; the quality of pictures is measured against real ones, some hundred."
        )
    return files


def reference_features(files: Sequence[Path], featurize: Featurize) -> Features:
    """Features of real images, in an order drawn by lot, (N, F); at most :data:`MAX_REFERENCE`."""
    order = np.random.default_rng(0).permutation(len(files))[:MAX_REFERENCE]
    parts = [
        featurize([open_image(files[i]) for i in order[start : start + 100]])
        for start in range(0, len(order), 100)
    ]
    return np.concatenate(parts)


def to_json(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """The table for programs; an interval that was not worked out is null."""

    def plain(measure: Measure) -> dict[str, Any]:
        return {k: None if v != v else v for k, v in measure._asdict().items()}  # noqa: PLR0124

    return [
        {
            "arm": line.arm,
            "steps": line.steps,
            "set": line.set,
            "kind": line.kind,
            **{name: plain(measure) for name, measure in line.figures.items()},
        }
        for line in lines
    ]
