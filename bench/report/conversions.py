"""A report's figure of conversions: error, quality and energy against spiking time steps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from bench.quality.metrics import heading
from bench.records.conversions import ConversionCurve, ConvertedNetwork
from bench.records.identity import REFERENCES, SCORED
from bench.records.record import Record
from bench.registry import SYSTEMS
from bench.report.boards import Row, Section
from bench.report.style import (
    INK,
    MARKS,
    ORDER,
    PAPER,
    Drawing,
    figure_of,
    handle,
    join,
    mean,
    plain,
    steps_axis,
    y_scale,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENERGIES = (("published", "-", True), ("strict", "--", False))
"""Accounting of energy -> its line, and whether its mark is filled."""
DIRECT = "*"
"""Mark of a network that was trained with its spikes."""
LINE = 46
"""Letters of a name that has half of the figure's width."""
SCHEDULED = "x"
"""Mark of a network whose spiking steps depend on the diffusion step, drawn at their mean."""


def plot_conversions(section: Section) -> Drawing:
    """Relative error, sample quality (denoising loss, if no samples were drawn) and energy of every
    conversion, beside the ANN and the directly trained networks."""
    import seaborn

    conversions = section.conversions
    colours = seaborn.color_palette("colorblind").as_hex()
    styles = [
        (colours[c], m) for c, m, _ in zip(cycle(ORDER), cycle(MARKS), conversions, strict=False)
    ]
    points = [p for c in conversions for p in c.points]
    steps = sorted({p.time_steps for p in points if p.time_steps})
    scored = [c for c in conversions if c.ranked_by]
    metric = scored[0].ranked_by if scored else None
    rivals = direct(section, metric) if metric else []
    names = [plain(conversion.name) for conversion in conversions]
    handles = [handle(colour, mark, True, "-") for colour, mark in styles]
    if rivals:
        names.append(f"trained directly: {join(sorted({row.title for row in rivals}))}")
        handles.append(handle(INK, DIRECT, True, ""))
    if any(point.schedule for point in points):
        names.append("steps by diffusion step, at their mean")
        handles.append(handle(INK, SCHEDULED, True, ""))
    across = 2 if max(map(len, names)) <= LINE else 1
    with figure_of(2.1 + 0.17 * -(-len(names) // across), ncols=3) as (figure, axes):
        error, quality, energy = axes[0]
        _lines(error, conversions, styles, lambda p: 100 * p.facts.relative_error)
        y_scale(error, [100 * p.facts.relative_error for p in points])
        error.set_ylabel("relative error (%)")
        if metric:
            _quality(quality, conversions, styles, metric, rivals)
        else:
            _lines(quality, conversions, styles, lambda p: p.facts.loss_ratio)
            quality.axhline(1, color=INK, linewidth=1, linestyle=":")
            y_scale(quality, [1.0, *(p.facts.loss_ratio for p in points)])
            quality.set_ylabel("denoising loss / parent's")
        _energy(energy, conversions, styles, rivals)
        for ax in axes[0]:
            steps_axis(ax, steps)
            ax.set_xlabel("spiking time steps T")
        figure.legend(handles, names, frameon=False, ncols=across, loc="outside upper center")
    drawn = join(sorted({conversion.protocol for conversion in scored}))
    middle = (
        f"Middle: {heading(metric)} of {drawn}; dotted: the ANN."
        if metric
        else "Middle: denoising loss as a multiple of the parent's."
    )
    return Drawing(
        f"conversion-{section.name}",
        "Conversion from ANN to SNN",
        f"Left: error of the predicted noise relative to the parent's. {middle} Right: energy per "
        "network evaluation, published (solid) and strict (dashed), beside the ANN (dotted).",
        "Three line plots over spiking time steps: relative error, "
        f"{heading(metric) if metric else 'loss ratio'} and energy, for "
        f"{join(conversion.name for conversion in conversions)}.",
        figure,
    )


def direct(section: Section, metric: str) -> list[Row]:
    """Rows of directly trained spiking denoisers with samples drawn and scored as those of the
    conversions."""
    scored = [curve.parent for curve in section.conversions if curve.scored]
    asked = {(parent.solver, *_scoring(parent.record)) for parent in scored}
    return [
        row
        for board in section.boards
        for row in board.done
        if row.time_steps
        and row.metric(metric)
        and (row.solver, *_scoring(row.records[0])) in asked
        and row.system in SYSTEMS
        and SYSTEMS[row.system].time_axis == "trained"
    ]


def _scoring(record: Record) -> tuple[Any, ...]:
    return tuple(getattr(record, name) for name in (*SCORED, *REFERENCES))


def _lines(ax: Axes, conversions: Sequence[ConversionCurve], styles: Any, of: Any) -> None:
    for (colour, mark), conversion in zip(styles, conversions, strict=True):
        constant = [point for point in conversion.points if not point.schedule]
        x, y = [point.time_steps or 0 for point in constant], list(map(of, constant))
        ax.plot(x, y, color=colour, marker=mark, markersize=4, linewidth=1.2)
        for point in (point for point in conversion.points if point.schedule):
            ax.plot(point.time_steps or 0, of(point), SCHEDULED, color=colour, markersize=5)


def _quality(
    ax: Axes,
    conversions: Sequence[ConversionCurve],
    styles: Any,
    metric: str,
    rivals: Sequence[Row],
) -> None:
    def of(point: ConvertedNetwork) -> float:
        return point.metrics.get(metric, float("nan"))

    _lines(ax, conversions, styles, of)
    for value in {of(c.parent) for c in conversions if metric in c.parent.metrics}:
        ax.axhline(value, color=INK, linewidth=1, linestyle=":")
    for row in rivals:
        ax.plot(row.time_steps or 0, mean(row.metric(metric)), DIRECT, color=INK, markersize=8)
    values = [of(p) for c in conversions for p in (c.parent, *c.points) if metric in p.metrics]
    y_scale(ax, [*values, *(mean(row.metric(metric)) for row in rivals)])
    ax.set_ylabel(heading(metric))


def _energy(
    ax: Axes, conversions: Sequence[ConversionCurve], styles: Any, rivals: Sequence[Row]
) -> None:
    for (colour, mark), conversion in zip(styles, conversions, strict=True):
        constant = [point for point in conversion.points if not point.schedule]
        x = [point.time_steps or 0 for point in constant]
        for name, line, filled in ENERGIES:
            ax.plot(x, [p.facts.evaluation_mj[name] for p in constant], color=colour, marker=mark,
                    markersize=4, linewidth=1.2, linestyle=line,
                    markerfacecolor=colour if filled else PAPER)  # fmt: skip
    for parent in {c.parent.facts.evaluation_mj["strict"] for c in conversions}:
        ax.axhline(parent, color=INK, linewidth=1, linestyle=":")
    drawn = [p.facts.evaluation_mj[name] for c in conversions for p in c.points
             for name, _, _ in ENERGIES]  # fmt: skip
    for row in rivals:
        for name, _, filled in ENERGIES:
            at = mean(row.energy(name, "evaluation"))
            ax.plot(row.time_steps or 0, at, DIRECT, color=INK, markersize=8,
                    markerfacecolor=INK if filled else PAPER)  # fmt: skip
            drawn.append(at)
    y_scale(ax, drawn)
    ax.set_ylabel("mJ per evaluation")
    kinds = [handle(INK, "o", True, "-"), handle(INK, "o", False, "--"), handle(INK, "", True, ":")]
    ax.legend(kinds, ["published", "strict", "the ANN"], frameon=False, fontsize=7)
