"""What every command shares: the screen, progress bars, and errors as one line."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from safegen.errors import UsageError
from safegen.files import check_place

screen = Console(stderr=True, highlight=False, soft_wrap=True)
"""People read stderr; stdout is for what a program may read: file names and JSON."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def say(text: str) -> None:
    """One line for people."""
    screen.print(text, markup=False)


def answer(content: Any) -> None:
    """JSON on stdout."""
    print(json.dumps(content, indent=1, ensure_ascii=False))


@contextlib.contextmanager
def bar(unit: str, *, remaining: bool = False) -> Iterator[Progress]:
    """A progress bar, drawn on a terminal and silent elsewhere; ``remaining`` shows the time left, too."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        *([TimeRemainingColumn()] if remaining else []),
        TextColumn("{task.fields[note]}"),
    )
    # what is printed meanwhile goes above the bar, but never from a pipe to the screen
    shared = sys.stdout.isatty()
    with Progress(
        *columns, console=screen, transient=True, disable=not screen.is_terminal, redirect_stdout=shared
    ) as progress:
        yield progress


def read_lines(path: Path | None) -> list[str]:
    """The lines of a file that are not empty; none without a file.

    Raises:
        UsageError: it is not UTF-8.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines() if path else []
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not text in UTF-8 ({error.reason}); save it as such.") from None
    return [line.strip() for line in lines if line.strip()]


def check_png(path: Path | None) -> None:
    """Refuse a picture to write that has another name than a PNG, or no place.

    Raises:
        UsageError: either.
    """
    if path is None:
        return
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: this is written as PNG; name it {path.stem}.png.")
    check_place(path)


def reporter(progress: Progress) -> Callable[[str, int, int], None]:
    """(what, done, of how many) as a bar for each kind of work."""
    tasks: dict[str, TaskID] = {}

    def report(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = progress.add_task(what, total=total, note="")
        progress.update(tasks[what], completed=done)

    return report


def parse_size(text: str | None) -> tuple[int, int] | None:
    """``512`` or ``768x512`` to (width, height)."""
    if text is None:
        return None
    sides = text.lower().split("x")
    try:
        width, height = (int(sides[0]), int(sides[-1]))
    except ValueError:
        width = height = 0
    if len(sides) > 2 or width < 1 or height < 1:
        raise typer.BadParameter(f"{text!r}: write 512 or WIDTHxHEIGHT, for example 768x512.")
    return width, height


def mib(count: int) -> str:
    """Bytes in MiB."""
    return f"{count / 2**20:.1f} MiB"
