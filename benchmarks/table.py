"""Write results/speed.md and results/speed.csv from the rows that the suite measured."""

from __future__ import annotations

import csv
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from tabulate import tabulate  # type: ignore[import-untyped]

Row = dict[str, object]

NOTES = Path(__file__).with_name("what_lost.md")


def write_tables(folder: Path, speed: Sequence[Row], others: Sequence[Row], clock: str) -> None:
    """Write both files.

    Args:
        folder: made if missing.
        speed: rows of :meth:`benchmarks.measuring.Comparison.row`.
        others: rows of other tables, each with its title under ``table``.
        clock: what the times are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [
        "# Speed against the published implementation\n",
        f"Written by `make bench`; do not edit. {machine()}; {clock}.\n",
        "A ratio is reference over ours, both timed in turns in one process: above 1 is faster. "
        "Times are medians; beside the median ratio stand its quartiles.\n",
    ]
    if speed:
        parts.append(_markdown(speed))
    titles = dict.fromkeys(str(row["table"]) for row in others)
    for title in titles:
        rows = [{k: v for k, v in row.items() if k != "table"} for row in others]
        rows = [r for r, row in zip(rows, others, strict=True) if row["table"] == title]
        parts += [f"## {title}\n", _markdown(rows)]
    if NOTES.is_file():
        parts.append(NOTES.read_text())
    (folder / "speed.md").write_text("\n".join(parts))

    rows = [{"table": "ratios", **row} for row in speed] + list(others)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "speed.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def machine() -> str:
    """Processor, threads and versions, in one line."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    flags = next((x.split() for x in lines if x.startswith("flags")), [])
    extras = [x for x in ("avx512_bf16", "avx512_vnni", "amx_int8") if x in flags]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{name} ({', '.join(extras) or 'no low-precision instructions'}), "
        f"{torch.get_num_threads()} threads, {gpu}; torch {torch.__version__}, "
        f"SpikingJelly {version('spikingjelly')}, Python {platform.python_version()}"
    )


def _markdown(rows: Sequence[Row]) -> str:
    return tabulate(rows, headers="keys", tablefmt="github", floatfmt="g") + "\n"
