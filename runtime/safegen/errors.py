"""What can go wrong, as one family of errors whose message is one line a user can act on."""

from __future__ import annotations

import operator


class SafegenError(Exception):
    """Base of every error that safegen raises on purpose."""


class UsageError(SafegenError):
    """A request that has no meaning: an unknown solver, a size that does not divide by 8."""


class EngineError(SafegenError):
    """An engine folder that is incomplete, changed, of another schema, or cannot run here."""


class BundleError(SafegenError):
    """A negation bundle that is missing, changed, or made for another autoencoder."""


class GuardError(SafegenError):
    """A guard that the engine does not allow, or that has no bundle to guard with."""


class ImageError(SafegenError):
    """An image file that cannot be read."""


class ExportError(SafegenError):
    """A checkpoint that is unknown, incomplete, or whose exported graph differs from it."""


def whole_number(name: str, value: object) -> int:
    """An integer of Python's or NumPy's, as Python's.

    Raises:
        UsageError: it is anything else; True and False count as such.
    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise UsageError(f"{name} is {in_short(value)}; give a whole number.")


def in_short(value: object) -> str:
    """A value as one line may repeat it."""
    return " ".join(repr(value).split())[:60]


LONGEST_REASON = 300
"""Characters of another library's message that one line of ours repeats."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message; the name of its class where it has no text."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip()[:LONGEST_REASON] if text else type(error).__name__
