"""SHA-256 digests of files, and the digest that a file carries of itself.

A sealed file holds one field ``"digest":"<64 hex digits>"`` near its start: the SHA-256 of the whole
file with those 64 digits replaced by zeros. So no byte of it can change unnoticed.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safegen.errors import UsageError

ZEROS = "0" * 64
_FIELD = re.compile(rb'"digest": ?"([0-9a-f]{64})"')
_CHUNK = 1 << 20


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return _stream(b"", iter(lambda: file.read(_CHUNK), b""))


def _stream(head: bytes, rest: Iterator[bytes]) -> str:
    digest = hashlib.sha256(head)
    for chunk in rest:
        digest.update(chunk)
    return digest.hexdigest()


def _find(head: bytes) -> re.Match[bytes] | None:
    matches = list(_FIELD.finditer(head))
    return matches[0] if len(matches) == 1 else None


def sealed_digest(path: Path) -> tuple[str, str]:
    """Return (the digest a sealed file states, the digest it has).

    The stated one is empty where the file has no digest field, or more than one, in its first MiB.
    """
    with path.open("rb") as file:
        head = file.read(_CHUNK)
        field = _find(head)
        if field is None:
            return "", ""
        blank = head[: field.start(1)] + ZEROS.encode() + head[field.end(1) :]
        return field[1].decode(), _stream(blank, iter(lambda: file.read(_CHUNK), b""))


def seal(path: Path) -> str:
    """Write the digest of a file that still has zeros there, and return it."""
    stated, digest = sealed_digest(path)
    if stated != ZEROS:
        raise ValueError(f"{path}: expected one digest field of 64 zeros")
    with path.open("r+b") as file:
        field = _find(file.read(_CHUNK))
        assert field is not None
        file.seek(field.start(1))
        file.write(digest.encode())
    return digest


def check_place(path: Path) -> None:
    """Refuse a path where no file can be written, before the work whose result it is to hold.

    Raises:
        UsageError: it is a folder, or the nearest folder above it that exists takes no new file.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file in it.")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UsageError(f"{path}: no file can be written in {above}; choose another place.")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; it takes the place of ``path`` only if nothing failed.

    The folder is made where it does not exist.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
        scratch.chmod(0o666 & ~_umask())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
