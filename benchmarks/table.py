"""Write the tables of proof.json and its like into docs/measured*.md, and draw their chart."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from safegen_eval.intervals import Measure
from safegen_eval.report import trade_off
from safegen_eval.table import Line

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("measured*.md"))
CHART = ROOT / "docs" / "images" / "guards-sneaker.png"
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


def classes(rows: list[Row]) -> str:
    """Every class, unguarded and with ratio; the others are those of the stage others."""
    lines = [
        "| negated | steps | attack success, unguarded -> `ratio` (95 %) | worst set |"
        " agreement of the others | their Frechet distance | further by (95 %) | gate open on them |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, steps, own in parts(rows):
        none, ratio = (pick(own, arm=arm) for arm in ("none", "ratio"))
        a, b = benign(none), benign(ratio)
        lines.append(
            f"| {name} | {steps} | {figure(attacks(none), 'attack_success', interval=False)} ->"
            f" {figure(attacks(ratio), 'attack_success')} | {worst(ratio)} |"
            f" {change(a, b, 'agreement')} | {change(a, b, 'frechet_distance', '{:.2f}')} |"
            f" {figure(b, 'frechet_change', '{:+.1%}')} | {figure(b, 'gate_open')} |"
        )
    return "\n".join([*lines, "", count(rows)])


def guards(rows: list[Row], *, gate: bool = False) -> str:
    """Every guard of a stage, one row for all step counts. ``gate``: how often it opened on the others."""
    counts = sorted(unique(rows, "steps"), reverse=True)
    lines = [
        "| negated | guard | attack success (95 %) | worst set | agreement of the others |"
        " their Frechet distance |" + " gate open on them |" * gate,
        "|---|---|---|---|---|---|" + "---|" * gate,
    ]
    for name in unique(rows, "negated"):
        for arm in unique(pick(rows, negated=name), "arm"):
            each = [pick(rows, negated=name, arm=arm, steps=steps) for steps in counts]
            rest = [benign(r) if r else None for r in each]
            cells = [
                in_turn([attacks(r) if r else None for r in each], "attack_success"),
                worst(pick(rows, negated=name, arm=arm)),
                in_turn(rest, "agreement"),
                in_turn(rest, "frechet_distance", "{:.2f}"),
                *([in_turn(rest, "gate_open")] if gate else []),
            ]
            lines.append(f"| {name} | {arm} | {' | '.join(cells)} |")
    arms = {(row["negated"], row["arm"]) for row in rows}
    measured = {(row["negated"], row["arm"], row["steps"]) for row in rows}
    left_out = " A dash: not measured." * (len(measured) < len(arms) * len(counts))
    return "\n".join([*lines, "", f"{at(counts)}{count(rows)}{left_out}"])


def in_turn(rows: Sequence[Row | None], name: str, form: str = "{:.1%}") -> str:
    """A figure at each number of steps, a dash where it was not measured, the interval beside the first."""
    first = next(i for i, row in enumerate(rows) if row)
    figures = (figure(row, name, form, interval=i == first) if row else "-" for i, row in enumerate(rows))
    return ", ".join(figures)


def at(counts: list[int]) -> str:
    """How the cells of a table go by the step counts."""
    said = ", ".join(str(n) for n in counts[:-1])
    return f"At {said} and {counts[-1]} steps, in this order. " if said else f"At {counts[-1]} steps. "


def banks(rows: list[Row]) -> str:
    """Ratio at each size of the bank, one row for all step counts."""
    rows = pick(rows, arm="ratio")
    counts = sorted(unique(rows, "steps"), reverse=True)
    lines = ["| negated | bank | attack success (95 %) | agreement of the others | gate open on them |",
             "|---|---|---|---|---|"]  # fmt: skip
    for name in unique(rows, "negated"):
        for size in sorted(unique(pick(rows, negated=name), "bank")):
            own = [pick(rows, negated=name, bank=size, steps=steps) for steps in counts]
            success = in_turn([attacks(r) for r in own], "attack_success")
            agreement, opened = (in_turn([benign(r) for r in own], n) for n in ("agreement", "gate_open"))
            lines.append(f"| {name} | {size} | {success} | {agreement} | {opened} |")
    return "\n".join([*lines, "", f"{at(counts)}{count(rows)}"])


def other_banks(rows: list[Row]) -> str:
    """The other guards at each size of the bank: attack success and agreement of the others."""
    rows = [row for row in rows if row["arm"] != "ratio"]
    sizes = sorted(unique(rows, "bank"))
    lines = [
        f"| negated | steps | guard | {' | '.join(f'{size} images' for size in sizes)} |",
        "|---|---|---|" + "---|" * len(sizes),
    ]
    for name, steps, own in parts(rows):
        for arm in unique(own, "arm"):
            each = [pick(own, arm=arm, bank=size) for size in sizes]
            if not all(each):
                continue
            cells = (
                f"{attacks(r)['attack_success']['value']:.1%}, {benign(r)['agreement']['value']:.1%}"
                for r in each
            )
            lines.append(f"| {name} | {steps} | {arm} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Attack success, agreement of the others. {count(rows)}"])


def seeds(rows: list[Row]) -> str:
    """Ratio with many seeds a prompt, set by set."""
    sets = ("plain", "synonyms", "misspellings", "compositions", "found")
    lines = [
        f"| negated | steps | {' | '.join(sets)} | all attacks | agreement of the others |"
        " their Frechet distance | gate open on them |",
        "|---|---|" + "---|" * (len(sets) + 4),
    ]
    for name, steps, own in parts(rows):
        none, ratio = (pick(own, arm=arm) for arm in ("none", "ratio"))
        left = [figure(pick(ratio, set=each)[0], "attack_success") for each in (*sets, "all attacks")]
        a, b = benign(none), benign(ratio)
        lines.append(
            f"| {name} | {steps} | {' | '.join(left)} | {change(a, b, 'agreement')} |"
            f" {change(a, b, 'frechet_distance', '{:.2f}')} | {figure(b, 'gate_open')} |"
        )
    each, rest = pick(rows, set=sets[0])[0]["attack_success"]["n"], benign(rows)["agreement"]["n"]
    note = f"N: {each} pictures of each set and {rest} of the other nine classes a row."
    return "\n".join([*lines, "", note])


def compositions(rows: list[Row]) -> str:
    """Ratio against compositions, class by class, beside twice what the judge itself gets wrong."""
    counts = sorted(unique(rows, "steps"), reverse=True)
    lines = [
        f"| negated | N | unguarded, {counts[-1]} steps | {' | '.join(f'{n} steps' for n in counts)} |"
        " twice the floor |",
        "|---|---|---|---|" + "---|" * len(counts),
    ]
    for name in unique(rows, "negated"):
        own = pick(rows, negated=name, set="compositions")
        none, *_ = pick(own, arm="none", steps=counts[-1])
        each = [pick(own, arm="ratio", steps=n)[0] for n in counts]
        cells = [figure(row, "attack_success") for row in each]
        success = none["attack_success"]
        lines.append(
            f"| {name} | {success['n']} | {success['value']:.1%} | {' | '.join(cells)} |"
            f" {2 * none['floor']['value']:.1%} |"
        )
    return "\n".join(lines)


def draw_chart(rows: list[Row]) -> None:
    """Every guard for sneakers at 20 steps: attack success against Frechet distance."""
    lines = [
        Line(row["arm"], row["steps"], row["set"], row["kind"], dict(measures(row)))
        for row in pick(rows, negated="sneaker", steps=20)
    ]
    chart = trade_off(lines)
    assert chart is not None, "proof.json has no guards for sneakers at 20 steps"
    chart.savefig(CHART, dpi=133)


def measures(row: Row) -> Iterator[tuple[str, Measure]]:
    """The figures of a row; an interval that was not worked out is NaN."""
    for name, cell in row.items():
        if isinstance(cell, dict):
            low, high = (math.nan if cell[end] is None else cell[end] for end in ("low", "high"))
            yield name, Measure(cell["value"], low, high, cell["n"])


def count(rows: list[Row]) -> str:
    attack, other = attacks(rows)["attack_success"]["n"], benign(rows)["agreement"]["n"]
    return f"N: {attack} attack pictures and {other} of the other nine classes a row."


def scenarios(table: dict[str, dict[str, Any]]) -> str:
    """Unconditional and class-conditional sampling side by side, one row a guard."""
    lines = [
        "| negated | guard | share, no class (95 %) | its rest: distance, precision, recall |"
        " attack success, its label (95 %) | agreement, other labels | their distance, precision, recall |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, arms in table.items():
        for guard, row in arms.items():
            free, told = row["unconditional"], row["class-conditional"]
            shares = (
                f"{value:.3f} ({low:.3f} to {high:.3f})"
                for value, (low, high) in (
                    (free["share"], free["share_interval"]),
                    (told["attack_success"], told["attack_interval"]),
                )
            )
            rests = (
                f"{r['frechet_distance']:.2f}, {r['precision']:.2f}, {r['recall']:.2f}"
                for r in (free["rest"], told["rest"])
            )
            (share, attack), (kept, others) = shares, rests
            lines.append(
                f"| {name} | {guard} | {share} | {kept} | {attack} | {told['agreement']:.3f} | {others} |"
            )
    one = next(iter(next(iter(table.values())).values()))
    counts = one["unconditional"]["pictures"], one["class-conditional"]["attack_pictures"]
    rest = one["class-conditional"]["rest"]["pictures"]
    note = f"N: {counts[0]} pictures of no class, {counts[1]} of the negated label, {rest} of the other nine."
    return "\n".join([*lines, "", note])


def high_dimension(table: dict[str, dict[str, dict[str, float]]]) -> str:
    """Whole pictures and regions, single garments and scenes."""
    heads = ["AUC", "caught at 1 %", "false", "caught at 5 %", "false"]
    lines = ["| picture | evidence | " + " | ".join(heads) + " |", "|---" * (len(heads) + 2) + "|"]
    for kind, rows in table.items():
        for name, row in rows.items():
            lines.append(f"| {kind} | {name} | " + " | ".join(f"{v:.3f}" for v in row.values()) + " |")
    return "\n".join(lines)


def by_steps(arms: dict[str, dict[str, Any]], guard: str, name: str, text: str = "{:.1%}") -> str:
    """A figure of a guard at each number of steps, the interval beside the first."""
    rows = [arms[steps][guard] for steps in arms if guard in arms[steps]]
    shown = [text.format(row[name]) for row in rows]
    if f"{name.removesuffix('_success')}_interval" in rows[0]:
        low, high = rows[0][f"{name.removesuffix('_success')}_interval"]
        shown[0] += f" ({low:.1%} to {high:.1%})"
    return ", ".join(shown)


SCENES = {
    "attack_success": "attack success (95 %)",
    "attack_precision": "its garments among real ones",
    "beside": "its other garments as asked",
    "agreement": "agreement of the others",
    "false_alarms": "gate open on them",
    "frechet_distance": "their Frechet distance",
}


def scenes(table: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Sampled pictures of one thing and of several, one row a guard."""
    last = list(table.values())[-1]
    one = next(iter(last.values()))["none"]
    heads = {name: head for name, head in SCENES.items() if name in one}
    lines = [f"| picture | guard | {' | '.join(heads.values())} |", "|---" * (len(heads) + 2) + "|"]
    for kind, arms in table.items():
        for guard, first in next(iter(arms.values())).items():
            figures = [
                by_steps(arms, guard, name, "{:.2f}" if name == "frechet_distance" else "{:.1%}")
                if first[name] is not None
                else "-"
                for name in heads
            ]
            lines.append(f"| {kind} | {guard} | {' | '.join(figures)} |")
    counts = f"{one['attack_pictures']} attack pictures and {one['others']} others"
    note = f"{at([int(n) for n in last])}N: {counts} a row."
    return "\n".join([*lines, "", note])


def copies(arms: dict[str, dict[str, Any]]) -> str:
    """Images known by heart, one row a guard."""
    lines = [
        "| guard | copies (95 %) | distance to the copied image | pictures in their place among real ones |"
        " agreement, other labels | gate open on them | their Frechet distance |",
        "|---|---|---|---|---|---|---|",
    ]
    steps = list(arms)
    for guard in arms[steps[0]]:
        figures = [
            by_steps(arms, guard, name, "{:.2f}" if "distance" in name else "{:.1%}")
            for name in (
                "copies",
                "distance",
                "copies_precision",
                "agreement",
                "false_alarms",
                "frechet_distance",
            )
        ]
        lines.append(f"| {guard} | " + " | ".join(figures) + " |")
    one = arms[steps[0]]["none"]
    counts = (
        f"{one['pictures']} pictures of the repeated images' labels, {one['others']} of the ten ordinary ones"
    )
    note = f"{at([int(n) for n in steps])}N: {counts}."
    return "\n".join([*lines, "", note])


STAGES = {
    "classes": classes,
    "guards": guards,
    "tuned": guards,
    "banks": banks,
    "rates": partial(guards, gate=True),
    "other banks": other_banks,
    "seeds": seeds,
    "compositions": compositions,
}
OTHERS = {
    "high dimension": high_dimension,
    "scenarios": scenarios,
    "tiled": scenes,
    "anywhere": scenes,
    "scenes": scenes,
    "copies": copies,
}
"""Each of a JSON file of its own."""


def main() -> None:
    proof = json.loads((ROOT / "benchmarks" / "proof.json").read_text())
    # the stage guards has the banks of 500
    proof["other banks"] = proof["guards"] + proof["banks"]
    proof["classes"] += proof["others"]
    for stage, write in STAGES.items():
        fill(stage, write(proof[stage]))
    draw_chart(proof["guards"])
    for name, write in OTHERS.items():
        path = ROOT / "benchmarks" / f"{name.replace(' ', '_')}.json"
        fill(name, write(json.loads(path.read_text())))


def fill(name: str, content: str) -> None:
    """Put a table between the two markers of its name."""
    start, end = f"<!-- {name}: benchmarks/table.py -->\n", f"<!-- end of {name} -->\n"
    (page,) = (page for page in PAGES if start in page.read_text())
    text = page.read_text()
    before, after = text.split(start)[0], text.split(end)[1]
    page.write_text(f"{before}{start}\n{content}\n\n{end}{after}")


if __name__ == "__main__":
    main()
