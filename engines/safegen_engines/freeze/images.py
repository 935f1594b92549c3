"""Image files to latents, through an engine's encoder."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from safegen.device import to_host
from safegen.errors import ImageError, UsageError
from safegen.format.image import SUFFIXES, image_files, read_rgb
from safegen_engines.freeze.ordinary import Setup


def find_images(sources: Iterable[str]) -> list[Path]:
    """Folders (with all below them), globs and files to image files, in a fixed order.

    Raises:
        UsageError: a source without any image.
    """
    found: list[Path] = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            here = image_files(path)
        elif path.is_file():
            here = [path]
        else:
            here = [Path(f) for f in sorted(glob.glob(source, recursive=True)) if Path(f).is_file()]
        if not here:
            raise UsageError(f"{source}: no images here; {', '.join(SUFFIXES)} are read.")
        found += here
    return list(dict.fromkeys(found))


def other_files(sources: Iterable[str]) -> list[Path]:
    """What lies in the folders besides images, by its name; hidden files aside."""
    folders = [Path(source) for source in sources if Path(source).is_dir()]
    below = [f for folder in folders for f in sorted(folder.rglob("*")) if f.is_file()]
    return [f for f in dict.fromkeys(below) if f.suffix.lower() not in SUFFIXES and f.name[0] != "."]


def encode_files(
    setup: Setup, paths: Sequence[Path], what: str, *, skip_bad: bool = False
) -> tuple[NDArray[np.float16], list[str]]:
    """Latents (N, C, H', W') of the readable images, and one line for each of the others.

    Raises:
        ImageError: some cannot be read, and are not to be skipped.
    """
    engine, size = setup.engine, setup.size
    bad: list[str] = []
    latents = np.empty((len(paths), *engine.latent_shape(*size)), np.float16)
    count = 0
    for done, pixels in _read_batches(paths, size, setup.batch_size, bad):
        if pixels:
            with engine.device.active():
                encoded = to_host(engine.encode_images(np.stack(pixels)))
            latents[count : count + len(encoded)] = encoded
            count += len(encoded)
        setup.report(what, done, len(paths))
    if bad and not skip_bad:
        raise ImageError(
            f"{len(bad)} of {len(paths)} images cannot be read: {'; '.join(bad[:20])}"
            f"{'; …' if len(bad) > 20 else ''}. Remove them, or pass --skip-bad."
        )
    return latents[:count], bad


def _read_batches(
    paths: Sequence[Path], size: tuple[int, int], batch_size: int, bad: list[str]
) -> Iterator[tuple[int, list[NDArray[np.uint8]]]]:
    for start in range(0, len(paths), batch_size):
        chunk, pixels = paths[start : start + batch_size], []
        for path in chunk:
            try:
                pixels.append(read_rgb(path, *size))
            except ImageError as error:
                bad.append(str(error).removesuffix("."))
        yield start + len(chunk), pixels
