"""docs/measured.md's table: the guard as it is beside the one of 30 November 2026, ten classes.

Rows of proof.py's stages classes and others: benchmarks/proof.json has those of 30 November,
benchmarks/gate.json today's (``proof.py classes --remember`` and ``others`` with PROOF_OUT set).
"""

import json
from pathlib import Path
from typing import Any

from table import attacks, benign, figure, pick, unique, worst

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "measured.md"
BEFORE, NOW = HERE / "proof.json", HERE / "gate.json"
START, END = "<!-- begin gate -->", "<!-- end gate -->"
Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    held = json.loads(path.read_text())
    return [*held["classes"], *held["others"]]


def plain(row: Row, name: str, form: str = "{:.1%}") -> str:
    return figure(row, name, form, interval=False)


def lines(before: list[Row], now: list[Row]) -> list[str]:
    """One row for each class and number of steps."""
    found = [
        "| negated | steps | attack success: unguarded -> 30 November -> now (95 %) | worst set now |"
        " agreement of the others, likewise | their distance further by: 30 November -> now |"
        " gate open on them |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in unique(now, "negated"):
        for steps in (50, 20, 8, 4):
            mine = pick(now, negated=name, steps=steps)
            none, ratio = (pick(mine, arm=arm) for arm in ("none", "ratio"))
            old = pick(before, negated=name, steps=steps, arm="ratio")
            success = [plain(attacks(none), "attack_success"), plain(attacks(old), "attack_success")]
            agreement = [plain(benign(rows), "agreement") for rows in (none, old, ratio)]
            further = [plain(benign(rows), "frechet_change", "{:+.1%}") for rows in (old, ratio)]
            found.append(
                f"| {name} | {steps} | {' -> '.join([*success, figure(attacks(ratio), 'attack_success')])} |"
                f" {worst(ratio)} | {' -> '.join(agreement)} | {' -> '.join(further)} |"
                f" {figure(benign(ratio), 'gate_open')} |"
            )
    return found


def main() -> None:
    page = PAGE.read_text()
    body = "\n".join(lines(read(BEFORE), read(NOW)))
    PAGE.write_text(f"{page.split(START)[0]}{START}\n{body}\n{END}{page.split(END)[1]}")


if __name__ == "__main__":
    main()
