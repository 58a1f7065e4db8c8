"""Rules by which two records are the same cell, the same row or comparable. No other file states
them.

Every question asks for another selection of the same fields:

- in one run's folder, which record does a newer one replace: :func:`replaced_by`;
- which records are seeds of one cell: :func:`across_seeds`;
- over several folders, which records are one measurement: :func:`measurement`;
- whose figures can stand in one ranking: :func:`comparable`;
- which networks of a conversion were drawn and scored alike: :func:`conditions`;
- which rows of two tables does ``check`` compare: :data:`MATCHED` and :data:`MEASURED_ON`.

Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.records.record import Record

SEEDS_OF_A_RESULT = 3
"""Trainings of one cell; fewer are a lead."""
SAMPLED = ("time_steps", "sampler", "sampler_steps", "eta", "threshold", "engine", "gain")
"""Fields that state how a system drew its samples."""
LATER = ("gain", "budget")
"""Fields that records gained later. No key holds one that is None, so that no earlier key
changed."""
PLANNED = ("suite", "preset", "budget", "system", *SAMPLED)
"""Fields that state a cell of a run, except its seed."""
TRAINED = ("train_steps", "batch_size", "precision")
"""Fields that state the training, beside its configuration."""
SCORED = ("samples", "extractor")
"""Fields that state the images of a figure, and the network that scored them."""
REFERENCES = ("reference_images", "reference_split", "reference_hash")
"""Fields that state the references of a figure."""

MATCHED = ("dataset", "budget", "system", "variant", *SAMPLED, "seed", *SCORED)
"""Columns of a table that make two rows one cell for ``check``, where both tables have them."""
WHERE_SET = ("variant", *LATER)
"""Those of them that a table has only if a row sets them."""
MEASURED_ON = ("references", "reference_split", "reference_hash", "energy_table")
"""Columns that two rows must share for their figures to be comparable, where both state them."""
MADE_BY = ("train_steps", "batch_size", "config_hash")
"""Columns that may differ between two rows of one cell, but are worth a note."""
SEEDS_SHARE = (
    "dataset", "title", "time_steps", "solver", "samples", "references", "reference_split",
    "reference_hash", "settings",
)  # fmt: skip
"""Columns that are equal at all seeds of one cell, and differ between two; ``settings`` stands
for :func:`across_seeds`."""


def replaced_by(record: Record) -> tuple[Any, ...]:
    """Key that a newer record of the same cell in the same folder shares with this one."""
    return (*_values(record, (*PLANNED, "variant", "seed")), record.extractor)


def across_seeds(record: Record) -> tuple[Any, ...]:
    """Key that the seeds of one cell share, on one data set and against one reference."""
    config = json.dumps(record.config, sort_keys=True)
    return (*_values(record, (*PLANNED, *TRAINED)), config)


def settings(record: Record) -> str:
    """:func:`across_seeds` as eight hex digits."""
    return hashlib.sha256(repr(across_seeds(record)).encode()).hexdigest()[:8]


def measurement(record: Record) -> tuple[Any, ...]:
    """Key that records of the same measurement share, in any folder."""
    scored = _values(record, REFERENCES)
    return (record.config_hash, *scored, record.extractor, record.energy_table, record.submitted_by)


def comparable(record: Record) -> dict[str, Any]:
    """Facts that figures of one ranking share, by the record's fields."""
    names = ("dataset", "image_size", "manifold", *SCORED, *REFERENCES, "energy_table")
    return {name: getattr(record, name) for name in names}


def conditions(record: Record) -> tuple[Any, ...]:
    """Conditions under which the samples of a record were drawn, metered and scored, for any
    network."""
    drawn = tuple(name for name in SAMPLED if name != "time_steps")
    energy = ("energy_images", "energy_table")
    return _values(record, (*drawn, "seed", *SCORED, *REFERENCES, *energy))


def _values(record: Record, names: tuple[str, ...]) -> tuple[Any, ...]:
    values = ((name, getattr(record, name)) for name in names)
    return tuple(value for name, value in values if name not in LATER or value is not None)
