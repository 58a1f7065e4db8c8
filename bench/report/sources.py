"""Sources of a report: run folders and records files, read and checked.

A run's folder gives records, the cells that it planned, sample grids and firing rates by layer;
a bare ``records.jsonl`` gives records alone. Records that ``convert`` wrote are curves.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from bench.records.conversions import ConversionCurve, read_curves
from bench.records.identity import measurement
from bench.records.record import Record, read_records

RUN, RECORDS = "run.json", "records.jsonl"
PUBLISHED = "published.csv"
HASH_CHARACTERS = 8
"""Characters of a cell's hash in the name of its folder."""


@dataclass(frozen=True)
class Planned:
    """A cell that a run announced in its ``run.json``."""

    name: str
    """Folder under ``cells/``: system, time steps, sampler and the hash's beginning."""
    run: Mapping[str, Any]
    """The whole ``run.json``."""

    @property
    def hash(self) -> str:
        """The first characters of the cell's hash."""
        return self.name.rsplit("-", 1)[-1]


@dataclass(frozen=True)
class Published:
    """One figure of the literature."""

    dataset: str
    system: str
    kind: str
    time_steps: int | None
    params_millions: float | None
    inception_score: float | None
    fid: float | None
    protocol: str
    """Protocol of the FID: samples, references, resizing and Inception variant. Figures of two
    protocols cannot be compared."""
    source: str


@dataclass
class Sources:
    """Everything that was found."""

    names: list[str] = field(default_factory=list)
    """The inputs, as they were given."""
    records: list[Record] = field(default_factory=list)
    """One a cell and extractor; where two inputs hold the same cell, the later one's."""
    planned: list[Planned] = field(default_factory=list)
    grids: dict[str, Path] = field(default_factory=dict)
    """Beginning of a cell's hash -> its sample grid."""
    layer_rates: dict[str, dict[str, float]] = field(default_factory=dict)
    """Beginning of a cell's hash -> neuron layer -> spikes per neuron and time step."""
    conversions: list[ConversionCurve] = field(default_factory=list)


def read_sources(paths: Sequence[Path]) -> Sources:
    """Read run folders, folders with a ``records.jsonl``, and records files.

    Raises:
        FileNotFoundError: a path is not there.
        ValueError: a path is none of these, a file is broken, or nothing was found at all.
    """
    found = Sources()
    kept: dict[tuple[Any, ...], Record] = {}
    curves: dict[str, ConversionCurve] = {}
    for path in paths:
        found.names.append(str(path))
        if not path.exists():
            raise FileNotFoundError(
                f"{path}: no such file or folder; expected a {RECORDS}, or a folder that run or "
                "convert wrote"
            )
        if path.is_file():
            if path.suffix != ".jsonl":
                raise ValueError(f"{path}: expected a records file (.jsonl) or a folder")
            _keep(kept, curves, path)
            continue
        known = [name for name in (RUN, RECORDS) if (path / name).is_file()]
        if not known:
            raise ValueError(
                f"{path}: holds no {RECORDS} or {RUN}: neither run nor convert wrote it"
            )
        if RECORDS in known:
            _keep(kept, curves, path / RECORDS)
        if RUN in known:
            found.planned += _planned(path / RUN)
        _cells(path, found)
    # A cell that worked in one input is not shown as failed because of another.
    worked = {(r.config_hash, r.extractor) for r in kept.values() if r.status == "ok"}
    for key, record in list(kept.items()):
        if record.status == "failed" and (record.config_hash, record.extractor) in worked:
            del kept[key]
    found.records, found.conversions = list(kept.values()), list(curves.values())
    if not (found.records or found.conversions or found.planned):
        raise ValueError(f"{', '.join(found.names)}: no record in it, so nothing to report")
    _pictures(paths, found)
    return found


def read_published(path: Path | None = None) -> list[Published]:
    """The literature's figures, from ``path`` or from the copy in the package.

    Raises:
        FileNotFoundError, ValueError: no such file, or a row that cannot be read.
    """
    if path is None:
        text = (resources.files("bench") / PUBLISHED).read_text(encoding="utf-8")
        return _published(text, PUBLISHED)
    if not path.is_file():
        raise FileNotFoundError(f"--published {path}: no such file; expected a CSV of figures")
    return _published(_text(path), f"--published {path}")


def _keep(
    kept: dict[tuple[Any, ...], Record], curves: dict[str, ConversionCurve], path: Path
) -> None:
    """Add the records of ``path``, those of a conversion together, as a curve by its id.

    A later record replaces the same cell's earlier one; a failure replaces no result.
    """
    records = read_records(path)
    curves |= read_curves(records, str(path))
    for record in (record for record in records if record.conversion is None):
        key = measurement(record)
        old = kept.get(key)
        if old is None or record.status == "ok" or old.status == "failed":
            kept[key] = record


def _planned(path: Path) -> list[Planned]:
    run = _json(path)
    cells = run.get("cells")
    if not isinstance(cells, list) or not all(isinstance(name, str) for name in cells):
        raise ValueError(f"{path}: expected a list of names under 'cells'")
    if not isinstance(run.get("data"), dict):
        raise ValueError(f"{path}: expected the data set's facts under 'data'")
    return [Planned(name, run) for name in cells]


def _cells(folder: Path, found: Sources) -> None:
    """Sample grids and firing rates below ``cells/``."""
    for cell in sorted((folder / "cells").glob("*")):
        cell_hash = cell.name.rsplit("-", 1)[-1]
        if (cell / "grid.png").is_file():
            found.grids[cell_hash] = cell / "grid.png"
        if (cell / "energy.json").is_file():
            rates = _json(cell / "energy.json").get("firing_rates")
            if isinstance(rates, dict) and rates:
                found.layer_rates[cell_hash] = {
                    str(name): _number(value, f"{cell / 'energy.json'}: firing_rates.{name}")
                    for name, value in rates.items()
                }


def _pictures(paths: Sequence[Path], found: Sources) -> None:
    """Grids that were copied beside a ``records.jsonl``: ``NAME-HASH.png``, or ``SYSTEM.png``
    where the file holds one cell of that system."""
    for folder in (path for path in paths if (path / RECORDS).is_file()):
        by_hash: dict[str, list[Record]] = {}
        by_system: dict[str, list[Record]] = {}
        for record in read_records(folder / RECORDS):
            by_hash.setdefault(record.config_hash[:HASH_CHARACTERS], []).append(record)
            by_system.setdefault(record.system, []).append(record)
        for picture in sorted(folder.glob("*.png")):
            ending = picture.stem.rsplit("-", 1)[-1]
            near = by_hash.get(ending[:HASH_CHARACTERS], [])
            cells = [r for r in near if r.config_hash.startswith(ending)]
            if len(ending) < HASH_CHARACTERS or not cells:
                cells = by_system.get(picture.stem, [])
            if len({r.config_hash for r in cells}) == 1:
                found.grids.setdefault(cells[0].config_hash[:HASH_CHARACTERS], picture)


def _published(text: str, where: str) -> list[Published]:
    needed = [
        "dataset", "fid", "inception_score", "kind", "params_millions", "protocol", "source",
        "spiking_time_steps", "system",
    ]  # fmt: skip
    rows = []
    for place, row in _rows(text, where, needed):
        if not row["protocol"]:
            raise ValueError(f"{place}: protocol: is empty; expected how the FID was made")
        steps = _optional(row["spiking_time_steps"], f"{place}: spiking_time_steps")
        rows.append(
            Published(
                dataset=row["dataset"],
                system=row["system"],
                kind=row["kind"],
                time_steps=None if steps is None else _whole(steps, f"{place}: spiking_time_steps"),
                params_millions=_optional(row["params_millions"], f"{place}: params_millions"),
                inception_score=_optional(row["inception_score"], f"{place}: inception_score"),
                fid=_optional(row["fid"], f"{place}: fid"),
                protocol=row["protocol"],
                source=row["source"],
            )
        )
    return rows


def _rows(text: str, where: str, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row of a CSV with these columns and perhaps others, and the line that it ends in."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            if set(needed) - set(row):
                raise ValueError(f"{where}: expected the columns {', '.join(needed)}")
            place = f"{where}, line {reader.line_num}"
            # What is too much stands under None; what is too little is None.
            if None in row or None in row.values():
                raise ValueError(f"{place}: expected {len(reader.fieldnames or ())} columns")
            yield place, row
    except csv.Error as error:
        raise ValueError(f"{where}, line {reader.line_num}: not CSV ({error})") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error.msg})") from error
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path}: JSON nested too deeply, or a number too long") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return content


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file (UTF-8)") from error


def _optional(text: str, where: str) -> float | None:
    return _number(text, where) if text else None


def _whole(number: float, where: str) -> int:
    if number < 1 or number % 1:
        raise ValueError(f"{where}: {number:g}: expected a whole number from 1")
    return int(number)


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where}: {str(value)[:60]!r}: expected a number") from error
    if not math.isfinite(number):
        raise ValueError(f"{where}: {value!r}: expected a finite number")
    return number
