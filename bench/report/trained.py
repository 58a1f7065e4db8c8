"""Number of images that the networks of a ranking were trained on, including their parents'
trainings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from bench.records.record import Record
from bench.registry import SYSTEMS
from bench.report.boards import Row, Stat

SHARED = ("suite", "preset", "budget", "dataset", "image_size", "seed")
"""Fields that the trainings of a parent and of its child share in a suite; and time steps, if the
parent has any."""


class Trainings:
    """The trainings behind the rows of one ranking.

    Args:
        rows: every row that was measured; a parent is looked for among them.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._records = [record for row in rows for record in row.records]
        self._known: dict[tuple[Any, ...], set[tuple[int, ...]]] = {}

    def behind(self, row: Row) -> list[Stat]:
        """Images of every training that led to a row, over seeds, the parents' before its own."""
        chains = [self._chain(record) for record in row.records]
        if len({len(chain) for chain in chains}) > 1:  # at some seeds the parent is not known
            chains = [chain[-1:] for chain in chains]
        return [Stat(tuple(map(float, images))) for images in zip(*chains, strict=True)]

    def _chain(self, record: Record) -> tuple[int, ...]:
        """Images that a record's network and its parents were trained on, its own last. Of a record
        that does not state its parents', they are those of the parents' records; left out if there
        is none, or if several differ."""
        own = (record.train_images,)
        if record.parent_images:
            return (*record.parent_images, *own)
        entry = SYSTEMS.get(record.system)
        if entry is None or entry.parent is None:
            return own
        parents = self._chains(_key(record, entry.parent))
        return (*next(iter(parents)), *own) if len(parents) == 1 else own

    def _chains(self, key: tuple[Any, ...]) -> set[tuple[int, ...]]:
        """The chains of the records with the key ``key``, which many children share."""
        if key not in self._known:
            self._known[key] = {self._chain(record) for record in self._by_key[key]}
        return self._known[key]

    @cached_property
    def _by_key(self) -> defaultdict[tuple[Any, ...], list[Record]]:
        found: defaultdict[tuple[Any, ...], list[Record]] = defaultdict(list)
        for record in self._records:
            found[_key(record, record.system)].append(record)
        return found


def _key(record: Record, system: str) -> tuple[Any, ...]:
    """Key of the records of ``system`` that ``record`` belongs to, or is built from."""
    entry = SYSTEMS.get(system)
    steps = record.time_steps if entry is not None and entry.time_axis == "trained" else None
    return (system, steps, *(getattr(record, name) for name in SHARED))
