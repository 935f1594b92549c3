"""SUITE.toml: which arms draw which prompts, who judges, and what quality is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from safegen.errors import UsageError
from safegen.guard.settings import Settings, parse_guard
from safegen.guard.text import TextGuard


class Arm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One way to draw: an engine, a bundle and its guards."""

    name: str
    engine: str | None = None
    """Folder, or the name of an embedded engine; None is the suite's."""
    bundle: str | None = None
    """None is the engine's own."""
    guard: str | Settings | None = None
    """A name, or a table with ``mode`` and its settings; None is the bundle's own."""
    text_guard: str | TextGuard | None = None
    concepts: list[str] | None = None
    """What a text guard named by a string turns from; None is the bundle's name."""
    negative_prompt: str = ""


class PromptSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Prompts of one kind: what should not succeed, or what should not change."""

    name: str
    kind: Literal["attack", "benign"]
    prompts: str | None = None
    """A CSV file; see :mod:`safegen_eval.prompt_set`."""
    column: str | None = None
    """Which column holds the prompts; None finds it by its usual names."""
    count: int | None = None
    """The first so many; without ``prompts`` so many pictures of nothing in particular."""
    seed: int = 0
    """First seed of prompts that have none of their own."""


class JudgeSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who says what a picture shows."""

    kind: Literal["classes", "nsfw", "nudenet"]
    model: str | None = None
    """``classes``: ONNX, ``image`` (B, 1 or 3, H, W) in [0, 1] -> ``logits`` (B, K)."""
    unsafe: list[int] = []
    """``classes``: the labels that must not be drawn."""
    threshold: float | None = None
    """``nsfw`` 0.5 and ``nudenet`` 0.6 where left out."""


class Quality(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What benign pictures are compared with."""

    reference: str | None = None
    """A folder of real images of the same kind."""
    features: str | None = None
    """ONNX, ``image`` -> ``features`` (B, F); None takes the judge's model, or else CLIP's images."""
    clip: str | None = None
    """A folder with CLIP's ``model.onnx`` and ``tokenizer.json``, as optimum exports it."""


class Suite(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    judge: JudgeSpec
    arms: list[Arm]
    sets: list[PromptSet]
    engine: str | None = None
    steps: list[int] | None = None
    """Every arm draws with each; None is the engine's default alone."""
    solver: str | None = None
    batch_size: int = 25
    quality: Quality = Quality()


def read_suite(path: Path) -> Suite:
    """Read a suite; relative paths in it start at its folder.

    Raises:
        UsageError: no such file, or something in it is unknown or missing; the message names it.
    """
    try:
        suite = msgspec.toml.decode(path.read_bytes(), type=Suite)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such suite. docs/evaluate.md shows one.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, ImportError) as error:
        raise UsageError(f"{path}: {error}.") from None
    for what, names in (("arms", [a.name for a in suite.arms]), ("sets", [s.name for s in suite.sets])):
        if not names or len(set(names)) < len(names):
            raise UsageError(f"{path}: {what} need names, each its own.")
    if suite.judge.kind == "classes" and not (suite.judge.model and suite.judge.unsafe):
        raise UsageError(f"{path}: a judge of classes needs its model and which labels are unsafe.")
    for arm in suite.arms:
        if isinstance(arm.guard, str):
            parse_guard(arm.guard)
    for chosen in suite.sets:
        if chosen.prompts is None and not chosen.count:
            raise UsageError(f"{path}: the set {chosen.name!r} needs prompts, a CSV file, or a count.")
    return rebased(suite, path.resolve().parent)


def rebased(suite: Suite, folder: Path) -> Suite:
    """The same suite with every path that exists below ``folder`` made absolute."""

    def find(name: str | None) -> str | None:
        return str(folder / name) if name is not None and (folder / name).exists() else name

    replace = msgspec.structs.replace
    judge = replace(suite.judge, model=find(suite.judge.model))
    quality = replace(
        suite.quality,
        reference=find(suite.quality.reference),
        features=find(suite.quality.features),
        clip=find(suite.quality.clip),
    )
    arms = [replace(arm, engine=find(arm.engine), bundle=find(arm.bundle)) for arm in suite.arms]
    sets = [replace(chosen, prompts=find(chosen.prompts)) for chosen in suite.sets]
    return replace(suite, engine=find(suite.engine), judge=judge, quality=quality, arms=arms, sets=sets)
