"""Write results/speed.csv and results/speed.md: one section for each kind of processor.

The CSV holds all rows; the text is made from it. A run replaces the rows of its own kind that it
measured, so what was measured on another kind of machine stays.
"""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from tabulate import tabulate  # type: ignore[import-untyped]

from sddpm.kernels import processor

Row = dict[str, object]

NOTES = Path(__file__).with_name("what_lost.md")
RATIOS = "ratios"
"""Name of the table of the ratios."""
LIMITS = (processor.SWITCH, "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
"""Variables of the environment that make a processor behave as a lesser one."""
_HEAD = ("kind", "machine", "table")
_NAMES = ("kind", "table", "what", "ours", "mode")
"""Columns that say what a row is; several rows of a growing size share them."""
_INTRODUCTION = """# Speed against the published implementation

Written by `make bench`; do not edit. It replaces the rows of the kind of processor that it runs on.

A ratio is reference over ours, both timed in turns in one process: above 1 is faster. Times are
medians; beside the median ratio stand its quartiles. Where a kind says "limited", the variables
named there made a processor behave as one of that kind.
"""


def kind() -> str:
    """The kind of processor, what limits it, and the GPU if there is one: the section that a
    measurement belongs to."""
    name = processor.kind()
    limits = [f"{x}={os.environ[x]}" for x in LIMITS if os.environ.get(x)]
    if limits:
        name += f", limited by {' '.join(limits)}"
    if torch.cuda.is_available():
        name += f", {torch.cuda.get_device_name()}"
    return name


def write_tables(folder: Path, speed: Sequence[Row], others: Sequence[Row], clock: str) -> None:
    """Write both files.

    Args:
        folder: made if missing; the rows of its ``speed.csv`` stay but for those measured anew.
        speed: rows of :meth:`benchmarks.measuring.Comparison.row`.
        others: rows of other tables, each with its title under ``table``.
        clock: what the times are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    head = {"kind": kind(), "machine": f"{machine()}; {clock}"}
    measured = [{**head, "table": RATIOS, **row} for row in speed]
    measured += [{**head, **row} for row in others]
    file = folder / "speed.csv"
    rows = merge(read_rows(file), measured)
    names = dict.fromkeys((*_HEAD, *(name for row in rows for name in row)))
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(names))
        writer.writeheader()
        writer.writerows(rows)
    # From the file, whose columns have one order whatever was measured this time.
    (folder / "speed.md").write_text(render(read_rows(file)), encoding="utf-8")


def read_rows(file: Path) -> list[Row]:
    """The rows of an earlier file, without their empty cells; none where there is no file."""
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as opened:
        return [{k: v for k, v in row.items() if v != ""} for row in csv.DictReader(opened)]


def merge(earlier: Iterable[Row], measured: Sequence[Row]) -> list[Row]:
    """``earlier`` without what ``measured`` measured anew, and ``measured`` behind it."""
    anew = {_identity(row) for row in measured}
    return [*(row for row in earlier if _identity(row) not in anew), *measured]


def _identity(row: Row) -> tuple[object, ...]:
    return tuple(row.get(name) for name in _NAMES)


def render(rows: Sequence[Row]) -> str:
    """The text of the whole file."""
    notes = [NOTES.read_text(encoding="utf-8")] if NOTES.is_file() else []
    return "\n".join([_INTRODUCTION, sections(rows), *notes])


def sections(rows: Sequence[Row]) -> str:
    """The rows as text: a section a kind, in it a table of the ratios and the others."""
    parts = []
    for name in dict.fromkeys(str(row["kind"]) for row in rows):
        own = [row for row in rows if row["kind"] == name]
        parts.append(f"## {name}\n")
        parts += [f"{text}.\n" for text in dict.fromkeys(str(row["machine"]) for row in own)]
        titles = dict.fromkeys(str(row["table"]) for row in own)
        for title in sorted(titles, key=lambda title: title != RATIOS):
            if title != RATIOS:
                parts.append(f"### {title}\n")
            parts.append(_markdown([row for row in own if row["table"] == title]))
    return "\n".join(parts)


def machine() -> str:
    """Processor, threads and versions, in one line."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{processor.name()} ({processor.kind()}), {torch.get_num_threads()} threads, {gpu}; "
        f"torch {torch.__version__}, SpikingJelly {version('spikingjelly')}, "
        f"Python {platform.python_version()}"
    )


def _markdown(rows: Sequence[Row]) -> str:
    shown = [{k: v for k, v in row.items() if k not in _HEAD} for row in rows]
    return tabulate(shown, headers="keys", tablefmt="github", floatfmt="g") + "\n"
