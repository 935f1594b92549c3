"""``safegen freeze``: images that must never be drawn to a negation bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safegen.errors import UsageError
from safegen_cli.console import Json, answer, bar, parse_size, read_lines, reporter, say
from safegen_cli.images import images_of

if TYPE_CHECKING:
    from safegen.guard.settings import Settings
    from safegen_engines.freeze.freeze import Frozen


def freeze(
    images: Annotated[list[str], typer.Argument(help="Folders, globs or files: PNG, JPEG, WebP, BMP, GIF, TIFF.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The bundle to write, for example nudity.negation.")],
    engine: Annotated[Path | None, typer.Option("-e", "--engine", help="Engine folder; the embedded one if left out.")] = None,
    benign: Annotated[list[str] | None, typer.Option("--benign", help="Ordinary images (repeatable). Left out: the engine draws them.")] = None,
    benign_count: Annotated[int | None, typer.Option(min=6, help="How many the engine draws without --benign, or of --benign-label; 600 if left out.")] = None,
    benign_prompts: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="A file with one ordinary prompt a line, to set the gate's rate on; some hundred do well.")] = None,
    benign_label: Annotated[list[int] | None, typer.Option(help="The same for a model of classes: labels that are ordinary (repeatable).")] = None,
    name: Annotated[str | None, typer.Option(help="What is negated, for people; the file's name if left out.")] = None,
    size: Annotated[str | None, typer.Option(help="Size of the pictures to guard: 512 or WIDTHxHEIGHT.")] = None,
    regions: Annotated[int, typer.Option(help="Regions a side that the guard judges one by one: 2 or 4 for pictures of several things. Needs --benign.")] = 1,
    anywhere: Annotated[bool, typer.Option("--anywhere", help="With --regions: the negation images show the thing alone, and it is looked for anywhere in the picture, as large as a region.")] = False,
    guard: Annotated[str, typer.Option(help="The bundle's guard.")] = "ratio",
    false_positive_rate: Annotated[float | None, typer.Option(min=0.0001, max=0.5, help="Share of ordinary pictures on which ratio's gate may open; 0.005 if left out, or the lowest that so few ordinary pictures can tell.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images encoded at a time.")] = 8,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Freeze images into one negation bundle.

    Example: safegen freeze never/ --benign ordinary/ -e engine/ -o never.negation
    """
    import msgspec

    from safegen.engine.engine import Engine
    from safegen.engine.pipeline import EMBEDDED
    from safegen_engines.freeze.freeze import freeze as freeze_images

    settings = _settings(guard, false_positive_rate)
    if benign_count and benign and not benign_label:
        raise UsageError(
            "benign_count is how many the engine draws; with --benign it draws none. Leave it out."
        )
    count = benign_count or 600
    negation = images_of(images)
    ordinary = images_of(benign) if benign else None
    prompts = read_lines(benign_prompts)
    opened = Engine.open(engine or EMBEDDED)
    with bar("images") as progress:
        frozen = freeze_images(
            opened,
            negation,
            out,
            name=name or out.stem,
            benign=ordinary,
            benign_count=count,
            benign_prompts=prompts,
            benign_labels=benign_label or [],
            size=parse_size(size),
            regions=regions,
            anywhere=anywhere,
            guard=settings,
            skip_bad=skip_bad,
            batch_size=batch_size,
            report=reporter(progress),
        )
    if as_json:
        answer(
            {
                "file": str(out),
                "digest": frozen.digest,
                "bad": list(frozen.bad),
                "lookalikes_dropped": frozen.lookalikes,
                "held_out": frozen.held_out,
                "gate": frozen.gate and frozen.gate._asdict(),
                "info": msgspec.to_builtins(frozen.info),
            }
        )
        return
    print(out)
    _say_banks(frozen, drawn=count if benign is None else None)
    _say_gate(frozen, "prompts" if prompts else "pictures")


def _settings(guard: str, false_positive_rate: float | None) -> Settings | None:
    """The bundle's guard; None is ``ratio`` at the usual rate."""
    from safegen.guard.settings import Ratio, parse_guard

    settings = parse_guard(guard)
    if isinstance(settings, Ratio):
        return Ratio(false_positive_rate=false_positive_rate) if false_positive_rate else None
    if false_positive_rate:
        raise UsageError(f"the rate of false alarms is of ratio's gate; the guard {guard} has none.")
    return settings


def _say_banks(frozen: Frozen, drawn: int | None) -> None:
    """What is in both banks; ``drawn``: how many benign pictures the engine drew, where it did."""
    info = frozen.info
    say(
        f"  {info.negation_count} negation and {info.benign_count} benign images, {frozen.held_out} more"
        f" benign ones kept out of the bank; digest {frozen.digest[:12]}"
    )
    if drawn is not None:
        say(
            f"  no --benign given: the engine drew {drawn} pictures of no prompt;"
            f" {frozen.lookalikes} looked like the negation set and were dropped"
        )
        if frozen.lookalikes > drawn / 4:
            say(
                "  warning: so many that ordinary pictures must be among them; the gate will open on more"
                " than its share of what looks alike. Give --benign."
            )
    for line in frozen.bad:
        say(f"  skipped {line}")


def _say_gate(frozen: Frozen, judged: str) -> None:
    """What the gate's rate promises, and what it catches."""
    from safegen_engines.freeze.rate import warnings

    gate = frozen.gate
    if gate is None:
        return
    say(
        f"  the gate may open on {100 * gate.rate:g} % of ordinary pictures: {gate.expected:.2%} on average, at"
        f" most {gate.bound:.2%} in 95 of 100 freezes of {frozen.judged} {judged}"
    )
    say(
        f"  set on one half of them it opens on {gate.false_alarms:.2%} of the other half"
        + (
            f"; worst kind {gate.worst.name!r}: {gate.worst.share:.1%} of {gate.worst.pictures}"
            if gate.worst
            else ""
        )
    )
    say(
        f"  as they are, {gate.caught:.0%} of the negation images open it (a prompt that asks for them makes them"
        " plainer)"
    )
    if gate.drawn is not None:
        say(
            "  nobody named ordinary prompts or labels: what people ask for was not looked at."
            " --benign-prompts does that"
        )
    for line in warnings(gate):
        say(f"  warning: {line}")
