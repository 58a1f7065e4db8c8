"""Answers to claims: every comparison made, and its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from statistics import fmean

import pandas as pd

from bench.claims.effects import at_energy, effect, propagated
from bench.claims.evidence import (
    BIT,
    ENERGIES,
    QUALITY,
    Evidence,
    UnansweredError,
    check_comparable,
    figures,
    quality_column,
)
from bench.claims.schema import Claim, Comparison, PublishedPair, PublishedRow, SearchTable
from bench.claims.verdict import Bound, Verdict, judge, lead
from bench.energy.accountings import ACCOUNTINGS
from bench.energy.integer import rival_bits
from bench.report.boards import Row, Stat
from bench.report.sources import Published


@dataclass(frozen=True)
class Line:
    """One comparison and what came of it."""

    comparison: Comparison
    verdict: Verdict
    measure: str = QUALITY
    of: Row | None = None
    rivals: tuple[Row, ...] = ()
    """The row that ``of`` is compared with; of a curve, all of it."""
    origins: tuple[tuple[str, Row], ...] = ()
    """Folder and row of everything that was compared."""
    own: Stat | None = None
    """Figure of ``of`` over the seeds."""
    rival: Stat | None = None
    """Figure of the rival over the same seeds; of a curve, interpolated."""
    energy: float | None = None
    """Millijoules of ``of`` at which a curve is read."""
    costs: tuple[float, ...] = ()
    """Millijoules of the rivals of a curve, ascending as ``rivals``."""
    effect: Stat | None = None
    """Effect over the seeds that both sides have."""
    spread: float = 0.0
    """Standard deviation of the effect that the verdict reads."""
    borrowed: bool = False
    """Whether the spread is not that of the line's own seeds."""
    claimed: float | None = None
    seeds: tuple[int, ...] = ()
    bound: Bound | None = None
    images: tuple[int, ...] = ()
    """Images of every training that led to ``of``."""
    column: str | None = None
    """The column of the metric, where quality is compared."""
    reason: str | None = None
    """Reason why nothing was compared."""

    @property
    def lead(self) -> str | None:
        """Mark of too few seeds."""
        return None if self.verdict == "not tested here" else lead(len(self.seeds))


@dataclass(frozen=True)
class Answer:
    """A claim and its lines."""

    claim: Claim
    lines: tuple[Line, ...]

    @property
    def tested(self) -> list[Line]:
        """The lines that records answer."""
        return [line for line in self.lines if line.verdict != "not tested here"]

    @property
    def verdicts(self) -> dict[Verdict, int]:
        """Verdicts of the tested lines and how many have each, most frequent first."""
        found: dict[Verdict, int] = {}
        for line in self.tested:
            found[line.verdict] = found.get(line.verdict, 0) + 1
        return dict(sorted(found.items(), key=lambda item: -item[1])) or {"not tested here": 1}


def answer_claims(
    claims: Sequence[Claim],
    evidence: Evidence,
    published: Sequence[Published],
    *,
    partial: bool = False,
) -> list[Answer]:
    """Answer every claim from the records.

    Args:
        published: the literature's figures, from which claimed effects follow.
        partial: leave out lines, and claims, that these records do not answer; else every line
            that is not optional must be answered.

    Raises:
        ValueError: a record that a line needs is missing or does not fit; the message names the
            claim.
    """
    answers = []
    for claim in claims:
        lines: list[Line] = []
        for comparison in claim.comparisons:
            try:
                lines += [
                    _line(claim, one, evidence, published) for one in _by_accounting(comparison)
                ]
            except UnansweredError as error:
                if not (partial or comparison.optional):
                    raise ValueError(f"claim {claim.id}: {error}") from error
                if not partial:
                    claimed = _claimed(comparison, published, claim.id)
                    lines.append(
                        Line(comparison, "not tested here", claimed=claimed, reason=str(error))
                    )
        if lines or not partial:
            answers.append(Answer(claim, tuple(lines)))
    return answers


def _by_accounting(comparison: Comparison) -> list[Comparison]:
    """The comparison, or where it is of all energies one for each accounting."""
    if comparison.measure != ENERGIES:
        return [comparison]
    steps = comparison.of.time_steps if comparison.of else None
    bits = [8, *([rival_bits(steps)] if steps else [])]
    names = [*ACCOUNTINGS, *(f"{count}{BIT}" for count in bits)]
    return [comparison.model_copy(update={"measure": name}) for name in names]


def _line(
    claim: Claim, comparison: Comparison, evidence: Evidence, published: Sequence[Published]
) -> Line:
    claimed = _claimed(comparison, published, claim.id)
    if comparison.table is not None:
        return _searched(claim, comparison, comparison.table, evidence, claimed)
    assert comparison.of is not None
    of, measure = evidence.find_one(comparison.of), comparison.measure
    line = Line(
        comparison,
        "not seen",
        measure=measure,
        of=of,
        origins=((comparison.of.folder, of),),
        claimed=claimed,
        images=tuple(evidence.trained_on(of, comparison.of.folder)),
        column=quality_column(of) if measure == QUALITY else None,
    )
    mine = figures(of, measure)
    theirs: dict[int, float] = {}
    nearest: Row | None = None
    if comparison.against is not None:
        nearest = evidence.find_one(comparison.against)
        check_comparable(of, nearest, measure)
        theirs = figures(nearest, measure)
        origins = (*line.origins, (comparison.against.folder, nearest))
        line = replace(line, rivals=(nearest,), origins=origins)
    elif comparison.curve:
        line, theirs = _on_curve(line, evidence)
        nearest = line.rivals[0]
    seeds = tuple(sorted(mine.keys() & theirs.keys() if nearest else mine))
    if not seeds:
        raise UnansweredError(f"{of.full_name}: no seed in common with {nearest and nearest.name}")
    compare = comparison.compare
    divides = compare not in ("value", "difference")
    # "Not above" is true of NaN as well.
    if divides and not all(mine[s] > 0 and theirs[s] > 0 for s in seeds):
        raise UnansweredError(f"compare: {compare}: a figure is not above 0")
    values = tuple(effect(compare, mine[s], theirs.get(s, 0.0)) for s in seeds)
    found = Stat(values)
    if not isfinite(found.mean):
        raise UnansweredError(f"{of.full_name}: compare: {compare} makes no finite number")
    spread, borrowed = found.spread, False
    if spread is None:
        a, b = mine[seeds[0]], theirs.get(seeds[0], 1.0)
        error_of = evidence.error(of, measure, a)
        error_rival = evidence.error(nearest, measure, b) if nearest else 0.0
        spread = propagated(compare, a, b, error_of, error_rival)
        borrowed = True
    return replace(
        line,
        verdict=judge(compare, claim.expects, found.mean, spread, claimed, line.bound),
        own=Stat(tuple(mine[s] for s in seeds)),
        rival=Stat(tuple(theirs[s] for s in seeds)) if nearest else None,
        effect=found,
        spread=spread,
        borrowed=borrowed,
        seeds=seeds,
    )


def _on_curve(line: Line, evidence: Evidence) -> tuple[Line, dict[int, float]]:
    """The line with its rivals, and their distance at the energy of ``line.of`` by seed."""
    comparison, of = line.comparison, line.of
    assert of is not None
    found = [(cell.folder, row) for cell in comparison.curve for row in evidence.find(cell)]
    rivals = [row for _, row in found]
    for row in rivals:
        check_comparable(of, row, QUALITY)
    energies = figures(of, comparison.energy)
    costs = [figures(row, comparison.energy) for row in rivals]
    distances = [figures(row, QUALITY) for row in rivals]
    theirs, bounds = {}, set[Bound]()
    for seed in energies:
        if not all(seed in cost for cost in costs):
            continue
        curve = [(cost[seed], d[seed]) for cost, d in zip(costs, distances, strict=True)]
        theirs[seed] = at_energy(energies[seed], curve)
        if energies[seed] > max(cost for cost, _ in curve):
            bounds.add("cheaper")
        if energies[seed] < min(cost for cost, _ in curve):
            bounds.add("dearer")
    means = [fmean(cost.values()) for cost in costs]
    order = sorted(range(len(rivals)), key=means.__getitem__)
    drawn = replace(
        line,
        rivals=tuple(rivals[i] for i in order),
        origins=(*line.origins, *found),
        costs=tuple(means[i] for i in order),
        energy=fmean(energies.values()),
        bound=min(bounds) if bounds else None,
    )
    return drawn, theirs


def _searched(
    claim: Claim,
    comparison: Comparison,
    table: SearchTable,
    evidence: Evidence,
    claimed: float | None,
) -> Line:
    """A line from a table of ``guide``: its 95 % interval stands for the spread."""
    home, _, name = table.file.rpartition("/")
    path = evidence.folders.get(home, Path()) / name
    if home not in evidence.folders or not path.is_file():
        raise UnansweredError(f"no {table.file} yet")
    rows = pd.read_csv(path, dtype=str)

    def pick(wanted: dict[str, str]) -> pd.Series[str]:
        if lacking := [column for column in wanted if column not in rows]:
            raise UnansweredError(f"{table.file}: has no column {lacking[0]}")
        found = rows[(rows[list(wanted)] == pd.Series(wanted)).all(axis=1)]
        if len(found) != 1:
            raise UnansweredError(f"{table.file}: {len(found)} rows have {wanted}, expected one")
        return found.iloc[0]

    of, against = pick(table.of), pick(table.against)
    try:
        a, b = float(of["distance"]), float(against["distance"])
        half = (float(of["high"]) - float(of["low"])) / 2
    except ValueError as error:  # a dash where the search drew no intervals
        raise UnansweredError(f"{table.file}: {table.of}: {error}") from error
    found = effect(comparison.compare, a, b)
    spread = propagated(comparison.compare, a, b, half, 0.0)
    return Line(
        comparison,
        judge(comparison.compare, claim.expects, found, spread, claimed),
        own=Stat((a,)),
        rival=Stat((b,)),
        effect=Stat((found,)),
        spread=spread,
        borrowed=True,
        claimed=claimed,
        seeds=(0,),
    )


def _claimed(comparison: Comparison, published: Sequence[Published], claim: str) -> float | None:
    pair = comparison.published
    if pair is None:
        return comparison.figure
    a, b = (_fid(row, pair, published, claim) for row in (pair.of, pair.against))
    return effect(comparison.compare, a, b)


def _fid(
    row: PublishedRow, pair: PublishedPair, published: Sequence[Published], claim: str
) -> float:
    for figure in published:
        at = (figure.dataset, figure.system, figure.time_steps)
        if at == (pair.dataset, row.system, row.time_steps) and figure.fid is not None:
            return figure.fid
    raise ValueError(
        f"claim {claim}: published.csv has no FID of {row.system}, T = {row.time_steps}, on "
        f"{pair.dataset}"
    )
