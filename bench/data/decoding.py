"""Picture files to pixels, as a person sees them: upright, on white, 8 bits a channel.

Only the formats of :data:`FORMATS` are opened, whatever a file is called, so a foreign file
reaches none of Pillow's other readers (its EPS reader starts Ghostscript).
"""

from __future__ import annotations

import io
import math
from functools import cache
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, features

ENDINGS = {
    ".avif": "AVIF", ".bmp": "BMP", ".gif": "GIF", ".jfif": "JPEG", ".jpe": "JPEG",
    ".jpeg": "JPEG", ".jpg": "JPEG", ".pbm": "PPM", ".pgm": "PPM", ".png": "PNG",
    ".pnm": "PPM", ".ppm": "PPM", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP",
}  # fmt: skip
"""Ending of a picture's file, in lower case -> its format."""
FORMATS = tuple(sorted(set(ENDINGS.values())))
"""Formats that are opened, by Pillow's names. PPM includes PBM, PGM and PNM."""
BACKGROUND = (255, 255, 255)
"""White, in RGB: the background of transparent pixels."""
GREY_MODES = ("1", "L", "LA", "La", "I", "F")
"""Pillow's modes of pictures without colour; those of 16 bits start with ``I;16``."""
PART = 2**20
"""Pixels of more than 8 bits that are scaled at a time."""
ORIENTATION = 0x0112
"""EXIF's tag for how the camera was held."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transform that turns the picture upright, by the value of :data:`ORIENTATION`."""


def is_picture(name: str) -> bool:
    """Whether a file's name ends as a picture's that the installed Pillow can read."""
    kind = ENDINGS.get(PurePath(name).suffix.lower())
    return kind is not None and kind in readable()


@cache
def readable() -> tuple[str, ...]:
    """Those of :data:`FORMATS` that the installed Pillow was built with."""
    optional = {"AVIF": "avif", "WEBP": "webp"}
    known = features.get_supported_modules()
    return tuple(name for name in FORMATS if optional.get(name) in (None, *known))


def decode(file: bytes) -> Image.Image:
    """The first picture of a file's bytes, mode ``L`` (grey) or ``RGB``, 8 bits a channel.

    - It is turned upright as its EXIF orientation says.
    - Transparent pixels are composited on :data:`BACKGROUND`.
    - Integers of more than 8 bits must be 0 (black) to 65535 (white), floats 0 (black) to 1
      (white); both are scaled to 0 to 255 and rounded to the nearest.

    Raises:
        ValueError: the bytes are no whole picture of :data:`FORMATS`, or hold other values.
    """
    picture = _open(file)
    try:
        picture.load()
        seen = _upright(picture)
        if _is_deep(seen.mode):
            return _shallow(seen)
        grey = seen.mode in GREY_MODES
        if seen.has_transparency_data:
            seen = seen.convert("RGBA")
            seen = Image.alpha_composite(Image.new("RGBA", seen.size, (*BACKGROUND, 255)), seen)
        return seen.convert("L" if grey else "RGB")
    except Exception as error:  # Pillow's readers let any error of damaged data through
        raise _as_value_error(error) from error


def is_grey(file: bytes) -> bool:
    """Whether a picture is stored without colour. Only its head is read.

    Raises:
        ValueError: as :func:`decode`, where the head shows it.
    """
    mode = _open(file).mode
    return mode in GREY_MODES or _is_deep(mode)


def _open(file: bytes) -> Image.Image:
    if not file:
        raise ValueError("the file is empty")
    try:
        return Image.open(io.BytesIO(file), formats=readable())
    except UnidentifiedImageError as error:
        raise ValueError(f"it is none of {', '.join(readable())}") from error
    except Exception as error:
        raise _as_value_error(error) from error


def _as_value_error(error: Exception) -> ValueError:
    """The error in one line."""
    return ValueError(" ".join(str(error).split()) or type(error).__name__)


def _upright(picture: Image.Image) -> Image.Image:
    try:
        held = picture.getexif().get(ORIENTATION)
    except Exception:  # Pillow lets any error of a damaged EXIF part through
        held = None
    turn = UPRIGHT.get(held) if isinstance(held, int) else None
    return picture if turn is None else picture.transpose(turn)


def _is_deep(mode: str) -> bool:
    return mode in ("I", "F") or mode.startswith("I;16")


def _shallow(picture: Image.Image) -> Image.Image:
    """Mode ``L`` of a grey picture of 16 bits, 32 bits or floats."""
    stored = np.asarray(picture)
    kind, white = ("floats", 1.0) if picture.mode == "F" else ("integers", 65535.0)
    low, high = float(stored.min()), float(stored.max())  # NaN where any pixel is
    if not math.isfinite(low) or not math.isfinite(high):
        raise ValueError("it holds NaN or infinity, expected floats of 0 (black) to 1 (white)")
    if low < 0 or high > white:
        raise ValueError(
            f"its values are {low:g} to {high:g}, expected {kind} of 0 (black) to {white:g} (white)"
        )
    pixels = np.empty(stored.shape, np.uint8)
    # In parts: a large picture in float64 would take eight times its own memory.
    for source, target in zip(*(_parts(a.reshape(-1)) for a in (stored, pixels)), strict=True):
        target[:] = np.floor(source * (255 / white) + 0.5)
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        pixels[stored == transparent] = BACKGROUND[0]
    return Image.fromarray(pixels)


def _parts(values: NDArray[Any]) -> list[NDArray[Any]]:
    return [values[start : start + PART] for start in range(0, len(values), PART)]
