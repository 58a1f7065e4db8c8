"""The folder that a conversion is written to: its records, its layers' errors, its tables.

``records.jsonl`` and ``layers.csv`` are what was measured; the other tables, the plots and the
report are made from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.convert.plots import plot_costs, plot_layers
from bench.convert.request import folder_name
from bench.convert.tables import layers_csv, read_layers, rows_csv, to_markdown
from bench.files import write_text
from bench.records.conversions import ConversionCurve, Times, label_of, read_curve, times_of
from bench.records.record import Record, read_records, write_records

RECORDS, LAYERS = "records.jsonl", "layers.csv"
TABLE, REPORT, PLOT = "conversion.csv", "conversion.md", "conversion.png"


class ConversionFolder:
    """The records in a conversion's folder, one a network, and the layers of the children.

    Args:
        layer_headings: of the tables of single layers.
    """

    def __init__(self, root: Path, layer_headings: Sequence[str]) -> None:
        self.root, self.layer_headings = root, layer_headings
        path = root / LAYERS
        self.layers = read_layers(path.read_text(encoding="utf-8")) if path.is_file() else {}
        known = read_records(root / RECORDS) if (root / RECORDS).is_file() else []
        records = {times_of(record): record for record in known}
        self._records = {
            times: record
            for times, record in records.items()
            if times is None or label_of(times) in self.layers
        }

    def find(self, times: Times | None) -> Record | None:
        """The record of the child at ``times``, or of the parent, if it is still valid."""
        stands = times is None or (self.root / folder_name(times)).is_dir()
        return self._records.get(times) if stands else None

    @property
    def records(self) -> list[Record]:
        """The parent's, then constant T, fewest first, then schedules."""

        def order(record: Record) -> tuple[Any, ...]:
            times = times_of(record)
            return times is not None, isinstance(times, tuple), record.time_steps, times

        return sorted(self._records.values(), key=order)

    def keep(self, record: Record, layers: Sequence[Sequence[str]] | None = None) -> None:
        """Add a network's record, or replace it, and write it down.

        Args:
            layers: the child's table of single layers; None leaves what is there.
        """
        self._records[times_of(record)] = record
        if layers is not None:
            self.layers[label_of(times_of(record))] = [list(row) for row in layers]
        labels = [label_of(times_of(record)) for record in self.records]
        self.layers = {label: self.layers[label] for label in labels if label in self.layers}
        # The layers first: without them a record does not stand.
        write_text(self.root / LAYERS, layers_csv(self.layer_headings, self.layers))
        write_records(self.root / RECORDS, self.records)

    def curve(self) -> ConversionCurve:
        """All of it, for tables and plots."""
        return read_curve(self.records, str(self.root / RECORDS))

    def write(self, made: Sequence[Times]) -> list[Path]:
        """Write the tables, the plots and the report.

        Args:
            made: children whose plot of layers is drawn again.

        Returns:
            The files and the children's folders.
        """
        curve = self.curve()
        homes = [self.root / folder_name(child.times) for child in curve.children if child.times]
        pictures = [self.root / f"layers-{home.name}.png" for home in homes]
        plot_costs(curve, self.root / PLOT)
        for child, picture in zip(curve.children, pictures, strict=True):
            if child.times in made or not picture.is_file():
                plot_layers(self.layer_headings, child.label, self.layers[child.label], picture)
        report = to_markdown(curve, self.layer_headings, self.layers, (PLOT, pictures[-1].name))
        write_text(self.root / TABLE, rows_csv(curve))
        write_text(self.root / REPORT, report)
        files = [self.root / name for name in (RECORDS, TABLE, LAYERS, REPORT, PLOT)]
        return [*homes, *files, *pictures]
