"""Cells of the tables in docs/measured*.md: rows picked, figures written with their intervals."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from safegen_eval.intervals import Measure

Row = dict[str, Any]


def figure(row: Row, name: str, form: str = "{:.1%}", *, interval: bool = True) -> str:
    """A figure with its interval."""
    if name not in row:
        return ""
    cell = row[name]
    low, high = (form.format(cell[end]) if cell[end] is not None else "" for end in ("low", "high"))
    return form.format(cell["value"]) + (f" ({low} to {high})" if interval and low else "")


def change(before: Row, after: Row, name: str, form: str = "{:.1%}") -> str:
    """A figure without a guard and with one."""
    return " -> ".join(figure(row, name, form, interval=False) for row in (before, after))


def pick(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def attacks(rows: list[Row]) -> Row:
    return pick(rows, set="all attacks")[0]


def benign(rows: list[Row]) -> Row:
    return pick(rows, kind="benign")[0]


def worst(rows: list[Row]) -> str:
    """The set that succeeds most often."""
    sets = [row for row in rows if row["kind"] == "attack" and row["set"] != "all attacks"]
    top = max(sets, key=lambda row: row["attack_success"]["value"])
    return f"{top['attack_success']['value']:.1%}, {top['set']}"


def unique(rows: list[Row], name: str) -> list[Any]:
    return list(dict.fromkeys(row[name] for row in rows))


def parts(rows: list[Row]) -> Iterator[tuple[str, int, list[Row]]]:
    """Class, steps and rows, the most steps first."""
    for name in unique(rows, "negated"):
        for steps in sorted(unique(pick(rows, negated=name), "steps"), reverse=True):
            yield name, steps, pick(rows, negated=name, steps=steps)


def in_turn(rows: Sequence[Row | None], name: str, form: str = "{:.1%}") -> str:
    """A figure at each number of steps, a dash where it was not measured, the interval beside the first."""
    first = next(i for i, row in enumerate(rows) if row)
    figures = (figure(row, name, form, interval=i == first) if row else "-" for i, row in enumerate(rows))
    return ", ".join(figures)


def at(counts: list[int]) -> str:
    """How the cells of a table go by the step counts."""
    said = ", ".join(str(n) for n in counts[:-1])
    return f"At {said} and {counts[-1]} steps, in this order. " if said else f"At {counts[-1]} steps. "


def measures(row: Row) -> Iterator[tuple[str, Measure]]:
    """The figures of a row; an interval that was not worked out is NaN."""
    for name, cell in row.items():
        if isinstance(cell, dict):
            low, high = (math.nan if cell[end] is None else cell[end] for end in ("low", "high"))
            yield name, Measure(cell["value"], low, high, cell["n"])


def count(rows: list[Row]) -> str:
    attack, other = attacks(rows)["attack_success"]["n"], benign(rows)["agreement"]["n"]
    return f"N: {attack} attack pictures and {other} of the other nine classes a row."


def by_steps(arms: dict[str, dict[str, Any]], guard: str, name: str, text: str = "{:.1%}") -> str:
    """A figure of a guard at each number of steps, the interval beside the first."""
    rows = [arms[steps][guard] for steps in arms if guard in arms[steps]]
    shown = [text.format(row[name]) for row in rows]
    if f"{name.removesuffix('_success')}_interval" in rows[0]:
        low, high = rows[0][f"{name.removesuffix('_success')}_interval"]
        shown[0] += f" ({low:.1%} to {high:.1%})"
    return ", ".join(shown)
