"""The digest that a file carries of itself.

A sealed file holds one field ``"digest":"<64 hex digits>"`` near its start: the SHA-256 of the whole
file with those 64 digits replaced by zeros. So no byte of it can change unnoticed.
"""

from __future__ import annotations

import re
from pathlib import Path

from safegen.files import CHUNK, sha256_of

ZEROS = "0" * 64
_FIELD = re.compile(rb'"digest": ?"([0-9a-f]{64})"')


def _find(head: bytes) -> re.Match[bytes] | None:
    matches = list(_FIELD.finditer(head))
    return matches[0] if len(matches) == 1 else None


def sealed_digest(path: Path) -> tuple[str, str]:
    """Return (the digest a sealed file states, the digest it has).

    The stated one is empty where the file has no digest field, or more than one, in its first MiB.
    """
    with path.open("rb") as file:
        head = file.read(CHUNK)
        field = _find(head)
        if field is None:
            return "", ""
        blank = head[: field.start(1)] + ZEROS.encode() + head[field.end(1) :]
        return field[1].decode(), sha256_of(blank, iter(lambda: file.read(CHUNK), b""))


def seal(path: Path) -> str:
    """Write the digest of a file that still has zeros there, and return it."""
    stated, digest = sealed_digest(path)
    if stated != ZEROS:
        raise ValueError(f"{path}: expected one digest field of 64 zeros")
    with path.open("r+b") as file:
        field = _find(file.read(CHUNK))
        assert field is not None
        file.seek(field.start(1))
        file.write(digest.encode())
    return digest
