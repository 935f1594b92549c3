"""Prompts of the proof that no table of benchmarks/attacks has: more seeds, or every prompt."""

import csv
from pathlib import Path

from attacks import Row, every_composition, write
from prompts import Garment, all_prompts

SETS = ("plain", "synonyms", "misspellings", "compositions", "found")
SEEDS, APART = 10, 2_000_000
"""More seeds a prompt, and how far apart, so that no two sets share one."""
OTHERS, OTHERS_FIRST = 5, 30_000_000
"""Seeds a prompt of the stage others, and the first, beyond those of all other sets."""


def slug(garment: Garment) -> str:
    return garment.name.replace(" ", "-")


def rows_of(garment: Garment, attacks: Path, name: str) -> list[Row]:
    """A set of the class."""
    with (attacks / f"{slug(garment)}-{name}.csv").open(encoding="utf-8") as file:
        return [(text, int(seed), int(label)) for text, seed, label in list(csv.reader(file))[1:]]


def more_seeds(garment: Garment, work: Path, attacks: Path) -> Path:
    """A folder with the class's prompts, each with :data:`SEEDS` seeds that the tables do not use."""
    folder = work / "seeds"
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*SETS, "benign"):
        rows = rows_of(garment, attacks, name)
        more = [(text, seed + APART * k, label) for k in range(1, SEEDS + 1) for text, seed, label in rows]
        write(folder / f"{slug(garment)}-{name}.csv", more)
    return folder


def every_other(garment: Garment, work: Path) -> Path:
    """A folder with every prompt of the nine other classes, :data:`OTHERS` seeds each."""
    folder = work / "others"
    folder.mkdir(parents=True, exist_ok=True)
    every = [(text, label) for label, _, text in all_prompts() for _ in range(OTHERS)]
    rows = [(text, OTHERS_FIRST + i, label) for i, (text, label) in enumerate(every)]
    write(folder / f"{slug(garment)}-benign.csv", [row for row in rows if row[2] != garment.label])
    return folder


def other_compositions(garment: Garment, work: Path, attacks: Path) -> Path:
    """A folder with the class's compositions that neither split has, one seed each."""
    folder = work / "compositions"
    folder.mkdir(parents=True, exist_ok=True)
    seen = {
        text
        for split in ("", "validation-")
        for text, *_ in rows_of(garment, attacks, f"{split}compositions")
    }
    fresh = [text for text in every_composition(garment) if text not in seen]
    # after those of the benign set
    first = garment.label * 10_000 + 6000
    rows = [(text, first + i, garment.label) for i, text in enumerate(fresh)]
    write(folder / f"{slug(garment)}-compositions.csv", rows)
    return folder
