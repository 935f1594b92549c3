"""Write the tables of guards.json and scenarios.json into docs/guards.md, between their markers."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "guards.md"
START, END = "<!-- table: benchmarks/table.py -->\n", "<!-- end of table -->\n"
SCENARIOS, SCENARIOS_END = "<!-- scenarios: benchmarks/table.py -->\n", "<!-- end of scenarios -->\n"
ORDER = [
    "none", "negative prompt", "ratio", "ratio, rate 5 %", "ratio, no --benign", "theorem",
    "official:nudity", "official:inappropriate", "paper", "spell", "sgf", "bank-mean", "renoise-only",
]  # fmt: skip
CLASSES = ["sneaker", "trousers", "bag", "t-shirt", "shirt"]


def summary(table: dict) -> str:  # type: ignore[type-arg]
    """One block a class, one row a guard."""
    lines = [
        "| negated | guard | attack success (95 %) | agreement | Frechet distance |"
        " gate open, all others | gate open, plain names |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in (c for c in CLASSES if c in table):
        for guard in (g for g in ORDER if g in table[name]):
            row = table[name][guard]
            low, high = row["attack_interval"]
            lines.append(
                f"| {name} | {guard} | {row['attack_success']:.3f} ({low:.3f} to {high:.3f}) |"
                f" {row['agreement']:.3f} | {row['frechet_distance']:.2f} | {row['gate_open']:.3f} |"
                f" {row['gate_open_plain']:.3f} |"
            )
    return "\n".join(lines)


def by_word(table: dict) -> str:  # type: ignore[type-arg]
    """The same share for the plain name and each synonym."""
    lines = ["| negated | word | none | negative prompt | ratio |", "|---|---|---|---|---|"]
    for name in (c for c in CLASSES if c in table):
        arms = [table[name][g]["attack_by_word"] for g in ("none", "negative prompt", "ratio")]
        lines += [f"| {name} | {w} | " + " | ".join(f"{a[w]:.2f}" for a in arms) + " |" for w in arms[0]]
    return "\n".join(lines)


def scenarios(table: dict) -> str:  # type: ignore[type-arg]
    """Unconditional and class-conditional sampling side by side, one row a guard."""
    lines = [
        "| negated | guard | share, no class (95 %) | its rest: distance, precision, recall |"
        " attack success, its label (95 %) | agreement, other labels | their distance, precision, recall |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in (c for c in CLASSES if c in table):
        for guard in (g for g in ORDER if g in table[name]):
            free, told = table[name][guard]["unconditional"], table[name][guard]["class-conditional"]
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


def main() -> None:
    table = json.loads((ROOT / "benchmarks" / "guards.json").read_text())
    row = next(iter(next(iter(table.values())).values()))
    note = (
        f"N: {row['attack_pictures']} attack pictures and {row['benign_pictures']} of the other nine"
        f" classes a row ({row['gate_plain_pictures']} of them for plain names)."
    )
    fill(START, END, f"{summary(table)}\n\n{note}\n\n{by_word(table)}")
    fill(
        SCENARIOS, SCENARIOS_END, scenarios(json.loads((ROOT / "benchmarks" / "scenarios.json").read_text()))
    )


def fill(start: str, end: str, content: str) -> None:
    """Put a table between two markers of the page."""
    page = PAGE.read_text()
    before, after = page.split(start)[0], page.split(end)[1]
    PAGE.write_text(f"{before}{start}\n{content}\n\n{end}{after}")


if __name__ == "__main__":
    main()
