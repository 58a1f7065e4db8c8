"""The report of points: its words are of points, and the pictures that a run drew are in it."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.records.record import Record, write_records
from bench.report.densities import Density
from bench.tables.table import frame, to_csv, to_markdown
from tests.support.calling import refused
from tests.support.calling import report as call
from tests.support.records import HASHES, cell, failed

RNG = np.random.default_rng(0)
SIZE = (48, 90)  # lines, columns: not those of a grid of images
NOT_ONE_SIZE = (40, 60)
SPHERE = {
    "dataset": "volcano", "manifold": "sphere", "image_size": 3, "extractor": "points",
    "reference_split": "test", "sampler": None, "sampler_steps": None, "eta": None,
}  # fmt: skip


def of_points(number: int, nll: float, system: str = "rddpm_spiking", **more: object) -> Record:
    """A record of points on the sphere."""
    found = cell(number, system, **{**SPHERE, **more})
    return found.model_copy(update={"metrics": {"nll_paths": nll, "mmd": 0.01}})


def picture(path: Path, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Write a picture of noise in 200 colours, as matplotlib writes one, with a channel of
    opacity."""
    colours = RNG.integers(0, 255, (200, 3), dtype=np.uint8)
    pixels = colours[RNG.integers(0, len(colours), size)]
    path.parent.mkdir(parents=True, exist_ok=True)
    opaque = np.concatenate([pixels, np.full((*size, 1), 255, np.uint8)], 2)
    Image.fromarray(opaque).save(path)
    return pixels


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray]]:
    """A report on a run on the sphere with a gap, on copied records of rotations, and on a run that
    failed."""
    folder = tmp_path_factory.mktemp("points")
    run = folder / "run"
    ann = {"time_steps": None, "firing_rate": None, "title": "Riemannian DDPM"}
    records = [
        *(of_points(i, nll, seed=i) for i, nll in enumerate((-4.0, -4.5))),
        of_points(2, -5.0, "rddpm", train_steps=90, **ann),
        of_points(3, -3.0, time_steps=2),  # it has no picture
    ]
    write_records(run / "records.jsonl", records)
    gap = f"rddpm_spiking-T16-{HASHES[9][:8]}"
    data = {"label": "volcano", "image_size": 3, "manifold": "sphere"}
    facts = {"suite": "digits", "preset": "smoke", "samples": 100, "data": data, "cells": [gap]}
    (run / "run.json").write_text(json.dumps(facts))
    drawn = [
        picture(run / "cells" / f"rddpm_spiking-T4-{HASHES[0][:8]}" / "density.png"),
        picture(run / "cells" / f"rddpm-{HASHES[2][:8]}" / "density.png", NOT_ONE_SIZE),
    ]
    turned = of_points(4, 1.0, dataset="so10", manifold="rotations", image_size=10, title="turned")
    write_records(folder / "copied" / "records.jsonl", [turned])
    drawn.append(picture(folder / "copied" / f"rddpm_spiking-T4-{HASHES[4][:8]}.png"))
    broken = failed("rddpm").model_copy(
        update={"dataset": "fire", "manifold": "sphere", "image_size": 3, "extractor": None}
    )
    write_records(folder / "broken.jsonl", [broken])
    out = folder / "report"
    result = call(run, folder / "copied", folder / "broken.jsonl", "--out", out)
    assert result.exit_code == 0, result.output
    return out, drawn


def test_a_map_of_many_colours_looks_the_same_in_half_the_bytes() -> None:
    down, across = np.mgrid[:192, :360]
    grain = RNG.normal(0, 3, (192, 360))
    pixels = np.stack([across / 2 + grain, down / 2 + 50 + grain, 120 + grain], 2).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    row: Any = None
    small = Density(row, pixels).png()
    assert len(small) < len(file.getvalue()) / 2
    shown = np.asarray(Image.open(io.BytesIO(small)).convert("RGB"))
    # Of 255 levels a pixel is wrong by few, and the colours of the picture by none.
    error = shown.astype(float) - pixels
    assert abs(error).mean() < 5
    assert abs(error.mean((0, 1))).max() < 1


def test_a_report_of_points_speaks_of_no_image(made: tuple[Path, list[np.ndarray]]) -> None:
    out, _ = made
    markdown = (out / "report.md").read_text(encoding="utf-8")
    body = markdown.split("#### How each number was made")[0]
    heading = next(line for line in body.splitlines() if line.startswith("| Rank"))
    assert "Points trained on" in heading
    assert "Strict mJ/point" in heading
    assert "energy of one finished point by every accounting" in body
    assert "8-bit integer mJ/point" in body
    assert "volcano, sphere of size 3: 100 samples against 300 test points" in body
    assert "fire, sphere of size 3: 100 samples" in markdown
    assert "accumulates, 4.197e+07 SOPs a point" in markdown
    texts = [markdown, *(path.read_text() for path in (out / "tables").glob("*.tex"))]
    texts += [path.read_text() for path in (out / "figures").glob("*.svg")]
    assert len(texts) > 8
    for text in texts:
        text = re.sub(r"<image\b[^>]*>|</image>|image/png|Image\b", "", text)
        found = re.findall(r".{30}\bimages?\b.{30}", text)
        assert not found, found


def test_the_pictures_of_points_are_in_the_page(made: tuple[Path, list[np.ndarray]]) -> None:
    out, drawn = made
    page = (out / "index.html").read_text(encoding="utf-8")
    strips = re.findall(r'class="strip".*?src="data:image/png;base64,([^"]+)" alt="([^"]+)"', page)
    shown = {
        alt: np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))
        for text, alt in strips
    }
    wanted = {
        "Samples of RDDPM_SPIKING, T = 4": drawn[0],
        "Samples of Riemannian DDPM": drawn[1],
        "Samples of turned, T = 4": drawn[2],
    }
    assert len(strips) == 3
    for alt, pixels in wanted.items():
        np.testing.assert_array_equal(shown[alt], pixels)
    # A picture is shown whole, in its own form.
    assert f"aspect-ratio: {SIZE[1]} / {SIZE[0]}" in page
    assert f"aspect-ratio: {NOT_ONE_SIZE[1]} / {NOT_ONE_SIZE[0]}" in page


def test_a_figure_compares_the_densities(made: tuple[Path, list[np.ndarray]]) -> None:
    out, _ = made
    markdown = (out / "report.md").read_text(encoding="utf-8")
    on_map = "Density of the samples on Mollweide's map"
    assert f"![{on_map}" in markdown
    assert markdown.count("![Samples along their two main components") == 1
    figures = sorted(path.name for path in (out / "figures").glob("samples-*.png"))
    assert len(figures) == 2
    for name in figures:
        assert f"(figures/{name})" in markdown
    svg = next((out / "figures").glob("samples-1-*.svg")).read_text()
    # Best first, each under its own name.
    assert svg.index("Riemannian DDPM") < svg.index("RDDPM_SPIKING, T = 4")
    assert svg.count("<image") == 2


def test_a_table_of_points_has_their_heading_and_one_of_images_its_own() -> None:
    points, images = [of_points(0, 1.0)], [cell(1)]
    for records, noun, other in ((points, "point", "image"), (images, "image", "point")):
        text = to_markdown(frame(records), records)
        assert f"Strict mJ/{noun}" in text
        assert f"8-bit mJ/{noun}" in text
        assert f"mJ/{other}" not in text
    # Names for programs are the same for both.
    assert "strict_mj_per_image" in to_csv(frame(points))


def test_a_broken_picture_of_points_is_named(tmp_path: Path) -> None:
    write_records(tmp_path / "records.jsonl", [of_points(0, 1.0)])
    (tmp_path / f"rddpm_spiking-{HASHES[0][:8]}.png").write_bytes(b"\x89PNG and no more")
    result = call(tmp_path, "--out", tmp_path / "report")
    refused(result, f"rddpm_spiking-{HASHES[0][:8]}.png: not a picture that can be read")
