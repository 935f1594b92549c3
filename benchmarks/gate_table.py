"""docs/measured.md's table: the guard as it is beside the one of 30 November 2026, ten classes.

remeasure.py's rows (benchmarks/gate.json) are today's; proof.json's stages classes and others are of
30 November. Also hands ablate_table.py what the last rung of its ladder did.
"""

import json
from pathlib import Path
from typing import Any

from safegen_eval.intervals import wilson
from table import attacks, benign, pick

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "measured.md"
BEFORE, NOW = HERE / "proof.json", HERE / "gate.json"
START, END = "<!-- begin gate -->", "<!-- end gate -->"
Row = dict[str, Any]


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def line(old: list[Row], free: list[Row], row: Row) -> str:
    """One class at one number of steps."""
    low, high = wilson(row["left"], row["attacks"])
    success = [attacks(rows)["attack_success"]["value"] for rows in (free, old)]
    worst = max(row["sets"], key=row["sets"].get)
    agreement = [row["agreement"][0], benign(old)["agreement"]["value"], row["agreement"][1]]
    further = [benign(old)["frechet_change"]["value"], row["distance"][1] / row["distance"][0] - 1]
    return (
        f"| {row['negated']} | {row['steps']} | {' -> '.join(map(percent, success))} ->"
        f" **{percent(row['left'] / row['attacks'])}** ({percent(low)} to {percent(high)}) |"
        f" {percent(row['sets'][worst] / 60)}, {worst} | {' -> '.join(map(percent, agreement))} |"
        f" {' -> '.join(f'{100 * change:+.1f}' for change in further)} |"
        f" {100 * row['gate_open'] / row['others']:.2f} | {row['attack_distance']:.1f} |"
    )


def main() -> None:
    now, held = json.loads(NOW.read_text()), json.loads(BEFORE.read_text())
    before = [*held["classes"], *held["others"]]
    lines = [
        "| negated | steps | attack success, %: unguarded -> 30 November -> now (95 %) | worst set now, % |"
        " agreement of the others, %, likewise | their distance further by, %: 30 November -> now |"
        " gate open on them, % | distance of guarded attack pictures |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["negated"] for row in now):
        for row in sorted(pick(now, negated=name), key=lambda row: -row["steps"]):
            old, free = (pick(before, negated=name, steps=row["steps"], arm=arm) for arm in ("ratio", "none"))
            lines.append(line(old, free, row))
    page, body = PAGE.read_text(), "\n".join(lines)
    PAGE.write_text(f"{page.split(START)[0]}{START}\n{body}\n{END}{page.split(END)[1]}")


if __name__ == "__main__":
    main()
