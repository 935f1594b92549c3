"""The images that a command is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safegen_cli.console import say


def images_of(sources: Sequence[str]) -> list[Path]:
    """Folders, globs and files to image files.

    Says what else lies in the folders: nothing is guarded against that was left out.

    Raises:
        UsageError: a source without any image.
    """
    from safegen_engines.freeze.images import find_images, other_files

    images, others = find_images(sources), other_files(sources)
    if others:
        names = ", ".join(map(str, others[:3])) + (", …" if len(others) > 3 else "")
        say(f"  left out {len(others)} files that are not named as images: {names}")
    return images
