"""Every problem of a records file: what the schema refuses, and figures that contradict others.

A record that others sent is not run again. So its energies must follow from its counts, its columns
must be named for its extractor, and its facts must suffice to repeat it. Imports no torch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from bench.energy.accountings import ACCOUNTINGS
from bench.energy.prices import TABLES
from bench.quality.metrics import METRICS, metric_of
from bench.quality.registry import EXTRACTORS, extractor_of
from bench.records.identity import measurement
from bench.records.make import counts_of
from bench.records.record import Record, decode
from bench.records.upgrade import FIELDS, upgrade
from bench.registry import SYSTEMS

SHA256, BRIEF = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{16}")
FROM_TOTALS = ("published", "strict")
"""Accountings whose energies follow from the counts that a record keeps."""
ENERGY_TOLERANCE = 1e-6
"""Largest relative difference of an energy from the one that the counts give."""
KINDS = {"string": "text", "integer": "a whole number", "object": "an object"}
"""Types of the JSON schema -> words."""
LONGEST_VALUE = 60
Finding = tuple[str, Any, str]
"""Field, its value, and what would be accepted."""


@dataclass(frozen=True)
class Problem:
    """One value of a records file that cannot stand."""

    path: Path
    line: int
    field: str
    """Place in the record, as ``metrics.fid``; empty for the whole line."""
    value: str
    wanted: str
    """Values that would be accepted."""

    def __str__(self) -> str:
        place = f"{self.path}, line {self.line}: " + (f"{self.field}: " if self.field else "")
        return f"{place}{self.value}: expected {self.wanted}"


def find_problems(path: Path, outside: bool = False) -> tuple[int, list[Problem]]:
    """Number of lines with a record, and every problem of the file ``path``.

    Args:
        outside: whether the records are to be sent to this project by others.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a records.jsonl")
    problems: list[Problem] = []
    first: dict[tuple[Any, ...], int] = {}
    count = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            count += 1
            found, record = _check_line(line, outside)
            if record is not None:
                earlier = first.setdefault(measurement(record), number)
                if earlier != number:
                    found.append(
                        ("config_hash", record.config_hash, f"another cell than line {earlier}")
                    )
            problems += [Problem(path, number, f, _shown(v), wanted) for f, v, wanted in found]
    if not count:
        problems.append(Problem(path, 1, "", "an empty file", "one record a line"))
    return count, problems


def _check_line(line: bytes, outside: bool) -> tuple[list[Finding], Record | None]:
    text = line.decode("utf-8", errors="replace").strip()
    try:
        content = decode(line)
    except ValueError as error:
        return [("", _Words(text), f"a record as one line of JSON ({error})")], None
    try:
        record = Record.model_validate(
            upgrade(content) if content["schema_version"] == 1 else content
        )
    except (AttributeError, KeyError, TypeError):
        return [("schema_version", 1, "the fields of schema version 1")], None
    except ValidationError as error:
        return [_refused(problem) for problem in error.errors()], None
    found = [*_unknown(content), *_facts(record), *_figures(record), *_energies(record)]
    if outside and not record.submitted_by:
        found.append(("submitted_by", record.submitted_by, "who measured it, and an address"))
    if outside and (record.git_commit == "unknown" or record.git_commit.endswith("-dirty")):
        found.append(("git_commit", record.git_commit, "a commit without changed files"))
    return found, record


def _refused(problem: ErrorDetails) -> Finding:
    """A problem that pydantic found."""
    place = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        kind = Record.model_json_schema()["properties"].get(place, {}).get("type")
        return place, _Words("missing"), KINDS.get(kind, "a value")
    wanted = problem["msg"]
    for beginning in ("Input should be ", "Value error, "):
        wanted = wanted.removeprefix(beginning)
    return place, problem["input"], wanted


def _unknown(content: dict[str, Any]) -> Iterator[Finding]:
    """Fields that no version of the schema has."""
    known = Record.model_fields.keys()
    older = set(FIELDS.values()) if content["schema_version"] == 1 else set()
    for name in sorted(content.keys() - known - older):
        yield name, content[name], f"one of the fields {', '.join(known)}"


def _facts(record: Record) -> Iterator[Finding]:
    """Facts without which a record cannot be repeated or compared."""
    if record.status == "failed":
        if not record.reason:
            yield "reason", record.reason, "the reason of the failure"
        return
    if record.system not in SYSTEMS and not record.submitted_by:
        yield "system", record.system, f"one of {', '.join(SYSTEMS)}"
    for name in ("config_hash", "training_hash"):
        if not SHA256.fullmatch(getattr(record, name)):
            yield name, getattr(record, name), "64 hex digits"
    product = record.train_steps * record.batch_size
    if record.train_images != product:
        yield "train_images", record.train_images, f"train_steps x batch_size, {product}"
    if not record.metrics and record.conversion is None:
        yield "metrics", _Words("no figure"), "the figures of a scored cell, or status failed"


def _figures(record: Record) -> Iterator[Finding]:
    """Metrics whose column or references are not stated as they were made."""
    if not record.metrics:
        return
    for name in ("reference_images", "reference_split"):
        if getattr(record, name) is None:
            yield name, None, "the references of the metrics"
    if not BRIEF.fullmatch(record.reference_hash or ""):
        yield "reference_hash", record.reference_hash, "16 hex digits"
    if not record.samples:
        yield "samples", record.samples, "the number of images that were scored"
    extractor = extractor_of(record.extractor)
    if extractor is None:
        keys = ", ".join(entry.key for entry in EXTRACTORS.values())
        yield "extractor", record.extractor, f"one of {keys}"
        return
    own = [metric.key for metric in METRICS.values() if metric.formula]
    columns = [extractor.column(name) for key in own for name in (key, f"{key}_std")]
    # The system names how it estimated a figure.
    told = [
        n for n in record.metrics if (m := metric_of(n.replace("_std", ""))) and m.reads == "system"
    ]
    for name, value in record.metrics.items():
        # An estimate of KID without bias may be just below 0, a norm or a share may not.
        metric = metric_of(name)
        if metric and not metric.signed and metric.key != "kid" and value < 0:
            yield f"metrics.{name}", value, "0 or a number above it"
    for name in sorted(record.metrics.keys() - {*columns, *told}):
        named = ", ".join(map(extractor.column, own))
        yield f"metrics.{name}", record.metrics[name], f"a column of {extractor.key}: {named}"


def _energies(record: Record) -> Iterator[Finding]:
    """Energies that the counts do not give."""
    counts = {
        "per_image_mj": record.counts_per_image,
        "per_evaluation_mj": record.counts_per_evaluation,
    }
    if not record.energies or None in counts.values():
        return
    if record.energy_table not in TABLES:
        yield "energy_table", record.energy_table, f"one of {', '.join(TABLES)}"
        return
    for name in FROM_TOTALS:
        for of, kept in counts.items():
            energy = record.energies.get(name)
            assert kept is not None
            table = TABLES[record.energy_table]
            made = ACCOUNTINGS[name].price(counts_of(kept.model_dump()), None, table)
            if energy is None or made is None:
                continue
            stated = getattr(energy, of)
            if not math.isclose(stated, made, rel_tol=ENERGY_TOLERANCE, abs_tol=1e-15):
                yield f"energies.{name}.{of}", stated, f"{made:.9g}, which the counts give"


class _Words(str):
    """Words that are shown as they are."""

    __slots__ = ()


def _shown(value: Any) -> str:
    try:
        text = value if isinstance(value, _Words) else json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
