"""Write the tables of proof.json and its like into research/measured*.md, and draw their chart."""

import json
from functools import partial
from pathlib import Path

from cells import (
    Row,
    at,
    attacks,
    benign,
    change,
    count,
    figure,
    in_turn,
    measures,
    parts,
    pick,
    unique,
    worst,
)
from safegen_eval.report import trade_off
from safegen_eval.table import Line
from tables_apart import copies, high_dimension, scenarios, scenes

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "research").glob("measured*.md"))
CHART = ROOT / "docs" / "images" / "guards-sneaker.png"


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
