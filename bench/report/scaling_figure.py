"""The figure of a board's curves: points, power laws and bands, a panel for each axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bench.look.plots import plain_numbers
from bench.quality.metrics import heading
from bench.report.boards import Board
from bench.report.curves import AXES, AxisName, Curve, curves, gaps
from bench.report.powerlaw import FEWEST
from bench.report.scaling import FURTHER, gap_sentence
from bench.report.style import (
    Drawing,
    Look,
    bars_note,
    figure_of,
    legend,
    mark_style,
    spreads,
    steps_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLACES = 60
"""Points at which a law is drawn."""


def plot_scaling(board: Board, look: Mapping[str, Look]) -> Drawing | str:
    """Distance against training images, parameters and T, with the laws through the points."""
    found = curves(board)
    if not found:
        return (
            f"power laws: no system was measured at {FEWEST} budgets, widths or T, all else alike"
        )
    panels = {axis: [curve for curve in found if curve.axis == axis] for axis in AXES}
    panels = {axis: members for axis, members in panels.items() if members}
    across = min(len(panels), 2)
    down = -(-len(panels) // across)
    with figure_of(2.6 * down + 0.5, down, ncols=across, sharey=True) as (figure, axes):
        ax: Axes
        for ax in axes.flat[len(panels) :]:
            ax.remove()
        for index, (ax, (axis, members)) in enumerate(zip(axes.flat, panels.items(), strict=False)):
            ax.set_xscale("log")
            ax.set_yscale("log")
            for curve in members:
                _draw(ax, curve, look)
            _x_axis(ax, axis, {point.n for curve in members for point in curve.points})
            ax.set_xlabel(AXES[axis])
            if index % across == 0:
                ax.set_ylabel(heading(board.ranked_by or ""))
        below = 4 if "images" in panels else 1.5  # room for the dashed part
        _frame([p.stat.mean for curve in found for p in curve.points], below, axes.flat[0])
        legend(figure, [curve.row for curve in found], look)
    verdicts = " ".join(gap_sentence(gap) for gap in gaps(found))
    dashed = f"; dashed: up to {FURTHER} times the images measured" if "images" in panels else ""
    return Drawing(
        f"scaling-{board.name}",
        "Power laws",
        f"Lines: power laws through the means{dashed}. Bands: 95 % of one more point."
        f"{bars_note(c.row for c in found)}",
        f"Line plots of {heading(board.ranked_by or '')} over "
        f"{', '.join(AXES[axis] for axis in panels)}. {verdicts}".strip(),
        figure,
    )


def _x_axis(ax: Axes, axis: AxisName, places: set[float]) -> None:
    from matplotlib.ticker import EngFormatter

    if axis == "time steps":
        steps_axis(ax, sorted(map(int, places)))
        return
    plain_numbers(ax.xaxis, ax.get_xlim())
    if axis == "images":
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))


def _draw(ax: Axes, curve: Curve, look: Mapping[str, Look]) -> None:
    """A curve's points with their spreads, its law and the band about it."""
    import numpy as np

    n = [point.n for point in curve.points]
    style = {**mark_style(curve.row, look), "linestyle": "none"}
    bars = spreads([point.stat for point in curve.points])
    ax.errorbar(n, [point.stat.mean for point in curve.points], yerr=bars, **style)
    if curve.law is None:
        return
    colour = look[curve.row.system].colour

    def line(places: Sequence[float], dashes: str) -> None:
        assert curve.law is not None
        through = [curve.law.log_distance(place).interval(np.exp) for place in places]
        ax.plot(places, [at.value for at in through], dashes, color=colour, linewidth=1.2)
        ax.fill_between(places, [at.low for at in through], [at.high for at in through],
                        color=colour, alpha=0.13, linewidth=0)  # fmt: skip

    line(np.geomspace(n[0], n[-1], PLACES).tolist(), "-")
    if curve.axis == "images":
        line(np.geomspace(n[-1], FURTHER * n[-1], PLACES).tolist(), "--")


def _frame(distances: Sequence[float], below: float, ax: Axes) -> None:
    """Limits that show every point, and of the bands no more than a factor beyond the points: the
    band of three points may be endless."""
    ax.set_ylim(min(distances) / below, max(distances) * 1.5)
    plain_numbers(ax.yaxis, ax.get_ylim())
