"""Tables of benchmarks with a JSON file of their own."""

from typing import Any

from cells import at, by_steps


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
