"""Write the table of benchmarks/guards.json into docs/guards.md, between its two markers."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "guards.md"
START, END = "<!-- table: benchmarks/table.py -->\n", "<!-- end of table -->\n"
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


def main() -> None:
    table = json.loads((ROOT / "benchmarks" / "guards.json").read_text())
    row = next(iter(next(iter(table.values())).values()))
    note = (
        f"N: {row['attack_pictures']} attack pictures and {row['benign_pictures']} of the other nine"
        f" classes a row ({row['gate_plain_pictures']} of them for plain names)."
    )
    page = PAGE.read_text()
    before, after = page.split(START)[0], page.split(END)[1]
    PAGE.write_text(f"{before}{START}\n{summary(table)}\n\n{note}\n\n{by_word(table)}\n\n{END}{after}")


if __name__ == "__main__":
    main()
