"""Images that a user gives to be scored: a folder or archive of pictures, or a file of samples."""

from __future__ import annotations

from pathlib import Path

from bench.data.folders import Files
from bench.data.listing import Archives, list_files, printable
from bench.data.pictures import Images, Transform
from sddpm.protocol import ImageShape


def load_given(place: Path, shape: ImageShape) -> Images:
    """Every picture in the folder or ZIP archive ``place`` and below it, in order of their names,
    brought to ``shape``: its centre square, resized.

    Raises:
        FileNotFoundError: no picture is there.
        ValueError: a file cannot be read.
    """
    if not place.exists():
        raise FileNotFoundError(f"{place}: no such folder or file")
    listing, label = list_files(place), printable(place.resolve().name)
    if not listing.pictures:
        raise FileNotFoundError(f"{place}: no pictures ({listing.skipped_words()})")
    note = f"{label}: {len(listing.pictures)} pictures used, {listing.skipped_words()}"
    files = Files(listing.pictures, printable(str(place)), Archives())
    transform = Transform(shape.channels, None, shape.size)
    return Images(files, transform, label=label, horizontal_flip=False, notes=(note,))
