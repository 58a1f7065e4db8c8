"""The records of one conversion, read together: a parent and its converted networks.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.plan.sampling import solver
from bench.quality.metrics import ranking_column
from bench.records.identity import conditions
from bench.records.record import ConversionFacts, Record
from bench.registry import load_hook

Times = int | tuple[int, ...]
"""A number of spiking time steps, or a schedule of them from noise to image."""


def times_of(record: Record) -> Times | None:
    """The number of spiking time steps, or the schedule; None for the parent."""
    return tuple(record.config.get("schedule", ())) or record.time_steps


def label_of(times: Times | None) -> str:
    """``ANN`` for the parent, else the number of spiking time steps, or ``4/8/12``."""
    if times is None:
        return "ANN"
    return str(times) if isinstance(times, int) else "/".join(map(str, times))


@dataclass(frozen=True)
class ConvertedNetwork:
    """One network of a conversion, as tables and figures show it: the parent, or a child."""

    record: Record
    facts: ConversionFacts
    """The record's."""
    scored: bool
    """Whether samples were drawn and scored in the way that the parent's were."""

    @property
    def time_steps(self) -> int | None:
        """Spiking time steps; where a schedule is followed, its mean; None for the parent."""
        return self.record.time_steps

    @property
    def schedule(self) -> tuple[int, ...]:
        """Spiking time steps in equal parts of the denoising, from noise to image; empty where
        they are the same everywhere."""
        return self.times if isinstance(self.times, tuple) else ()

    @property
    def times(self) -> Times | None:
        """:func:`times_of` its record."""
        return times_of(self.record)

    @property
    def label(self) -> str:
        """:func:`label_of` its times."""
        return label_of(self.times)

    @property
    def metrics(self) -> dict[str, float]:
        """Quality of the samples by column; empty where none are comparable with the parent's."""
        return self.record.metrics if self.scored else {}

    def image_mj(self, accounting: str) -> float:
        """Millijoules of a finished image, where samples were drawn."""
        return self.record.energies[accounting].per_image_mj

    @property
    def solver(self) -> str:
        """The sampler of its samples, for people."""
        return str(solver(vars(self.record)))


@dataclass(frozen=True)
class ConversionCurve:
    """All networks of one conversion."""

    parent: ConvertedNetwork
    children: Sequence[ConvertedNetwork]
    """Converted networks in the order of the records."""

    @property
    def networks(self) -> list[ConvertedNetwork]:
        """The parent and the children."""
        return [self.parent, *self.children]

    @property
    def config(self) -> dict[str, Any]:
        """Configuration of the first child; the others differ in their time steps alone."""
        return self.children[0].record.config

    @property
    def scored(self) -> list[ConvertedNetwork]:
        """The networks whose samples were drawn and scored."""
        return [network for network in self.networks if network.scored]

    @property
    def points(self) -> list[ConvertedNetwork]:
        """The children by spiking time steps, fewest first; schedules at their mean."""
        return sorted(self.children, key=lambda child: child.time_steps or 0)

    @property
    def ranked_by(self) -> str | None:
        """The column of the metric that quality is compared by; None where none was measured."""
        return ranking_column(self.parent.metrics)

    @property
    def protocol(self) -> str:
        """Sampling of the networks that are scored, as a phrase."""
        return f"{self.parent.record.samples:,} samples, {self.parent.solver}"

    @property
    def name(self) -> str:
        """Method and its options."""
        facts, method = self.parent.facts, str(self.config["method"])
        words = [method]
        words += ["signed"] if self.config.get("signed") else []
        words += ["window"] if self.config.get("readout") == "window" else []
        known = load_hook("methods")[1].get(method)
        reads = known is not None and known.reads_percentile
        words += [f"{self.config['percentile']:g} %"] if reads else []
        each = " a block" if facts.finetune == "blocks" else ""
        steps = facts.finetune_steps
        words += [f"{steps:,} steps of fine-tuning{each}"] if steps else []
        return ", ".join(words)

    @property
    def dataset(self) -> str:
        return self.parent.record.dataset

    @property
    def command(self) -> str:
        """The last one that worked on this conversion."""
        return self.parent.record.command


def read_curve(records: Sequence[Record], where: str) -> ConversionCurve:
    """The conversion that ``records`` are of.

    Args:
        where: their file, for errors.

    Raises:
        ValueError: not one parent and at least one child.
    """
    parents = [record for record in records if record.time_steps is None]
    children = [record for record in records if record.time_steps is not None]
    if len(parents) != 1 or not children:
        raise ValueError(
            f"{where}: expected the record of one parent and of at least one network that it was "
            f"converted to, found {len(parents)} and {len(children)}"
        )
    asked = conditions(parents[0])

    def network(record: Record) -> ConvertedNetwork:
        assert record.conversion is not None
        scored = bool(record.metrics) and conditions(record) == asked
        return ConvertedNetwork(record, record.conversion, scored)

    return ConversionCurve(network(parents[0]), [network(child) for child in children])


def read_curves(records: Iterable[Record], where: str) -> dict[str, ConversionCurve]:
    """Every conversion among ``records``, by its id.

    Raises:
        ValueError: as :func:`read_curve`.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record.conversion is not None:
            groups.setdefault(record.conversion.id, []).append(record)
    return {name: read_curve(group, where) for name, group in groups.items()}
