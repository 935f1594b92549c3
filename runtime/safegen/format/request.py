"""What to draw: the same fields, by the same names, in Python, C++ and C."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from numbers import Real
from typing import TYPE_CHECKING, Any, TypedDict

from PIL import Image

from safegen.errors import UsageError, in_short, whole_number
from safegen.format.manifest import Manifest
from safegen.guard.settings import Settings
from safegen.sampling.solver import Solver

if TYPE_CHECKING:
    from safegen.guard.text import TextGuard


@dataclass(frozen=True)
class Request:
    """What to draw. What is left out is the engine's or the bundle's own.

    Raises:
        UsageError: a value of a type that its field does not take.
    """

    prompt: str | None = None
    """None for a model without text."""
    class_label: int | None = None
    """For a model of classes; None draws of no class."""
    negative_prompt: str = ""
    """Takes the place of the empty prompt in guidance."""
    seed: int = 0
    """0 to 2^64 - 1. The same seed gives the same picture at every batch size."""
    n: int = 1
    """Pictures, 1 or more; picture i has seed + i."""
    steps: int | None = None
    """Model evaluations, 1 to 1000; None is the engine's default."""
    solver: str | Solver | None = None
    """A name of :data:`safegen.sampling.solver.SOLVERS`, or one with its options."""
    guidance_scale: float | None = None
    """0 or more: above 1 the prompt is followed more closely, at twice the cost."""
    size: tuple[int, int] | None = None
    """(width, height) in pixels; None is the engine's default."""
    guard: str | Settings | None = None
    """``ratio``, ``official:nudity``, … or settings; None, or the name of the bundle's own guard, is that
    with the bundle's settings."""
    text_guard: str | TextGuard | None = None
    """``safree``, ``sld:medium`` and so on, or settings; alone or beside any guard."""
    concepts: tuple[str, ...] = ()
    """What a text guard named by a string turns from; empty is the bundle's name."""
    init: Image.Image | None = None
    """An image to start from, resized to the size."""
    strength: float | None = None
    """Share of ``init`` that is drawn anew, above 0 to 1; None is 0.8."""
    mask: Image.Image | None = None
    """White where ``init`` is redrawn; None redraws all of it."""
    batch_size: int = 4
    """Pictures drawn at a time, 1 or more; memory grows with these, not with ``n``."""

    def __post_init__(self) -> None:
        """Take NumPy's numbers for Python's, and refuse what is of another type."""
        for name, read in _READ.items():
            value = getattr(self, name)
            if value is not None or name not in _MAY_BE_NONE:
                object.__setattr__(self, name, read(name, value))

    def common(self) -> Request:
        """What pictures of one batch must have in common: all but what they show, and their seeds."""
        return replace(self, prompt=None, class_label=None, seed=0, n=1)


class Common(TypedDict, total=False):
    """The fields of :class:`Request` that are the same for all pictures of a call."""

    negative_prompt: str
    n: int
    steps: int | None
    solver: str | Solver | None
    guidance_scale: float | None
    size: tuple[int, int] | None
    guard: str | Settings | None
    text_guard: str | TextGuard | None
    concepts: tuple[str, ...]
    init: Image.Image | None
    strength: float | None
    mask: Image.Image | None
    batch_size: int


def requests_of(
    prompt: str | Sequence[str] | None,
    class_label: int | Sequence[int] | None,
    seed: int | Sequence[int],
    common: Common,
) -> list[Request]:
    """A request for each prompt, label or seed.

    Raises:
        UsageError: lists of different lengths, or a value of the wrong type.
    """
    lists = {"prompt": _each(prompt), "class_label": _each(class_label), "seed": _each(seed)}
    counts = {name: len(values) for name, values in lists.items() if values is not None}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise UsageError(f"one value each, or as many of one as of the other; here are {told}.")
    count = next(iter(counts.values()), 1)
    ones = {"prompt": prompt, "class_label": class_label, "seed": seed}
    columns = (repeat(ones[name], count) if values is None else values for name, values in lists.items())
    return [Request(**dict(zip(lists, row, strict=True)), **common) for row in zip(*columns, strict=True)]


def any_subject(manifest: Manifest) -> dict[str, Any]:
    """What every engine of a kind can draw, to time it: a prompt, a class label, or nothing in particular."""
    spec = manifest.conditioning
    return {"prompt": "a photo of a coat"} if spec.text else {"class_label": 0} if spec.classes else {}


def _each(value: Any) -> list[Any] | None:
    """The members of a list; None for one value."""
    return None if isinstance(value, str | bytes) or not isinstance(value, Iterable) else list(value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{name} is {in_short(value)}; give a text.")
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UsageError(f"{name} is {in_short(value)}; give a number.")
    return float(value)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    texts = _each(value)
    if texts is None or not all(isinstance(text, str) for text in texts):
        raise UsageError(f"{name} is {in_short(value)}; give a list of texts.")
    return tuple(texts)


def _size(name: str, value: Any) -> tuple[int, int]:
    sides = _each(value)
    if sides is None or len(sides) != 2:
        raise UsageError(f"size is {in_short(value)}; give a width and a height.")
    return whole_number(name, sides[0]), whole_number(name, sides[1])


_READ: dict[str, Callable[[str, Any], Any]] = {
    "prompt": _text,
    "class_label": whole_number,
    "negative_prompt": _text,
    "seed": whole_number,
    "n": whole_number,
    "steps": whole_number,
    "guidance_scale": _number,
    "size": _size,
    "concepts": _texts,
    "strength": _number,
    "batch_size": whole_number,
}
_MAY_BE_NONE = {"prompt", "class_label", "steps", "guidance_scale", "size", "strength"}
