"""Every accounting of energy, one entry each, in the order of the tables. Imports no torch.

Records, tables, reports and the ``energy`` command read everything about an accounting here. To
add one, write its price and add its entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.energy.counts import Counts
from bench.energy.memory import Accesses, accesses, lemaire_mj, simple_mj
from bench.energy.prices import EnergyTable, published_mj, strict_mj

Price = Callable[[Counts, Accesses | None, EnergyTable], float | None]
"""Counts, the words that they move (None if these were not counted) and the prices -> millijoules
of the counted operations; None if the counts do not suffice."""


@dataclass(frozen=True)
class Accounting:
    """One way to turn counts into energy."""

    key: str
    """Name in a record's ``energies``, and first part of the names of its columns."""
    title: str
    """Name in headings of tables."""
    long_title: str
    """Name in places that do not explain it."""
    price: Price
    ranked: bool = False
    """Whether the rankings of a report show it; the table of energies shows all."""
    per_evaluation: bool = False
    """Whether tables for people show it for one network evaluation too."""


def _published(counts: Counts, moved: Accesses | None, table: EnergyTable) -> float | None:
    return None if counts.spiking and counts.sops is None else published_mj(counts, table)


def _strict(counts: Counts, moved: Accesses | None, table: EnergyTable) -> float | None:
    return strict_mj(counts, table)


def _with_memory(price: Callable[[Counts, Accesses], float]) -> Price:
    return lambda counts, moved, table: None if moved is None else price(counts, moved)


ACCOUNTINGS: dict[str, Accounting] = {
    accounting.key: accounting
    for accounting in (
        Accounting("published", "Published", "Published", _published, True, True),
        Accounting("strict", "Strict", "Strict", _strict, True, True),
        Accounting("simple_memory", "Simple", "With memory (simple)", _with_memory(simple_mj)),
        Accounting("lemaire", "Lemaire", "With memory (Lemaire)", _with_memory(lemaire_mj)),
    )
}


def price_all(counts: Counts, table: EnergyTable) -> dict[str, float]:
    """Millijoules of the counted operations in every accounting for which the counts suffice, by
    key."""
    moved = accesses(counts)
    found = {key: entry.price(counts, moved, table) for key, entry in ACCOUNTINGS.items()}
    return {key: mj for key, mj in found.items() if mj is not None}
