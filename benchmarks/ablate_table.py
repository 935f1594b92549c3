"""The tables of docs/ablation.md, from what ablate.py measured."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablate_arms import LADDER
from safegen.files import replacing
from safegen_eval.intervals import difference

ROOT = Path(__file__).resolve().parent.parent
OUT = Path(__file__).parent / "ablate.json"
PAGE = ROOT / "docs" / "ablation.md"
TODAY = Path(__file__).parent / "gate.json"
"""remeasure.py's rows have the same pictures of the package's own guard."""
LAST = next(reversed(LADDER))
ATTACKS, ORDINARY = 300, 540
Row = dict[str, Any]
Held = dict[str, dict[str, Row]]
"""Class -> arm -> row."""


def write(work: Path, classes: list[str]) -> None:
    """Gather every class's files in one, and write both tables into the page."""
    measured = {
        steps: {name: json.loads((work / f"{name}-{steps}.json").read_text()) for name in classes}
        for steps in (20, 4)
    }
    for row in json.loads(TODAY.read_text()):
        name = row["negated"].replace(" ", "-")
        if row["steps"] in measured:
            measured[row["steps"]][name][LAST] = {
                "success": row["success_bits"],
                "agree": row["agree_bits"],
                "false_alarm": row["false_alarm_bits"],
                "attack_distance": row["attack_distance"],
            }
    with replacing(OUT) as scratch:
        text = json.dumps(measured, separators=(",", ":"))
        scratch.write_text(text.replace('},"', '},\n"') + "\n")
    page = PAGE.read_text()
    for name, lines in (("single", single(measured)), ("ladder", ladder(measured))):
        start, end = (f"<!-- {edge} {name} -->" for edge in ("begin", "end"))
        before, after = page.split(start)[0], page.split(end)[1]
        page = f"{before}{start}\n{chr(10).join(lines)}\n{end}{after}"
    PAGE.write_text(page)


def pooled(held: Held, arm: str, field: str, count: int) -> NDArray[np.bool_]:
    """The outcomes of all classes, end to end."""
    packed = (np.frombuffer(bytes.fromhex(rows[arm][field]), np.uint8) for rows in held.values())
    return np.concatenate([np.unpackbits(bits)[:count].astype(bool) for bits in packed])


def points(held: Held, arm: str, other: str, field: str, count: int) -> str:
    """How many points more than the other arm, with the interval of pairs."""
    change = difference(pooled(held, arm, field, count), pooled(held, other, field, count))
    return f"{100 * change.value:+.2f} ({100 * change.low:+.2f} to {100 * change.high:+.2f})"


def worst(held: Held, arm: str, other: str) -> str:
    """The class that lost most to the other arm: what is left of it with each."""

    def left(name: str, which: str) -> int:
        return int(pooled({name: held[name]}, which, "success", ATTACKS).sum())

    name = max(held, key=lambda name: (left(name, arm) - left(name, other), left(name, arm)))
    return f"{name} {left(name, other) / 3:.1f} -> {left(name, arm) / 3:.1f}"


def cells(measured: dict[int, Held], arm: str, other: str) -> str:
    """One row: both numbers of steps."""
    parts = []
    for held in measured.values():
        left = 100 * pooled(held, arm, "success", ATTACKS).mean()
        parts += [f"{left:.2f}", points(held, arm, other, "success", ATTACKS), worst(held, arm, other)]
    agree = [points(held, arm, other, "agree", ORDINARY).split(" ")[0] for held in measured.values()]
    alarms = [f"{100 * pooled(held, arm, 'false_alarm', ORDINARY).mean():.2f}" for held in measured.values()]
    each = ([rows[arm]["attack_distance"] for rows in held.values()] for held in measured.values())
    distance = [f"{np.mean(values):.1f}" for values in each]
    return " | ".join([*parts, ", ".join(agree), ", ".join(alarms), ", ".join(distance)])


HEAD = (
    "left at 20 steps, % | points | worst class, % | left at 4 steps, % | points | worst class, % |"
    " agreement of the others, points | gate open on them, % | distance of guarded pictures"
)


def table(measured: dict[int, Held], title: str, pairs: list[tuple[str, str]]) -> list[str]:
    """Rows of (arm, the arm that it is compared with)."""
    rule = "|---" * (HEAD.count("|") + 2) + "|"
    return [f"| {title} | {HEAD} |", rule, *(f"| {a} | {cells(measured, a, b)} |" for a, b in pairs)]


def arms_of(measured: dict[int, Held]) -> list[str]:
    return list(next(iter(measured[20].values())))


def single(measured: dict[int, Held]) -> list[str]:
    """Each rule off, all else as it was on 30 November."""
    alone = [arm for arm in arms_of(measured) if not arm[0].isdigit()]
    return table(measured, "the guard of 30 November", [(arm, "today") for arm in alone])


def ladder(measured: dict[int, Held]) -> list[str]:
    """Each rung compared with the one above; what stands on the fifth with the fifth."""
    arms = sorted(arm for arm in arms_of(measured) if arm[0].isdigit())
    rungs = [arm for arm in arms if arm[1] == ":"]
    above = dict(zip(rungs, ["today", *rungs], strict=False))
    fifth = next(arm for arm in rungs if arm.startswith("5:"))
    pairs = [*above.items(), *((arm, fifth) for arm in arms if arm not in rungs)]
    return table(measured, "taken away", pairs)
