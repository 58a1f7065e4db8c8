"""Sets of images in files: an array in a .npy or .npz file, or a folder of PNG pictures.

A .npz file has the form that the evaluator of ADM (guided-diffusion) reads: the array ``arr_0``,
uint8 ``[n, H, W, 3]``. A .npy file keeps this project's own form, uint8 ``[n, C, H, W]``.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.files import check_file, check_folder
from sddpm.replacing import atomic_directory, atomic_write

ARRAYS = (".npy", ".npz")
"""Endings of files that hold an array."""
ADM = "arr_0"
"""Name of the array in a .npz file."""
CHANNELS = (1, 3)
PICTURE = re.compile(r"\d+\.png")
"""Names of the pictures in a folder."""


def check_set(option: str, path: Path) -> None:
    """Check that images can be written at ``path``, before the work that it is for.

    Args:
        option: names where the path was given, for the message.

    Raises:
        ValueError: the ending is unknown, the path cannot be written, or the folder holds files
            that are no pictures of such a set.
    """
    if path.suffix.lower() in ARRAYS:
        check_file(option, path)
        return
    if path.suffix and not path.is_dir():
        endings = ", ".join(ARRAYS)
        raise ValueError(
            f"{option} {path}: expected a name that ends in {endings}, or a folder (a name "
            "without an ending)"
        )
    check_folder(option, path)
    others = sorted(e.name for e in path.glob("*") if not PICTURE.fullmatch(e.name))
    if others:
        raise ValueError(
            f"{option} {path}: holds {others[0]}, which is no numbered PNG; give a new folder"
        )


def write_set(images: NDArray[np.uint8], path: Path) -> None:
    """Write images (uint8 ``[n, C, H, W]``, C 1 or 3) in the form of the path's ending, atomically.

    A name without an ending is a folder of PNG pictures, whose names are their numbers. A folder
    that is there is replaced. Grey images become three equal channels in a .npz file.
    """
    ending = path.suffix.lower()
    if ending == ".npy":
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.save(file, images)
    elif ending == ".npz":
        colours = np.broadcast_to(images, (len(images), 3, *images.shape[2:]))
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, arr_0=colours.transpose(0, 2, 3, 1))
    else:
        digits = max(5, len(str(len(images) - 1)))
        with atomic_directory(path) as folder:
            for number, image in enumerate(images):
                pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
                Image.fromarray(pixels).save(folder / f"{number:0{digits}}.png")


def read_set(path: Path, channels: int | None = None) -> NDArray[np.uint8]:
    """The images of a .npy or .npz file: uint8 ``[n, C, H, W]``, C 1 or 3.

    Args:
        channels: of the images to compare with. With 1, three equal channels become one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut short, or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected samples as a .npy or .npz file")
    try:
        images = np.load(path, allow_pickle=False)
        if isinstance(images, np.lib.npyio.NpzFile):
            with images as archive:
                images = _from_archive(archive)
    except Exception as error:  # a damaged header or archive can raise nearly anything
        raise ValueError(f"{path}: not a complete .npy or .npz file ({error})") from error
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"{path}: expected uint8 images [n, channels, height, width]")
    if images.shape[1] not in CHANNELS:
        raise ValueError(f"{path}: {images.shape[1]} channels, expected 1 or 3")
    grey = channels == 1 and images.shape[1] == 3 and bool((images == images[:, :1]).all())
    return images[:, :1] if grey else images


def _from_archive(archive: np.lib.npyio.NpzFile) -> NDArray[np.uint8]:
    """The array of a .npz file, channels first; ``arr_0`` has them last, unless only its second
    axis can be channels."""
    names = archive.files
    name = next((name for name in (ADM, "images") if name in names), None)
    if name is None and len(names) != 1:
        raise ValueError(f"holds {', '.join(names) or 'no array'}, expected {ADM}")
    images: NDArray[np.uint8] = archive[name or names[0]]
    last = name == ADM and images.ndim == 4 and images.shape[3] in CHANNELS
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if last else images
