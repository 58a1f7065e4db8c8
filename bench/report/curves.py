"""Curves of a board: distances of networks that differ in one thing only, their training images,
their width or their spiking time steps, with a power law through them.

Which records form a curve follows from the records. Suites, variants and names play no part, so a
curve can be put together from several runs.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from bench.quality.metrics import is_signed, lower_is_better
from bench.report.boards import Board, Row, Stat
from bench.report.powerlaw import FEWEST, Estimate, PowerLaw, fit
from bench.report.trained import Trainings

AxisName = Literal["images", "parameters", "time steps"]
AXES: dict[AxisName, str] = {
    "images": "images trained on",
    "parameters": "parameters (millions)",
    "time steps": "spiking time steps T",
}
"""An axis -> its name in tables and on axes, with its unit."""
NEAR = 1.1
"""Ratio of two numbers of images up to which they are one budget: calibrating or fine-tuning a
network takes at most a tenth more than its parent's training."""


@dataclass(frozen=True)
class Reading:
    """One record's place on the curves that it can be of."""

    row: Row
    seed: int
    distance: float
    images: int
    """Trained on, by parents too."""
    parameters: float
    """Millions."""
    shared: tuple[Any, ...]
    """Settings of training and sampling that all networks of any curve share."""
    config: dict[str, Any]
    """The system's Config, without its time steps."""


@dataclass(frozen=True)
class Point:
    """A place on a curve."""

    n: float
    stat: Stat
    """Distances, one a seed."""


@dataclass(frozen=True)
class Curve:
    """Distances of one system over one axis."""

    axis: AxisName
    label: str
    """The system and, where a board has several curves of it, what distinguishes this one."""
    row: Row
    """A row of it, for colour and mark."""
    parameters: float
    """Millions, of its smallest network."""
    points: Sequence[Point]
    """At least two, by n."""
    law: PowerLaw | None
    reason: str | None
    """Reason for a missing law."""

    @property
    def spiking(self) -> bool:
        return self.row.time_steps is not None

    @property
    def last_doubling(self) -> float | None:
        """Relative change of the mean distance from half the most images on; None: the curve is
        over another axis, or has no point at half of them."""
        last = self.points[-1]
        for point in self.points:
            if self.axis == "images" and 1 / NEAR <= last.n / 2 / point.n <= NEAR:
                return last.stat.mean / point.stat.mean - 1
        return None

    @property
    def fewest_seeds(self) -> int:
        return min(len(point.stat.values) for point in self.points)


@dataclass(frozen=True)
class Gap:
    """A spiking network's distances beside those of a network without spikes, over one axis."""

    spiking: Curve
    other: Curve
    n: float
    """Most images at which both were measured."""
    ratio: float
    """Spiking distance over the other one, measured there."""

    @property
    def closing(self) -> Estimate:
        """By how much the log of the ratio falls there, for each unit of log(n)."""
        ours, theirs = self.laws
        return ours.slope(self.n) - theirs.slope(self.n)

    def log_ratio(self, n: float) -> Estimate:
        """Log of the ratio that the laws predict at ``n``."""
        ours, theirs = self.laws
        return ours.log_distance(n) - theirs.log_distance(n)

    @property
    def laws(self) -> tuple[PowerLaw, PowerLaw]:
        """Laws of the spiking network and of the other one."""
        assert self.spiking.law is not None
        assert self.other.law is not None
        return self.spiking.law, self.other.law

    @property
    def verdict(self) -> Literal["closes", "widens", "open"]:
        interval = self.closing.interval()
        return "closes" if interval.low > 0 else "widens" if interval.high < 0 else "open"


def curves(board: Board) -> list[Curve]:
    """The curves of ``board``, axis by axis. An axis has some only if one of them has the
    :data:`bench.report.powerlaw.FEWEST` points that a law needs."""
    metric = board.ranked_by
    if metric is None or is_signed(metric) or not lower_is_better(metric):
        return []
    readings = list(_readings(board, metric))
    found: list[Curve] = []
    for axis in AXES:
        groups: dict[tuple[Any, ...], list[Reading]] = defaultdict(list)
        for reading in readings:
            for key in _keys(axis, reading):
                groups[key].append(reading)
        members = [group for group in groups.values() if len(_places(axis, group)) > 1]
        if any(len(_places(axis, group)) >= FEWEST for group in members):
            labels = _labels(axis, members)
            found += [_curve(axis, *pair) for pair in zip(labels, members, strict=True)]
    return found


def gaps(found: Sequence[Curve]) -> list[Gap]:
    """Every spiking curve over training images beside the one without spikes that is nearest to it
    in parameters, where both have a law and were measured at one budget."""
    over = [curve for curve in found if curve.axis == "images" and curve.law is not None]
    pairs = []
    for ours in (curve for curve in over if curve.spiking):
        others = [c for c in over if not c.spiking and _most_images(ours, c)]
        if not others:
            continue
        theirs = min(others, key=lambda c: (abs(c.parameters - ours.parameters), c.label))
        if both := _most_images(ours, theirs):
            a, b = both
            pairs.append(Gap(ours, theirs, a.n, a.stat.mean / b.stat.mean))
    return pairs


def _most_images(ours: Curve, theirs: Curve) -> tuple[Point, Point] | None:
    """The points of two curves at the largest budget that both were measured at."""
    for a in reversed(ours.points):
        for b in theirs.points:
            if 1 / NEAR <= a.n / b.n <= NEAR:
                return a, b
    return None


def _readings(board: Board, metric: str) -> Iterator[Reading]:
    trainings = Trainings(board.done)
    for row in board.done:
        if row.metric(metric) is None:
            continue
        behind = trainings.behind(row)
        for number, record in enumerate(row.records):
            config = {k: v for k, v in record.config.items() if k != "time_steps"}
            shared = (row.system, row.solver, record.engine, record.batch_size, record.precision,
                      row.submitted_by)  # fmt: skip
            images = int(sum(stat.values[number] for stat in behind))
            yield Reading(row, record.seed, record.metrics[metric], images,
                          record.params_millions or 0.0, shared, config)  # fmt: skip


def _keys(axis: AxisName, reading: Reading) -> Iterator[tuple[Any, ...]]:
    """The facts that all networks of one curve with ``reading`` share: everything but the axis. Of
    widths there is a key for each number of the Config that may be one."""
    steps, config = reading.row.time_steps, reading.config
    if axis == "images":
        yield (*reading.shared, steps, _text(config))
    elif axis == "time steps":
        if steps is not None:
            yield (*reading.shared, reading.images, _text(config))
    else:
        for name, value in config.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                rest = {k: v for k, v in config.items() if k != name}
                yield (*reading.shared, steps, reading.images, name, _text(rest))


def _text(config: dict[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)


def _n(axis: AxisName, reading: Reading) -> float:
    if axis == "images":
        return reading.images
    return reading.parameters if axis == "parameters" else reading.row.time_steps or 0


def _places(axis: AxisName, group: Sequence[Reading]) -> set[float]:
    """The places of a curve on its axis."""
    return {_n(axis, reading) for reading in group}


def _curve(axis: AxisName, label: str, group: Sequence[Reading]) -> Curve:
    at: dict[float, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for reading in group:
        at[_n(axis, reading)][reading.seed].append(reading.distance)
    # A seed that was run twice, in two folders, is one seed.
    points = [Point(n, Stat(tuple(fmean(found) for found in at[n].values()))) for n in sorted(at)]
    law, reason = None, None
    try:
        law = fit([point.n for point in points], [point.stat.mean for point in points])
    except ValueError as error:
        reason = str(error)
    smallest = min(reading.parameters for reading in group)
    return Curve(axis, label, group[0].row, smallest, points, law, reason)


def _labels(axis: AxisName, groups: Sequence[Sequence[Reading]]) -> list[str]:
    """Names of the curves of one axis: the system and its T, and of those that share a name the
    facts that they differ in."""
    firsts = [group[0] for group in groups]
    labels = [
        reading.row.system_title
        + (
            f", T = {reading.row.time_steps}"
            if reading.row.time_steps and axis != "time steps"
            else ""
        )
        for reading in firsts
    ]
    facts = [
        (
            f"{reading.parameters:.3g} M parameters" if axis != "parameters" else "",
            f"{reading.images:,} images" if axis != "images" else "",
            reading.row.solver or "",
            reading.row.hash,
        )
        for reading in firsts
    ]
    for column in zip(*facts, strict=True):
        known: dict[str, set[str]] = defaultdict(set)
        for label, fact in zip(labels, column, strict=True):
            known[label].add(fact)
        if len(known) == len(labels):
            break
        labels = [
            f"{label}, {fact}" if len(known[label]) > 1 else label
            for label, fact in zip(labels, column, strict=True)
        ]
    return labels
