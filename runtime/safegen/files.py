"""Files: replaced whole or not at all, refused early, and told apart by SHA-256."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safegen.errors import UsageError

CHUNK = 1 << 20


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return sha256_of(b"", iter(lambda: file.read(CHUNK), b""))


def sha256_of(head: bytes, rest: Iterator[bytes]) -> str:
    """SHA-256 of some bytes and all that follow, as hex."""
    digest = hashlib.sha256(head)
    for chunk in rest:
        digest.update(chunk)
    return digest.hexdigest()


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
