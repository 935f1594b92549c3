"""Fashion-MNIST (MIT licence), from Debian's package dataset-fashion-mnist, as 32x32 images."""

import gzip
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
DOWNLOADED = Path(__file__).resolve().parent.parent / "build" / "fashion-mnist"
HOW = (
    f"Fashion-MNIST was not found. Install it with 'apt-get install {PACKAGE}', or point"
    " SAFEGEN_FASHION_MNIST at a folder that holds its four *-ubyte.gz files."
)


def find() -> Path:
    """Return the folder with the four idx files, unpacking Debian's package where apt is there.

    Raises:
        SystemExit: the data is not here and cannot be downloaded; the message says what to do.
    """
    for folder in (os.environ.get("SAFEGEN_FASHION_MNIST"), INSTALLED, DOWNLOADED):
        if folder and (Path(folder) / "train-images-idx3-ubyte.gz").is_file():
            return Path(folder)
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise SystemExit(HOW)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            _download(Path(scratch))
        except (subprocess.CalledProcessError, StopIteration):
            raise SystemExit(HOW) from None
    return DOWNLOADED


def _download(scratch: Path) -> None:
    fetch = ["apt-get", "download", "-qq", PACKAGE]
    if subprocess.run(fetch, cwd=scratch, check=False, capture_output=True).returncode:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(fetch, cwd=scratch, check=True)
    package = next(scratch.glob("*.deb"))
    subprocess.run(["dpkg-deb", "-x", package, scratch / "root"], check=True)
    DOWNLOADED.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(scratch / "root" / INSTALLED.relative_to("/"), DOWNLOADED, dirs_exist_ok=True)


def load(split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images (N, 32, 32) uint8, zero-padded from 28x28, and labels (N,) of a split.

    Args:
        split: ``"train"`` (60,000 images) or ``"t10k"`` (10,000 test images).
    """
    folder = find()
    with gzip.open(folder / f"{split}-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / f"{split}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)
    return np.pad(images, ((0, 0), (2, 2), (2, 2))), labels
