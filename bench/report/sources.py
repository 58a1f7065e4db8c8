"""Sources of a report: run folders and records files, read and checked.

A run's folder gives records, the cells that it planned, pictures and firing rates by layer;
a bare ``records.jsonl`` gives records alone. Records that ``convert`` wrote are curves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    FiniteFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)

from bench.data.grids import GRID
from bench.data.maps import DENSITY
from bench.files import csv_rows, read_json, read_text
from bench.records.conversions import ConversionCurve, read_curves
from bench.records.identity import measurement
from bench.records.record import Record, read_records

RUN, RECORDS = "run.json", "records.jsonl"
PUBLISHED = "published.csv"
HASH_CHARACTERS = 8
"""Characters of a cell's hash in the name of its folder."""
RATES = TypeAdapter(dict[str, FiniteFloat])

_OrEmpty = BeforeValidator(lambda text: text or None)
Figure = Annotated[FiniteFloat | None, _OrEmpty]


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


class Published(BaseModel):
    """One figure of the literature, as a row of the CSV states it."""

    dataset: str
    system: str
    kind: str
    time_steps: Annotated[PositiveInt | None, _OrEmpty, Field(alias="spiking_time_steps")]
    params_millions: Figure
    inception_score: Figure
    fid: Figure
    protocol: Annotated[str, Field(min_length=1)]
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
    """Beginning of a cell's hash -> the picture of its samples: a grid, or a density of points."""
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
    text, where = (resources.files("bench") / PUBLISHED).read_text(encoding="utf-8"), PUBLISHED
    if path is not None:
        where = f"--published {path}"
        if not path.is_file():
            raise FileNotFoundError(f"{where}: no such file; expected a CSV of figures")
        text = read_text(path)
    needed = [field.alias or name for name, field in Published.model_fields.items()]
    figures = []
    for place, row in csv_rows(text, where, needed):
        try:
            figures.append(Published.model_validate(row))
        except ValidationError as error:
            raise ValueError(f"{place}: {_problem(error)}") from error
    return figures


def _problem(error: ValidationError) -> str:
    """The first problem that pydantic found: field, value and what is wrong."""
    problem = error.errors()[0]
    field, value = ".".join(map(str, problem["loc"])), str(problem["input"])[:60]
    return f"{field}: {value or 'is empty'}: {problem['msg']}"


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
    run = read_json(path)
    cells = run.get("cells")
    if not isinstance(cells, list) or not all(isinstance(name, str) for name in cells):
        raise ValueError(f"{path}: expected a list of names under 'cells'")
    if not isinstance(run.get("data"), dict):
        raise ValueError(f"{path}: expected the data set's facts under 'data'")
    return [Planned(name, run) for name in cells]


def _cells(folder: Path, found: Sources) -> None:
    """Pictures of samples and firing rates below ``cells/``."""
    for cell in sorted((folder / "cells").glob("*")):
        cell_hash = cell.name.rsplit("-", 1)[-1]
        for picture in (cell / GRID, cell / DENSITY):
            if picture.is_file():
                found.grids[cell_hash] = picture
        counted = cell / "energy.json"
        rates = read_json(counted).get("firing_rates") if counted.is_file() else None
        if isinstance(rates, dict) and rates:
            try:
                found.layer_rates[cell_hash] = RATES.validate_python(rates)
            except ValidationError as error:
                raise ValueError(f"{counted}: firing_rates.{_problem(error)}") from error


def _pictures(paths: Sequence[Path], found: Sources) -> None:
    """Pictures of samples that were copied beside a ``records.jsonl``: ``NAME-HASH.png``, or
    ``SYSTEM.png`` where the file holds one cell of that system."""
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
