"""The figures of a report, for papers and for the page. Every system keeps one colour and mark.

Hollow marks are networks without spikes. Figures stand alone, never in pyplot's global state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from bench.energy.accountings import ACCOUNTINGS
from bench.look.plots import plain_numbers
from bench.quality.metrics import heading, lower_is_better
from bench.report.boards import Board, Report, Row, Stat, accountings, pareto
from bench.report.conversions import plot_conversions
from bench.report.pivots import sampler_of
from bench.report.scaling_figure import plot_scaling
from bench.report.style import (
    INK,
    MARKS,
    ORDER,
    Drawing,
    Look,
    bars_note,
    figure_of,
    handle,
    join,
    legend,
    looks,
    mark_style,
    mean,
    name_of,
    place_labels,
    plain,
    point_label,
    spread,
    spreads,
    steps_axis,
    y_scale,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MANY = 8
"""Rows that a figure of lines can hold."""


def draw(
    report: Report, advance: Callable[[], None] = lambda: None
) -> tuple[dict[str, list[Drawing]], dict[str, list[str]]]:
    """All figures, and why others are missing; both by board name, or by a section's data set.

    Args:
        advance: called after each section and board.
    """
    look = looks(report)
    drawings: dict[str, list[Drawing]] = {}
    reasons: dict[str, list[str]] = {}
    for section in report.sections:
        for board in section.boards:
            for plot in (plot_energy, plot_time_steps, plot_samplers, plot_scaling, plot_layers):
                drawn = plot(board, look)
                if isinstance(drawn, Drawing):
                    drawings.setdefault(board.name, []).append(drawn)
                else:
                    reasons.setdefault(board.name, []).append(drawn)
            advance()
        if section.conversions:
            drawings[section.dataset] = [plot_conversions(section)]
        advance()
    return drawings, reasons


def plot_energy(board: Board, look: Mapping[str, Look]) -> Drawing | str:
    """Quality against energy per image, a panel for each accounting, its Pareto front drawn."""
    metric = board.ranked_by
    rows = [row for row in board.done if metric and row.metric(metric)]
    names = [n for n in accountings(rows) if any(mean(row.energy(n)) for row in rows)]
    if metric is None or not names:
        return "quality against energy: no row has both figures"
    lower = lower_is_better(metric)
    several = len({row.solver for row in rows if row.solver}) > 1
    across = min(len(names), 2)
    down = -(-len(names) // across)
    free = [(row, row.energy(names[0])) for row in rows]
    floor = [row for row, stat in free if stat and not stat.mean]
    fronts: list[str] = []
    labels: list[tuple[Any, ...]] = []
    with figure_of(2.5 * down + 0.5, down, ncols=across, sharey=True) as (figure, axes):
        ax: Axes
        for ax in axes.flat[len(names) :]:
            ax.remove()
        for index, (ax, name) in enumerate(zip(axes.flat, names, strict=False)):
            priced = [row for row in rows if mean(row.energy(name))]
            points = [(mean(row.energy(name)), mean(row.metric(metric))) for row in priced]
            ax.set_xscale("log")
            if len({x for x, _ in points}) == 1:  # no span that a margin could widen
                ax.set_xlim(points[0][0] / 2, points[0][0] * 2)
            _mark(ax, priced, [row.energy(name) for row in priced],
                  [row.metric(metric) for row in priced], look)  # fmt: skip
            y_scale(ax, [mean(row.metric(metric)) for row in rows])
            ax.margins(0.12)
            front = pareto(points, lower)
            edge = [points[i] for i in front]
            end = ax.get_xlim()[1]
            ax.step([*(x for x, _ in edge), end], [*(y for _, y in edge), edge[-1][1]], color=INK,
                    linewidth=0.9, linestyle=(0, (4, 2)), where="post", zorder=1)  # fmt: skip
            ax.set_xlim(right=end)
            plain_numbers(ax.xaxis, ax.get_xlim())
            for row in floor:
                ax.axhline(mean(row.metric(metric)), color=look[row.system].colour, linewidth=1,
                           linestyle=":", zorder=1)  # fmt: skip
            # Marks of one system have one look: those of its variants are named off the front too.
            named = [*front, *(i for i, row in enumerate(priced) if row.suite_variant)]
            texts = {i: text for i in named if (text := point_label(priced[i], several))}
            colours = [look[row.system].colour for row in priced]
            labels.append((ax, points, texts, colours))
            # A line break: the longest name is as wide as a panel.
            ax.set_xlabel(f"{ACCOUNTINGS[name].long_title} energy\nper {board.noun} (mJ)")
            fronts.append(f"{name}: {', '.join(name_of(priced[i], several) for i in front)}")
            if index % across == 0:
                ax.set_ylabel(heading(metric))
        marked = [row for row in rows if any(mean(row.energy(name)) for name in names)]
        legend(figure, marked, look, floor)
        for ax, *label in labels:  # the last panel and the legend still move the first one
            place_labels(figure, ax, *label)
    dotted = f" Dotted: {join(row.title for row in floor)}, 0 mJ." if floor else ""
    return Drawing(
        f"energy-{board.name}",
        "Quality against energy",
        "Each mark is a row of the table; hollow marks are networks without spikes. Dashed: the "
        f"Pareto front, which no row beats in both.{dotted}{bars_note(rows)} Published and strict "
        "energies price products only (45 nm), without memory.",
        f"Scatter plot of {heading(metric)} over energy per {board.noun}. Pareto front by "
        f"{'; by '.join(fronts)}.",
        figure,
    )


def _mark(
    ax: Axes,
    rows: Sequence[Row],
    x: Sequence[Stat | None],
    y: Sequence[Stat | None],
    look: Mapping[str, Look],
) -> None:
    """A mark a row, with bars where there are spreads; those of one style in one call, since a
    call for each takes milliseconds."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, row in enumerate(rows):
        bars = (spread(x[index]) is None, spread(y[index]) is None)
        groups.setdefault((row.system, bool(row.time_steps), *bars), []).append(index)
    for members in groups.values():
        ax.errorbar(
            [mean(x[i]) for i in members],
            [mean(y[i]) for i in members],
            xerr=spreads([x[i] for i in members]),
            yerr=spreads([y[i] for i in members]),
            **{**mark_style(rows[members[0]], look), "linestyle": "none"},
        )


def plot_time_steps(board: Board, look: Mapping[str, Look]) -> Drawing | str:
    """Quality against spiking time steps, a line for each system and sampler."""
    metric = board.ranked_by
    lines: dict[tuple[Any, ...], list[Row]] = {}
    for row in board.done:
        if metric and row.time_steps and row.metric(metric):
            key = (row.system, row.solver, row.train_images, row.suite_variant)
            lines.setdefault(key, []).append(row)
    lines = {key: rows for key, rows in lines.items() if len({r.time_steps for r in rows}) > 1}
    if metric is None or not lines:
        return "quality against T: no system was measured at two numbers of spiking time steps"
    solvers = list(dict.fromkeys(solver for _, solver, *_ in lines))
    styles = dict(zip(solvers, cycle(["-", "--", "-.", ":"]), strict=False))
    budgets = {row.train_images for rows in lines.values() for row in rows}
    flat = {
        row.system: row
        for row in reversed(board.done)
        if row.time_steps is None
        and row.metric(metric)
        and not row.suite_variant
        # A network that saw more images than every line shows nothing of T.
        and row.train_images in budgets
    }
    with figure_of(2.9) as (figure, axes):
        ax: Axes = axes[0, 0]
        for (_, solver_name, *_), rows in lines.items():
            rows.sort(key=lambda row: row.time_steps or 0)
            y = [mean(row.metric(metric)) for row in rows]
            style = {**mark_style(rows[0], look), "linestyle": styles[solver_name]}
            bars = spreads([row.metric(metric) for row in rows])
            ax.errorbar([row.time_steps or 0 for row in rows], y, yerr=bars, **style)
        for row in flat.values():
            ax.axhline(
                mean(row.metric(metric)), color=look[row.system].colour, linewidth=1, linestyle=":"
            )
        ax.autoscale(axis="y")  # a dotted line inside the limits so far would lie on the frame
        shown = [row for rows in lines.values() for row in rows] + list(flat.values())
        y_scale(ax, [mean(row.metric(metric)) for row in shown])
        steps_axis(
            ax, sorted({r.time_steps for rows in lines.values() for r in rows if r.time_steps})
        )
        ax.set_xlabel("spiking time steps T")
        ax.set_ylabel(heading(metric))
        trained = [row for rows in lines.values() for row in rows]
        legend(figure, trained, look, list(flat.values()), styles if len(styles) > 1 else {})
    dotted = (
        f" Dotted: {join(row.title for row in flat.values())}, which have no T." if flat else ""
    )
    return Drawing(
        f"time-steps-{board.name}",
        "Quality against spiking time steps",
        f"Each system is trained at its T, or converted to it.{dotted}{bars_note(shown)}",
        f"Line plot of {heading(metric)} over spiking time steps: "
        + "; ".join(
            f"{rows[0].title} "
            + ", ".join(f"T {r.time_steps}: {mean(r.metric(metric)):.4g}" for r in rows)
            for rows in lines.values()
        )
        + ".",
        figure,
    )


def plot_samplers(board: Board, look: Mapping[str, Look]) -> Drawing | str:
    """Quality against network evaluations, a panel for each network and a line a sampler."""
    import seaborn

    metric = board.ranked_by
    panels: dict[tuple[str, int], dict[str, list[Row]]] = {}
    for row in board.done:
        if metric and row.solver and row.metric(metric):
            lines = panels.setdefault((row.name, row.train_images), {})
            lines.setdefault(sampler_of(row), []).append(row)

    def steps(row: Row) -> int:
        return row.records[0].sampler_steps or 0

    panels = {
        key: lines
        for key, lines in panels.items()
        if any(len({steps(r) for r in rows}) > 1 for rows in lines.values())
    }
    if metric is None or not panels:
        return "samplers and their steps: no sampler was run with two numbers of steps"
    names = sorted({name for lines in panels.values() for name in lines})
    colours = seaborn.color_palette("colorblind").as_hex()
    style = {n: (colours[c], m) for n, c, m in zip(names, cycle(ORDER), cycle(MARKS), strict=False)}
    across = min(len(panels), 2)
    down = -(-len(panels) // across)
    with figure_of(2.5 * down + 0.7, down, ncols=across, sharey=True, sharex=True) as (
        figure,
        axes,
    ):
        ax: Axes
        for ax in axes.flat[len(panels) :]:
            ax.remove()
        shown = [row for lines in panels.values() for rows in lines.values() for row in rows]
        for index, (ax, lines) in enumerate(zip(axes.flat, panels.values(), strict=False)):
            for name, rows in lines.items():
                rows.sort(key=steps)
                colour, mark = style[name]
                ax.errorbar(
                    [steps(row) for row in rows], [mean(row.metric(metric)) for row in rows],
                    yerr=spreads([row.metric(metric) for row in rows]), color=colour, marker=mark,
                    markersize=4, linewidth=1.2, capsize=2,
                )  # fmt: skip
            first = next(iter(lines.values()))[0]
            ax.set_title(plain(first.name), fontsize=9)
            y_scale(ax, [mean(row.metric(metric)) for row in shown])
            steps_axis(ax, sorted({steps(row) for row in shown}))
            ax.set_xlabel(f"network evaluations per {board.noun}")
            if index % across == 0:
                ax.set_ylabel(heading(metric))
        handles = [handle(colour, mark, True, "-") for colour, mark in style.values()]
        figure.legend(handles, [plain(name) for name in style], frameon=False, ncols=3,
                      loc="outside upper center")  # fmt: skip
    return Drawing(
        f"samplers-{board.name}",
        "Samplers and their steps",
        f"Colours are samplers here, not systems.{bars_note(shown)}",
        f"Line plot of {heading(metric)} over network evaluations per {board.noun}, "
        f"one line for each of {join(names)}.",
        figure,
    )


def plot_layers(board: Board, look: Mapping[str, Look]) -> Drawing | str:
    """Firing rates by layer, a line for each row that has them."""
    rows = [row for row in board.done if row.layer_rates]
    if not rows:
        return "firing rates by layer: only a run's own folder holds them, and none has any here"
    left_out = len(rows) - MANY
    panels: dict[tuple[str, ...], list[Row]] = {}
    for row in rows[:MANY]:
        panels.setdefault(tuple(row.layer_rates), []).append(row)
    layers = max(len(names) for names in panels)
    several = len({row.solver for row in rows}) > 1
    styles = dict(zip(dict.fromkeys(name_of(row, several) for row in rows[:MANY]),
                      cycle(["-", "--", "-.", ":"]), strict=False))  # fmt: skip
    with figure_of(min(9.0, 1.0 + 0.17 * layers), ncols=len(panels), sharex=True) as (figure, axes):
        handles, labels = [], []
        for ax, (names, members) in zip(axes[0], panels.items(), strict=True):
            for row in members:
                name = name_of(row, several)
                style = {**mark_style(row, look), "linestyle": styles[name], "markersize": 4}
                ax.errorbar(list(row.layer_rates.values()), range(len(names)), **style)
                handles.append(handle(style["color"], style["marker"], True, styles[name]))
                labels.append(plain(name))
            ax.set_yticks(range(len(names)), [plain(name) for name in names], fontsize=7)
            ax.set_ylim(len(names) - 0.5, -0.5)
            ax.set_xlim(left=0)
            ax.set_xlabel("firing rate (spikes per neuron and time step)")
        axes[0, 0].set_ylabel("layer of neurons, first to last")
        figure.legend(handles, labels, frameon=False, ncols=2, loc="outside upper center")
    rest = f" The {MANY} best rows; {left_out} more have rates." if left_out > 0 else ""
    return Drawing(
        f"layers-{board.name}",
        "Firing rates by layer",
        f"Means over the whole sampling chain, in the order in which the network runs.{rest}",
        "Dot plot of the firing rate of every layer: "
        + "; ".join(
            f"{name_of(row, several)} from {min(row.layer_rates.values()):.3f} to "
            f"{max(row.layer_rates.values()):.3f}"
            for row in rows[:MANY]
        )
        + ".",
        figure,
    )
