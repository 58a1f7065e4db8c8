"""The style of a report's figures: palette, marks, axes, and labels that overlap nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

from bench.look.plots import plain_numbers
from bench.report.boards import Report, Row, Stat
from bench.visible import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 6.3
"""Inches: the text width of a one-column paper."""
INK, FAINT, PAPER = "#1c1d1f", "#e6e7e9", "#fefefe"
"""Text, grid and background: colours that occur nowhere else, so that a page can restyle them."""
MARKS = ("o", "s", "D", "^", "v", "P", "X", "h", "<", ">", "*")
"""One more than there are colours, so that a pair comes back after 110 systems, not after ten."""
ORDER = (0, 1, 2, 3, 4, 9, 5, 7, 6, 8)
"""Order of seaborn's colour-blind palette: the two palest come last."""

LABELS = 50
"""More than a panel has room for."""


@dataclass(frozen=True)
class Look:
    """Colour, mark and line of a system in plots."""

    colour: str
    mark: str


def looks(report: Report) -> dict[str, Look]:
    """A colour and a mark for every system, the same in all figures of the report."""
    import seaborn

    palette = seaborn.color_palette("colorblind").as_hex()
    pairs = zip(report.systems, cycle(ORDER), cycle(MARKS), strict=False)
    return {system: Look(palette[colour], mark) for system, colour, mark in pairs}


@dataclass(frozen=True)
class Drawing:
    """A finished figure and its caption."""

    name: str
    """Name for files: unique within the report."""
    title: str
    caption: str
    alt: str
    """Text for readers who cannot see the figure."""
    figure: Figure


@contextmanager
def figure_of(
    height: float, rows: int = 1, constrained: bool = True, **layout: Any
) -> Iterator[tuple[Any, Any]]:
    """A figure of ``height`` inches and its axes (``[rows, columns]``) in the style of all.

    Args:
        constrained: let matplotlib find the margins.
    """
    import matplotlib
    import seaborn
    from matplotlib.figure import Figure

    small: Any = {
        "font.size": 9, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8,
        "legend.fontsize": 8, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK,
        "xtick.color": INK, "ytick.color": INK, "axes.grid": True, "grid.color": FAINT,
        "figure.facecolor": PAPER, "axes.facecolor": PAPER, "axes.linewidth": 0.8,
        "xtick.major.width": 0.8, "ytick.major.width": 0.8, "grid.linewidth": 0.7,
    }  # fmt: skip
    style = {**seaborn.plotting_context("paper"), **seaborn.axes_style("ticks"), **small}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(WIDTH, height), layout="constrained" if constrained else None)
        axes = figure.subplots(rows, squeeze=False, **layout)
        yield figure, axes
        seaborn.despine(fig=figure)


def mark_style(row: Row, look: Mapping[str, Look]) -> dict[str, Any]:
    system = look[row.system]
    return {
        "color": system.colour,
        "marker": system.mark,
        "markerfacecolor": system.colour if row.time_steps else PAPER,
        "markersize": 6,
        "markeredgewidth": 1.3,
        "linewidth": 1.2,
        "elinewidth": 1,
        "capsize": 2,
        "zorder": 3,
    }


def handle(colour: str, mark: str, filled: bool, line: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, marker=mark, linestyle=line, linewidth=1.2, markersize=5,
                  markeredgewidth=1.3, markerfacecolor=colour if filled else PAPER)  # fmt: skip


def legend(
    figure: Any,
    rows: Sequence[Row],
    look: Mapping[str, Look],
    flat: Sequence[Row] = (),
    lines: Mapping[Any, str] = {},
) -> None:
    """Legend of systems by colour and mark, of those in ``flat`` by their dotted line; ``lines``
    adds the meaning of line styles."""
    marked = {row.system: row for row in rows}
    dotted = {row.system: row for row in flat if row.system not in marked}
    handles, labels = [], []
    for system in (system for system in look if system in {**marked, **dotted}):
        row, colour = marked.get(system) or dotted[system], look[system].colour
        mark, line = (look[system].mark, "") if system in marked else ("", ":")
        handles.append(handle(colour, mark, bool(row.time_steps), line))
        labels.append(plain(row.system_title))
    handles += [handle(INK, "", True, style) for style in lines.values()]
    labels += [plain(str(name)) for name in lines]
    figure.legend(handles, labels, frameon=False, ncols=min(4, len(labels)),
                  loc="outside upper center", handletextpad=0.5)  # fmt: skip


def place_labels(
    figure: Any,
    ax: Axes,
    points: Sequence[tuple[float, float]],
    texts: Mapping[int, str],
    colours: Sequence[str],
) -> None:
    """Write ``texts`` (index of a point -> label) in the points' ``colours`` where neither a mark
    nor a label stands; a label that has no room is left out, and those after :data:`LABELS`."""
    import numpy as np

    figure.canvas.draw()  # the layout decides where the points are
    marks = ax.transData.transform(np.array(points))
    taken: list[Any] = []
    reach = 6.5 * figure.dpi / 72
    # A label that touches the frame is read as a tick's.
    frame = ax.get_window_extent().padded(-2 * figure.dpi / 72)
    for index, text in list(texts.items())[:LABELS]:
        x, y = np.delete(marks, index, axis=0).T
        for dx, dy in ((7, 5), (7, -5), (-7, 5), (-7, -5), (0, 10), (0, -10)):
            label = ax.annotate(
                plain(text), points[index], (dx, dy), textcoords="offset points", fontsize=7.5,
                color=colours[index],
                ha="left" if dx > 0 else "right" if dx < 0 else "center",
                va="bottom" if dy > 0 else "top", zorder=2,
                bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.6},
            )  # fmt: skip
            # Else the layout would make room for a label that may be taken away again.
            label.set_in_layout(False)
            box = label.get_window_extent()
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
            inside = inside and frame.y0 <= box.y0 and box.y1 <= frame.y1
            across = (box.x0 - reach < x) & (x < box.x1 + reach)
            near = (across & (box.y0 - reach < y) & (y < box.y1 + reach)).any()
            if inside and not near and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            label.remove()


def y_scale(ax: Axes, values: Iterable[float]) -> None:
    """Logarithmic where the values span more than a factor of 5 and none is below 0."""
    values = list(values)
    known = [value for value in values if value > 0]
    if known and min(values) >= 0 and max(known) > 5 * min(known):
        ax.set_yscale("log")
        plain_numbers(ax.yaxis, ax.get_ylim())


def steps_axis(ax: Axes, steps: Sequence[int]) -> None:
    """A logarithmic axis with ticks at the measured steps."""
    from matplotlib.ticker import NullLocator

    ax.set_xscale("log")
    ax.set_xticks(steps, [str(step) for step in steps])
    ax.xaxis.set_minor_locator(NullLocator())


def mean(stat: Stat | None) -> float:
    """0 where there is none: such a point is at no place on a logarithmic axis."""
    return stat.mean if stat else 0.0


def spread(stat: Stat | None) -> float | None:
    return stat.spread if stat else None


def spreads(stats: Sequence[Stat | None]) -> list[float] | None:
    """Error bars of a line; None where no point has one."""
    each = [spread(stat) for stat in stats]
    return [value or 0.0 for value in each] if any(each) else None


def bars_note(rows: Iterable[Row]) -> str:
    """Sentence about the error bars; empty without any."""
    counts = sorted({len(row.records) for row in rows if len(row.records) > 1})
    if not counts:
        return ""
    return f" Bars: one standard deviation over {' or '.join(map(str, counts))} seeds."


def name_of(row: Row, with_solver: bool) -> str:
    return row.full_name if with_solver else row.name


def join(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def plain(text: str) -> str:
    """``text`` as matplotlib must read it: no formula in it, and no label that it would hide."""
    text = visible(text, keep="\n").replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def point_label(row: Row, with_solver: bool) -> str:
    """Label of a mark. The legend names the system; the label adds the suite's variant, T and the
    sampler."""
    parts = [row.suite_variant] if row.suite_variant else []
    parts += [f"T = {row.time_steps}"] if row.time_steps else []
    parts += [row.solver] if with_solver and row.solver else []
    return ", ".join(parts)
