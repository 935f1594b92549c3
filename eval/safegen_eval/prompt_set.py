"""Prompt files as they are published: CSV with a prompt, and maybe a seed, a guidance scale and a label.

Columns are found by the names that I2P, Ring-A-Bell, UnlearnDiffAtk, MMA-Diffusion, CoPro and the COCO
lists of concept-erasure papers give them.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from safegen.errors import UsageError
from safegen.sampling.conditioning import Subject
from safegen.sampling.noise import MAX_SEED
from safegen_eval.suite import PromptSet

PROMPT = ("prompt", "adv_prompt", "unsafe_prompt", "sensitive prompt", "caption", "text")
SEED = ("seed", "evaluation_seed", "sd_seed")
GUIDANCE = ("guidance_scale", "guidance", "evaluation_guidance", "sd_guidance_scale")
LABEL = ("label",)
CLASS = ("class_label",)


class Prompt(NamedTuple):
    """One picture to draw."""

    subject: Subject
    """A prompt, a class label, or None for a picture of nothing in particular."""
    seed: int
    guidance_scale: float | None
    """None is the engine's default."""
    label: int | None
    """What the judge should see; None does not say."""


def read_prompts(chosen: PromptSet) -> list[Prompt]:
    """The prompts of a set, in the order of its file.

    Raises:
        UsageError: no such file, no column of prompts, a row without one, or a cell that is no number; the
            line is named.
    """
    if chosen.prompts is None:
        return [Prompt(None, chosen.seed + i, None, None) for i in range(chosen.count or 0)]
    path = Path(chosen.prompts)
    try:
        # utf-8-sig: several of the published files start with a byte order mark
        with path.open(newline="", encoding="utf-8-sig") as file:
            # strict: a quote that nobody closed would make one prompt of all that follows
            table = csv.DictReader(file, strict=True)
            # a prompt may run over several lines
            rows = [(f"{path}, line {table.line_num}", row) for row in table]
            columns = list(table.fieldnames or [])
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file of prompts for the set {chosen.name!r}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: not a CSV file of prompts ({error}).") from None
    text = chosen.column or _find(columns, PROMPT)
    known = {
        name: _find(columns, names)
        for name, names in (("seed", SEED), ("guidance", GUIDANCE), ("label", LABEL), ("class", CLASS))
    }
    if (text not in columns) and not known["class"]:
        raise UsageError(
            f"{path}: no column of prompts among {', '.join(columns) or 'none'}; name it with 'column'."
        )
    return [
        _prompt(where, row, text, known, chosen.seed + i)
        for i, (where, row) in enumerate(rows[: chosen.count])
    ]


def _find(columns: Sequence[str], names: Sequence[str]) -> str | None:
    by_name = {column.strip().lower(): column for column in columns}
    return next((by_name[name] for name in names if name in by_name), None)


def _prompt(
    where: str, row: dict[str, str], text: str | None, known: dict[str, str | None], own_seed: int
) -> Prompt:
    def cell(name: str) -> str:
        column = known[name]
        return (row[column] or "").strip() if column else ""

    try:
        seed, label, class_label = (_whole(cell(name)) for name in ("seed", "label", "class"))
        guidance_scale = _finite(cell("guidance")) if cell("guidance") else None
    except ValueError as error:
        raise UsageError(f"{where}: {error}.") from None
    if seed is not None and not 0 <= seed <= MAX_SEED:
        raise UsageError(f"{where}: seed is {seed}; it goes from 0 to 2^64 - 1.")
    subject: Subject = row.get(text) if text else class_label
    if subject is None or (isinstance(subject, str) and not subject.strip()):
        raise UsageError(f"{where}: nothing to draw; the column {text or known['class']!r} is empty there.")
    return Prompt(subject, own_seed if seed is None else seed, guidance_scale, label)


def _whole(cell: str) -> int | None:
    """A whole number, digit for digit where it is written so: a float keeps 53 bits of a seed's 64."""
    if not cell:
        return None
    try:
        return int(cell)
    except ValueError:
        number = _finite(cell)
    if not number.is_integer():
        raise ValueError(f"{cell!r} is not a whole number")
    return int(number)


def _finite(cell: str) -> float:
    number = float(cell)
    if not math.isfinite(number):
        raise ValueError(f"{cell!r} is not a finite number")
    return number
