"""The report: its numbers are the records', it loads nothing, and a person can use it."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest

from bench.data.grids import save_grid
from bench.records.record import Record, write_records
from bench.report.latex import escape
from bench.report.samples import read_tiles
from bench.report.sorting import make_report
from bench.report.sources import PUBLISHED, Sources, read_published, read_sources
from bench.report.tables import literature
from tests.support.browser import find_chromium, open_page
from tests.support.calling import report as call
from tests.support.records import CONVERSION_ROWS, HASHES, cell, conversion, failed, record

ROOT = Path(__file__).parents[2]
HOSTILE = r"""<script>alert(1)</script> & 50% of $x_1^2$ | \input{secret} "q" 'a' `t` *b* {#~"""
# FD of the three seeds of each row. Spread by hand: 10 ± 2 and 5 ± 1.
SPIKING, ANN = (8.0, 10.0, 12.0), (4.0, 5.0, 6.0)
RNG = np.random.default_rng(0)
PICTURES = {h: RNG.integers(0, 255, (64, 1, 8, 8), dtype=np.uint8) for h in HASHES[:2]}


def make_run(folder: Path) -> list[Record]:
    """A run's folder: two rows of three seeds, a failure, a gap, grids and firing rates."""
    records = [cell(i, fd=fd, seed=i) for i, fd in enumerate(SPIKING)]
    records += [cell(3 + i, "ann_twin", fd, seed=i) for i, fd in enumerate(ANN)]
    records += [cell(6, "fsvae", 30.0, title=HOSTILE, time_steps=8)]
    records += [failed("vae").model_copy(update={"config_hash": HASHES[7], "reason": HOSTILE})]
    names = [f"sddpm-T4-ddim10-eta1-{HASHES[0][:8]}", f"sddpm-T16-ddim10-{HASHES[9][:8]}"]
    for name, pictures in zip([names[0], f"x-{HASHES[1][:8]}"], PICTURES.values(), strict=True):
        save_grid(pictures, folder / "cells" / name / "grid.png")
    rates = {"images": 4, "firing_rates": {"stem.act": 0.25, "down.0.act1": 0.125}}
    (folder / "cells" / names[0] / "energy.json").write_text(json.dumps(rates))
    # The second seed's picture under the ANN's cell, so that two rows have samples.
    (folder / "cells" / f"x-{HASHES[1][:8]}").rename(folder / "cells" / f"x-{HASHES[3][:8]}")
    data = {"label": "digits", "image_size": 8}
    run = {"suite": "digits", "preset": "smoke", "samples": 100, "data": data, "cells": names}
    (folder / "run.json").write_text(json.dumps(run))
    write_records(folder / "records.jsonl", records)
    return records


class Page(HTMLParser):
    """Tables as texts, addresses, scripts and ids of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.best: set[str] = set()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self._rows: list[list[str]] = []
        self._open = False
        self._best = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        keys = ("src", "href", "xlink:href", "action", "srcset", "data", "poster")
        self.addresses += [values[key] for key in keys if key in values]
        assert not [name for name in values if name.startswith("on")], values
        if tag == "table":
            self._rows = self.tables.setdefault(values["id"].removeprefix("table-"), [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
            self._open, self._best = True, "best" in values.get("class", "").split()

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._open = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open:
            self._rows[-1][-1] += data
            self.best |= {data} if self._best else set()

    def table(self, beginning: str) -> list[dict[str, str]]:
        name = next(name for name in self.tables if name.startswith(beginning))
        heading, *rows = self.tables[name]
        return [dict(zip(heading, row, strict=True)) for row in rows]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    """A report on a run, a conversion and a records file of another data set and extractor."""
    folder = tmp_path_factory.mktemp("made")
    records = make_run(folder / "run")
    write_records(folder / "converted" / "records.jsonl", conversion(CONVERSION_ROWS))
    other = [
        cell(10, fd=50.0, dataset="cifar10 (jpeg)", title="SDDPM"),
        cell(10, fd=60.0, dataset="cifar10 (jpeg)", title="SDDPM", extractor="inception-v3-compat"),
        cell(11, fd=70.0, dataset="cifar10 (jpeg)", title="SDDPM", samples=999),
    ]
    other[1] = other[1].model_copy(update={"metrics": {"fid": 60.0, "is": 7.0}})
    write_records(folder / "other.jsonl", other)
    out = folder / "report"
    result = call(folder / "run", folder / "converted", folder / "other.jsonl", "--out", out)
    assert result.exit_code == 0, result.output
    assert "rows: 8 (1 failed, 1 missing)" in result.stdout
    return out, records


def test_numbers_are_the_records(made: tuple[Path, list[Record]]) -> None:
    out, _ = made
    ranking = Page(out / "index.html").table("ranking-1")
    rows = {row["System"]: row for row in ranking}
    assert [row["Rank"] for row in ranking] == ["1", "2", "3", "-", "-"]
    assert (
        rows["ANN_TWIN"]["FD (efflite0) ↓"]
        == f"{mean(ANN):.2f} ± {stdev(ANN):.2f}"
        == "5.00 ± 1.00"
    )
    assert rows["SDDPM"]["FD (efflite0) ↓"] == f"{mean(SPIKING):.2f} ± {stdev(SPIKING):.2f}"
    assert rows["SDDPM"]["KID (efflite0) ↓"] == "0.1000 ± 0.0200"
    assert rows["SDDPM"]["Seeds"] == "0, 1, 2"
    stored = record().energies["strict"]
    assert float(rows["SDDPM"]["Strict mJ/image"]) == pytest.approx(stored.per_image_mj, rel=5e-3)
    # Equal in every seed, so no spread is claimed.
    assert "±" not in rows["SDDPM"]["Strict mJ/image"]
    assert Page(out / "index.html").best >= {"5.00 ± 1.00"}
    assert "10.00 ± 2.00" not in Page(out / "index.html").best


def test_every_form_shows_the_same_table(made: tuple[Path, list[Record]]) -> None:
    out, _ = made
    page, markdown = Page(out / "index.html"), (out / "report.md").read_text()
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    split = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    in_markdown = [
        [re.sub(r"\\(.)", r"\1", cell.strip().strip("*")) for cell in row] for row in split
    ]
    paths = sorted((out / "tables").glob("*.tex"))
    assert {path.stem for path in paths} == set(page.tables) - {"glance"}
    for path in paths:
        # In a ranking of the page, the reason stands beside the name.
        shown = [
            [re.sub(r" (failed|missing): .*", "", text) for text in row]
            for row in page.tables[path.stem]
        ]
        body = re.search(r"\\toprule(.*)\\bottomrule", path.read_text(), re.DOTALL)
        assert body
        lines = [line.strip() for line in body[1].splitlines() if line.strip().endswith(r"\\")]
        latex = [line.removesuffix(r"\\").strip().split(" & ") for line in lines]
        # Headings are broken at their spaces and slashes.
        latex[0] = [
            re.sub(r"^\\shortstack\[.\]\{(.*)\}$", r"\1", cell).replace(r"\\", "")
            for cell in latex[0]
        ]
        bare = [[re.sub(r"^\\textbf\{(.*)\}$", r"\1", cell) for cell in row] for row in latex]
        wanted = [[escape(text) for text in row] for row in shown]
        assert bare[1:] == wanted[1:], path.name
        assert [c.replace(" ", "") for c in bare[0]] == [c.replace(" ", "") for c in wanted[0]]
        for row in shown:
            assert row in in_markdown, row


def test_what_failed_or_is_missing_has_a_reason_and_no_number(
    made: tuple[Path, list[Record]],
) -> None:
    out, _ = made
    *_, broken, gap = Page(out / "index.html").table("ranking-1")
    assert broken["System"] == f"VAE failed: {HOSTILE}"
    assert gap["System"] == "SDDPM missing: planned, no record yet"
    assert gap["T"] == "16"
    for row in (broken, gap):
        assert {row[name] for name in row if "FD" in name or "mJ" in name or "KID" in name} == {"-"}
    latex = (out / "tables").glob("ranking-1*.tex")
    assert "planned, no record yet" in next(latex).read_text()


def test_rankings_hold_what_can_be_compared(made: tuple[Path, list[Record]]) -> None:
    page = Page(made[0] / "index.html")
    rankings = {name: rows for name, rows in page.tables.items() if name.startswith("ranking")}
    assert len(rankings) == 4
    firsts = [
        sorted(text for text in rows[0] if "FD" in text or "FID" in text)
        for rows in rankings.values()
    ]
    assert firsts == [["FD (efflite0) ↓"], ["FD (efflite0) ↓"], ["FID ↓"], ["FD (efflite0) ↓"]]
    assert [len(rows) - 1 for rows in rankings.values()] == [5, 1, 1, 1]


def test_published_figures_stand_apart(made: tuple[Path, list[Record]]) -> None:
    page = Page(made[0] / "index.html")
    tables = [name for name in page.tables if name.startswith("published-")]
    assert len(tables) == len(set(tables)) == 7
    rows = [row for name in tables for row in page.table(name)]
    ours = [row for row in rows if row["System"] == "SDDPM" and row["T"] == "4"]
    assert [row["Published FID"] for row in ours] == ["19.73"]
    measured = ours[0]["Measured here, under another protocol"]
    assert measured == (
        "FD (efflite0) 50.00 (60 training steps); FID 60.00 (60 training steps); "
        "FD (efflite0) 70.00 (60 training steps)"
    )
    ranked = [text for name, rows in page.tables.items() if name.startswith("ranking")
              for row in rows for text in row]  # fmt: skip
    assert "19.73" not in ranked
    # Figures of cifar10 alone, and every one of them.
    with (ROOT / "bench" / PUBLISHED).open(newline="") as file:
        stored = [row for row in csv.DictReader(file) if row["dataset"] == "cifar10"]
    assert sorted(row["Published FID"] for row in rows) == sorted(row["fid"] for row in stored)
    # One protocol a table.
    for name in tables:
        systems = {row["System"] for row in page.table(name)}
        assert len({row["protocol"] for row in stored if row["system"] in systems}) == 1


def test_hostile_names_are_text(made: tuple[Path, list[Record]]) -> None:
    out, _ = made
    page = Page(out / "index.html")
    assert page.tags.count("script") == 1
    assert page.text.count(HOSTILE) >= 4
    for path in (out / "tables").glob("*.tex"):
        body = re.sub(r"\\[\\&%$#_{}]", "", path.read_text())  # what is escaped is harmless
        assert r"\input" not in body
        table = body[body.index(r"\midrule") : body.index(r"\bottomrule")]
        assert "%" not in table.replace("%\n", "")
        assert not re.search(r"[#_^~]", table)
    # No cell of Markdown begins a tag or ends before its end.
    lines = [line.split("\n") for line in (out / "report.md").read_text().split("\n\n")]
    tables = [rows for rows in lines if rows[0].startswith("|") and "alert" in "".join(rows)]
    assert len(tables) == 2
    for rows in tables:
        assert not re.search(r"(?<!\\)[<>]", "".join(rows))
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_nothing_is_loaded_from_anywhere(made: tuple[Path, list[Record]]) -> None:
    out, _ = made
    page = Page(out / "index.html")
    for address in page.addresses:
        assert address.startswith(("data:", "#", "figures/")), address
        if address.startswith("#"):
            assert address[1:] in page.ids, address
        if address.startswith("figures/"):
            assert (out / address).is_file(), address
    text = (out / "index.html").read_text()
    assert not re.search(r"@import|url\((?!#)|//[a-z0-9.-]+\.[a-z]{2,}/(?!(1999|2000)/)", text)
    assert len(page.ids) == len(set(page.ids))
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", (out / "report.md").read_text()):
        assert (out / picture).is_file(), picture


def test_how_each_number_was_made(made: tuple[Path, list[Record]]) -> None:
    out, records = made
    texts = [Page(out / "index.html").text, (out / "report.md").read_text()]
    for text in texts:
        for kept in (*records[:3], records[6]):
            for fact in (
                kept.command, kept.config_hash, kept.training_hash, kept.git_commit,
                "60 steps of 32 images", "torch 2.15.0", "AMD EPYC, 2 cores",
                "300 train images, hash a96acca50ea4cc2d",
            ):  # fmt: skip
                assert fact in text, fact


def test_a_report_is_made_again_in_its_place(tmp_path: Path) -> None:
    path, out = tmp_path / "records.jsonl", tmp_path / "report"
    write_records(path, [cell(0), cell(1, "ann_twin", 3.0)])
    assert call(path, "--out", out).exit_code == 0
    first = {p.relative_to(out): p.read_bytes() for p in out.rglob("*.*")}
    (out / "figures" / "old.svg").write_text("of an earlier report")
    (out / "notes.txt").write_text("mine")
    assert call(path, "--out", out).exit_code == 0
    again = {p.relative_to(out): p.read_bytes() for p in out.rglob("*.*")}
    assert again.pop(Path("notes.txt")) == b"mine"
    assert again == first


def test_the_later_record_counts_and_a_failure_hides_no_result(tmp_path: Path) -> None:
    bad = failed().model_copy(update={"config_hash": HASHES[0]})
    write_records(tmp_path / "a.jsonl", [bad, cell(1, fd=1.0)])
    write_records(tmp_path / "b.jsonl", [cell(0, fd=2.0), cell(1, fd=3.0)])
    for order in ("ab", "ba"):
        found = read_sources([tmp_path / f"{name}.jsonl" for name in order]).records
        by_hash = {r.config_hash: r for r in found}
        assert len(found) == 2
        assert by_hash[HASHES[0]].metrics["fd_efflite0"] == 2.0
        assert by_hash[HASHES[1]].metrics["fd_efflite0"] == (3.0 if order == "ab" else 1.0)


def test_literature_measured_here_needs_the_same_time_steps() -> None:
    sources = Sources(records=[cell(0, dataset="cifar10", title="SDDPM", time_steps=8)])
    (section,) = make_report(sources, read_published()).sections
    texts = {(line.entries[0].text, line.entries[2].text): line.entries[-1].text
             for table in literature(section) for line in table.lines}  # fmt: skip
    assert texts["SDDPM", "8"] == "FD (efflite0) 10.00 (60 training steps)"
    assert texts["SDDPM", "4"] == texts["DDPM", "-"] == "-"


def test_a_grid_gives_its_images_back(tmp_path: Path) -> None:
    for channels, size in ((1, 8), (3, 32), (3, 128)):
        images = RNG.integers(0, 255, (11, channels, size, size), dtype=np.uint8)
        save_grid(images, tmp_path / "grid.png")
        tiles = read_tiles(tmp_path / "grid.png", size)
        np.testing.assert_array_equal(tiles, images.transpose(0, 2, 3, 1).squeeze())


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine")
def test_a_browser_shows_it_and_its_controls_work(
    made: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    with open_page(made[0] / "index.html", tmp_path) as page:
        page.resize(1300, 900)
        for selector in ("table", "figure svg", ".strip img", ".compare", "#theme"):
            boxes = page.run(
                f"[...document.querySelectorAll({json.dumps(selector)})]"
                ".map(e => [e.getBoundingClientRect().width, e.getBoundingClientRect().height])"
            )
            assert boxes, selector
            assert all(width > 20 and height > 10 for width, height in boxes), (selector, boxes)
        assert page.run("[...document.images].every(i => !i.src || i.naturalWidth > 0)")

        # Sort: ascending, descending; what has no figure stays last.
        ranking = "table.ranking"
        column = page.run(
            f"[...document.querySelector('{ranking}').tHead.rows[0].cells]"
            ".findIndex(c => c.textContent.startsWith('FD'))"
        )
        heading = f"{ranking} th:nth-child({column + 1}) button"
        shown = (
            f"[...document.querySelector('{ranking}').tBodies[0].rows]"
            f".map(r => r.cells[{column}].textContent)"
        )
        page.click(heading)
        assert page.run(shown) == ["5.00 ± 1.00", "10.00 ± 2.00", "30.00", "-", "-"]
        page.click(heading)
        assert page.run(shown) == ["30.00", "10.00 ± 2.00", "5.00 ± 1.00", "-", "-"]

        # Compare: the pictures are the chosen rows', the divider moves, rows can be exchanged.
        state = (
            "(() => { const c = document.querySelector('.compare');"
            "return [c.querySelector('.over').src, c.querySelector('.under').src,"
            "c.querySelector('.stage').style.getPropertyValue('--cut')]; })()"
        )
        rows = page.run("[...document.querySelectorAll('.strip img')].map(i => i.src)")
        assert page.run(state) == [rows[0], rows[1], "50%"]
        page.click(".compare button")
        assert page.run(state)[2] == "100%"
        page.run(
            "(() => { const s = document.querySelectorAll('.compare select')[1];"
            "s.selectedIndex = 0; s.dispatchEvent(new Event('change')); })()"
        )
        assert page.run(state)[1] == rows[0]

        # Enlarge, and close again.
        page.click(".strip")
        assert page.run("document.querySelector('dialog').open")
        assert page.run("document.querySelector('dialog img').src") == rows[0]
        page.click("dialog img")
        assert not page.run("document.querySelector('dialog').open")

        # A name leads to how its figures were made.
        page.click(f"{ranking} tbody tr th a")
        page.wait_for("document.querySelector('details:target')?.open")
        assert page.run("document.querySelector('details:target').checkVisibility()")

        dark = page.run("getComputedStyle(document.body).backgroundColor")
        page.click("#theme")
        assert page.run("getComputedStyle(document.body).backgroundColor") != dark
        page.resize(390, 800)
        assert page.run("document.documentElement.scrollWidth") <= 390
        assert page.complaints == []
        assert page.requests == [(made[0] / "index.html").resolve().as_uri()]
