"""Images as they are read. If these fail, a bank silently lacks images, or has them turned or cut."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from safegen.errors import ImageError, UsageError
from safegen.format.image import read_rgb
from safegen_engines.freeze.images import find_images, other_files


def test_images_are_read_as_people_see_them(tmp_path: Path) -> None:
    red, blue = (255, 0, 0), (0, 0, 255)
    upright = Image.new("RGB", (20, 10), red)
    upright.paste(blue, (0, 0, 10, 10))
    for name in ("a.png", "a.webp"):
        upright.save(tmp_path / name, lossless=True)
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    expected = np.asarray(upright)
    for name in ("a.png", "a.webp", "turned.jpg"):
        difference = np.abs(read_rgb(tmp_path / name, 20, 10).astype(int) - expected)
        assert np.median(difference) <= 2, name  # JPEG blurs along the edge


def test_transparency_lies_on_white_and_grey_becomes_rgb(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("LA", (8, 8), (0, 128)).save(tmp_path / "half.png")
    Image.new("L", (8, 8), 77).save(tmp_path / "grey.png")
    Image.fromarray(np.full((8, 8), 77 * 257, np.uint16)).save(tmp_path / "grey16.png")
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30] * 256)
    palette.save(tmp_path / "palette.png")
    wanted = {"clear": 255, "half": 127, "grey": 77, "grey16": 77}
    for name, value in wanted.items():
        assert np.abs(read_rgb(tmp_path / f"{name}.png", 8, 8).astype(int) - value).max() <= 1, name
    assert read_rgb(tmp_path / "palette.png", 8, 8)[0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    ("name", "kind"), [("moving.gif", "GIF"), ("moving.webp", "WEBP"), ("pages.tif", "TIFF")]
)
def test_a_file_of_several_pictures_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    """Read as its first picture, it would leave the others out of the bank and say nothing."""
    first, second = (Image.new("RGB", (8, 8), color) for color in ("red", "blue"))
    first.save(tmp_path / name, kind, save_all=True, append_images=[second])
    with pytest.raises(ImageError, match=f"{name}: holds 2 pictures; save each"):
        read_rgb(tmp_path / name, 8, 8)


def test_a_photograph_with_what_the_camera_adds_is_one_picture(tmp_path: Path) -> None:
    red, added = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8))
    red.save(tmp_path / "photo.jpg", "MPO", save_all=True, append_images=[added])
    assert np.abs(read_rgb(tmp_path / "photo.jpg", 8, 8)[0, 0].astype(int) - (255, 0, 0)).max() <= 2


def test_pixels_of_no_known_range_are_refused(tmp_path: Path) -> None:
    """Cut off at 255, a picture of 0 to 1 would be black, and stand for nothing in the bank."""
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "real.tiff")
    with pytest.raises(ImageError, match="no known range"):
        read_rgb(tmp_path / "real.tiff", 8, 8)


@pytest.mark.slow
def test_damaged_files_are_read_or_named(tmp_path: Path) -> None:
    """One among thousands must not end a freeze in a traceback; TIFF's reader raises more than it says."""
    path = tmp_path / "damaged.tif"
    Image.effect_noise((16, 16), 40).save(path)
    whole, refused = path.read_bytes(), 0
    for place, value in product(range(200), (0, 1, 255)):
        path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
        try:
            assert read_rgb(path, 8, 8).shape == (8, 8, 3)
        except ImageError as error:
            refused += str(error).startswith(f"{path}: not a readable image")
    assert refused > 50


def test_folders_globs_and_files_are_found_in_order(picture_folder: Path) -> None:
    (picture_folder / "sub").mkdir()
    Image.new("RGB", (4, 4)).save(picture_folder / "sub" / "x.JPG", "JPEG")
    (picture_folder / "notes.txt").write_text("no image")
    (picture_folder / ".DS_Store").write_bytes(b"hidden")
    Image.new("RGB", (4, 4)).save(picture_folder / "sub" / "y.avif", "PNG")
    assert len(find_images([str(picture_folder)])) == 13
    assert [f.name for f in other_files([str(picture_folder)])] == ["notes.txt", "y.avif"]
    assert other_files([str(picture_folder / "notes.txt")]) == []
    assert len(find_images([str(picture_folder / "0*.png")])) == 10
    assert len(find_images([str(picture_folder / "00.png"), str(picture_folder)])) == 13
    with pytest.raises(UsageError, match="no images"):
        find_images([str(picture_folder / "*.gif")])
