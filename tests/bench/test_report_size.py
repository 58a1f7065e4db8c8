"""The page's pictures stay within their room, and the first line of every grid stays."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bench.report.html
from bench.data.grids import save_grid
from bench.records.record import write_records
from tests.support.calling import report as call
from tests.support.records import cell

TILES = np.random.default_rng(0).integers(0, 255, (64, 1, 8, 8), dtype=np.uint8)
NOTE = "To keep this page small"


def pictures(folder: Path) -> tuple[list[np.ndarray], str]:
    """Pictures of the page of a run with two rows, and the page's text."""
    records = [cell(0), cell(3, "ann_twin", 5.0)]
    for record in records:
        name = f"{record.system}-{record.config_hash[:8]}"
        save_grid(TILES, folder / "run" / "cells" / name / "grid.png")
    write_records(folder / "run" / "records.jsonl", records)
    assert call(folder / "run", "--out", folder / "report").exit_code == 0
    text = (folder / "report" / "index.html").read_text(encoding="utf-8")
    found = re.findall(r'<img id="samples[^>]*base64,([^"]*)"', text)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in found], text


def test_with_room_every_image_is_in_the_page(tmp_path: Path) -> None:
    shown, text = pictures(tmp_path)
    assert [picture.shape for picture in shown] == [(73, 73), (73, 73)]
    assert NOTE not in text


@pytest.mark.parametrize(("room", "lines"), [(0.5, 4), (0.3, 2), (1e-6, 1)])
def test_a_small_room_holds_the_first_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: float, lines: int
) -> None:
    whole, _ = pictures(tmp_path / "whole")
    size = io.BytesIO()
    Image.fromarray(whole[0]).save(size, "PNG", optimize=True)
    monkeypatch.setattr(
        bench.report.html, "PICTURE_BYTES", int(2 * room * len(size.getvalue())) + 1
    )
    shown, text = pictures(tmp_path / "short")
    assert NOTE in text
    for picture, before in zip(shown, whole, strict=True):
        assert np.array_equal(picture, before[: 9 * lines + 1])
