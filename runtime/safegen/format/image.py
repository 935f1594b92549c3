"""Pictures to and from files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

from safegen.errors import ImageError, first_line
from safegen.files import replacing

KEY = "safegen"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def image_files(folder: Path) -> list[Path]:
    """Files named as images in a folder and all below it, in order."""
    return [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in SUFFIXES]


def read_rgb(path: Path, width: int, height: int) -> NDArray[np.uint8]:
    """Read an image as (height, width, 3) RGB.

    Turned as its EXIF orientation says, transparency laid over white, then resized to the whole
    size without cropping.

    Raises:
        ImageError: the file cannot be read as an image.
    """
    return np.asarray(open_image(path).resize((width, height), Image.Resampling.LANCZOS))


def open_image(path: Path) -> Image.Image:
    """An image file as :func:`flatten` sees it.

    Raises:
        ImageError: the file cannot be read as an image, or holds several pictures, of which the first would
            stand for all.
    """
    try:
        with Image.open(path) as image:
            count = getattr(image, "n_frames", 1)
            if count > 1 and image.format != "MPO":  # a photograph and what a camera adds to it
                raise ImageError(f"{path}: holds {count} pictures; save each as a file of its own.")
            return flatten(image)
    except ImageError:
        raise
    except Exception as error:  # over a damaged file Pillow raises TypeError, IndexError, struct.error, too
        raise ImageError(f"{path}: not a readable image ({first_line(error)}).") from None


def flatten(image: Image.Image) -> Image.Image:
    """RGB, turned as EXIF says, transparency laid over white.

    Raises:
        ValueError: pixels of real numbers.
    """
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        layer = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    if upright.mode == "F":
        raise ValueError("pixels are real numbers, of no known range")
    if upright.mode.startswith("I"):  # 16-bit greyscale, which convert() would clip
        upright = Image.fromarray((np.asarray(upright) / 257).astype(np.uint8))
    return upright.convert("RGB")


def save_png(image: Image.Image, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write a PNG whole or not at all, with its metadata as JSON under the key ``safegen``."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(KEY, json.dumps(metadata, ensure_ascii=False))
    with replacing(path) as scratch:
        image.save(scratch, "PNG", pnginfo=info)


def read_metadata(path: Path) -> dict[str, Any]:
    """What :func:`save_png` recorded.

    Raises:
        ImageError: the file is no image, or was not drawn by safegen.
    """
    try:
        with Image.open(path) as image:
            found: dict[str, Any] = json.loads(image.info[KEY])
            return found
    except (OSError, KeyError, ValueError):
        raise ImageError(f"{path}: not a picture drawn by safegen.") from None


def free_name(folder: Path, title: str, seed: int) -> Path:
    """A file name made of prompt and seed that no file has yet."""
    words = re.sub(r"[^\w]+", "-", title.lower()).strip("-_")[:60] or "picture"
    path, number = folder / f"{words}-{seed}.png", 2
    while path.exists():
        path, number = folder / f"{words}-{seed}-{number}.png", number + 1
    return path


def contact_sheet(images: Sequence[Image.Image], columns: int, zoom: int = 1) -> Image.Image:
    """Equal pictures side by side, ``zoom`` times their size, with a thin gap."""
    width, height = images[0].width * zoom, images[0].height * zoom
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + 2) - 2, rows * (height + 2) - 2), "white")
    for i, image in enumerate(images):
        large = image.convert("RGB").resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(large, (i % columns * (width + 2), i // columns * (height + 2)))
    return sheet
