"""bench.data.decoding: picture files of every kind, as a person sees them."""

from __future__ import annotations

import io
import subprocess

import numpy as np
import pytest
from PIL import Image

from bench.data.decoding import decode, is_grey, is_picture

RAMP = np.linspace(0, 65535, 256).reshape(16, 16)


def stored(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "file",
    [
        stored(Image.fromarray(RAMP.astype(np.uint16))),
        stored(Image.fromarray(RAMP.astype(np.uint16)), "TIFF"),
        stored(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
        stored(Image.fromarray((RAMP / 65535).astype(np.float32)), "TIFF"),
        b"P5 16 16 65535\n" + RAMP.astype(">u2").tobytes(),
    ],
    ids=["png16", "tiff16", "tiff32", "float", "pgm16"],
)
def test_more_than_eight_bits_keep_their_levels(file: bytes) -> None:
    picture = decode(file)
    assert picture.mode == "L"
    assert is_grey(file)
    # 65535 / 255 = 257 levels of 16 bits are one of 8.
    assert np.abs(np.asarray(picture) - RAMP / 257).max() <= 0.51
    assert abs(np.asarray(picture).mean() - 127.5) < 0.1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[0.0, float("nan")]], "NaN or infinity"),
        ([[0.0, float("inf")]], "NaN or infinity"),
        ([[0.0, 200.0]], r"values are 0 to 200, expected floats of 0 \(black\) to 1 \(white\)"),
        ([[-0.5, 0.5]], "values are -0.5 to 0.5"),
    ],
)
def test_floats_that_are_no_grey_levels_are_refused(
    values: list[list[float]], message: str
) -> None:
    file = stored(Image.fromarray(np.array(values, np.float32)), "TIFF")
    with pytest.raises(ValueError, match=message):
        decode(file)


def test_every_exif_orientation_is_turned_upright() -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255  # white in the upper left quarter
    # How a camera stores it: what undoes each orientation.
    stored_as = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }  # fmt: skip
    for value, pixels in stored_as.items():
        exif = Image.Exif()
        exif[0x0112] = value
        for kind in ("JPEG", "PNG", "TIFF"):
            file = stored(Image.fromarray(np.ascontiguousarray(pixels)), kind, exif=exif)
            got = np.asarray(decode(file)).astype(int)
            assert got.shape == upright.shape
            assert np.abs(got - upright).max() < 20, (kind, value)


def test_transparent_pixels_are_white() -> None:
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0] = [255, 0, 0, 0]  # red that nobody sees
    rgba[1] = [255, 0, 0, 128]
    got = np.asarray(decode(stored(Image.fromarray(rgba))))
    assert got[0].tolist() == [[255, 255, 255]] * 2
    # Half red, half white.
    assert np.abs(got[1].astype(int) - [255, 127, 127]).max() <= 1
    grey = Image.fromarray(np.array([[[0, 0], [0, 255]]], np.uint8), "LA")
    assert decode(stored(grey)).mode == "L"
    assert np.asarray(decode(stored(grey))).tolist() == [[255, 0]]
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        got = np.asarray(decode(stored(palette, kind, transparency=0)))
        assert got.tolist() == [[[255, 255, 255], [40, 50, 60]]]
    keyed = stored(Image.new("L", (1, 1), 7), transparency=7)
    assert np.asarray(decode(keyed)).tolist() == [[255]]


def test_plain_pictures_come_back_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    for shape in ((5, 7), (5, 7, 3)):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        assert np.array_equal(np.asarray(decode(stored(Image.fromarray(pixels)))), pixels)
    bilevel = stored(Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1"))
    assert np.asarray(decode(bilevel)).tolist() == [[0, 255]]
    assert decode(stored(Image.new("CMYK", (2, 2)), "JPEG")).mode == "RGB"


def test_undocumented_formats_reach_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    eps = stored(Image.new("RGB", (4, 4)), "EPS")
    assert eps.startswith(b"%!PS")
    for file in (eps, stored(Image.new("RGB", (4, 4)), "ICO"), b"text", b"\0" * 100):
        with pytest.raises(ValueError, match="it is none of AVIF, BMP, GIF, JPEG, PNG") as info:
            decode(file)
        assert "0x" not in str(info.value)
    with pytest.raises(ValueError, match="the file is empty"):
        decode(b"")


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_damaged_pictures_are_refused_in_one_line() -> None:
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (12, 12, 4), dtype=np.uint8))
    flat = colour.convert("RGB")
    whole = [
        stored(colour), stored(colour, "WEBP"), stored(flat, "JPEG"), stored(flat, "AVIF"),
        stored(flat, "BMP"), stored(flat, "PPM"), stored(flat.convert("P"), "GIF"),
        stored(flat, "TIFF", compression="tiff_lzw"),
    ]  # fmt: skip
    refused = []
    for file in whole * 25:
        damaged = bytearray(file[: rng.integers(1, len(file) + 1)])
        # Behind the head, where a changed size only makes a large picture.
        for place in rng.integers(0, len(damaged), 3):
            damaged[place] = rng.integers(0, 256) if place > 64 else damaged[place]
        for read in (is_grey, decode):
            try:
                read(bytes(damaged))
            except ValueError as error:
                refused.append(str(error))
    assert len(refused) > 100
    assert all(refused)
    assert not any("\n" in message for message in refused)


def test_names_of_pictures() -> None:
    assert all(map(is_picture, ("a.png", "b/C.JPEG", "x.tif", "y.avif")))
    assert not any(map(is_picture, ("a.txt", "png", "a.eps", "a.heic", "a.pdf", "a.npy", "a")))
