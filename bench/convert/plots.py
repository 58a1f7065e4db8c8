"""Figures of a conversion: what it costs against T, and which layer breaks. Draws numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.convert.tables import Cost, breakeven
from bench.look.plots import figure_file, palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PRICES = {"published_mj": "as published", "strict_mj": "real inputs as MACs"}
PARTS = {"inherited": "s", "clipping": "^", "rounding": "D", "unevenness": "v"}
"""Part of a layer's error -> its mark."""


def plot_costs(costs: Sequence[Cost], path: Path) -> None:
    """Relative error, sample quality (where it was measured) and energy against T, one above the
    other; the ANN's are lines. Schedules stand at their mean T, as crosses.

    Args:
        costs: the parent's row first.
    """
    parent, children = costs[0], costs[1:]
    constant = [cost for cost in children if not cost.schedule]
    scheduled = [cost for cost in children if cost.schedule]
    scored = [cost for cost in costs if cost.quality is not None]
    colours = palette()
    panels = 3 if scored else 2
    with figure_file(path, 1.7 * panels + 0.5, panels, sharex=True) as (_, axes):
        error, energy = axes[0, 0], axes[-1, 0]
        _curve(error, constant, scheduled, lambda c: 100 * c.relative_error, colours[0], "")
        error.set_ylabel("relative error of\nthe noise (%)")
        error.set_yscale("log")
        if scored:
            distance = next(iter(scored[0].quality.metrics)) if scored[0].quality else ""
            quality: Axes = axes[1, 0]

            def of(cost: Cost) -> float:
                return cost.quality.metrics[distance] if cost.quality else float("nan")

            _curve(quality, constant, scheduled, of, colours[1], "")
            quality.axhline(of(parent), color=".3", linestyle="--", linewidth=1, label="ANN")
            quality.set_yscale("log")
            quality.set_ylabel(f"{distance.upper().replace('_', ' ', 1)}\n(smaller is better)")
            quality.legend(frameon=False)
        for (price, words), colour in zip(PRICES.items(), colours[2:], strict=False):
            _curve(energy, constant, scheduled, lambda c, p=price: getattr(c, p), colour, words)
            below, above = breakeven(parent, children, price)
            if below is not None and above is not None:
                energy.axvspan(below, above, color=colour, alpha=0.12, linewidth=0,
                               label=f"break-even: T={below} to {above}")  # fmt: skip
        energy.axhline(parent.strict_mj, color=".3", linestyle="--", linewidth=1, label="ANN")
        energy.set_yscale("log")
        energy.set_ylabel("mJ per network\nevaluation")
        energy.set_xscale("log", base=2)
        steps = sorted({cost.time_steps for cost in children if cost.time_steps})
        energy.set_xticks(steps, [str(step) for step in steps])
        energy.minorticks_off()
        energy.set_xlabel("spiking time steps T")
        energy.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def _curve(
    ax: Axes, constant: Sequence[Cost], scheduled: Sequence[Cost], of: Any, colour: Any, label: str
) -> None:
    x = [cost.time_steps or 0 for cost in constant]
    ax.plot(x, [of(cost) for cost in constant], marker="o", color=colour, label=label or None)
    for cost in scheduled:
        at = cost.time_steps or 0, of(cost)
        ax.plot(*at, marker="x", color=colour, linestyle="none")
        ax.annotate(
            cost.label, at, xytext=(4, 4), textcoords="offset points",
            fontsize=7,
        )  # fmt: skip


def plot_layers(headings: Sequence[str], cost: Cost, path: Path) -> None:
    """Relative error of every layer as a bar, and the parts that make it as marks. Parts are
    norms: they do not add up."""
    import seaborn

    def column(name: str) -> list[float]:
        number = headings.index(name)
        return [float(row[number].removesuffix(" %")) for row in cost.layers]

    names = [row[0] for row in cost.layers]
    colours = palette()
    with figure_file(path, 0.9 + 0.19 * len(names)) as (_, axes):
        ax: Axes = axes[0, 0]
        ax.grid(visible=False, axis="y")
        seaborn.barplot(
            x=column("relative error"), y=names, ax=ax, color=colours[0], alpha=0.4,
            label="relative error",
        )  # fmt: skip
        for (part, mark), colour in zip(PARTS.items(), [".2", *colours[1:]], strict=False):
            ax.scatter(
                column(part), range(len(names)), marker=mark, s=16, color=colour, label=part,
                zorder=3,
            )  # fmt: skip
        ax.set_xlabel("% of the parent's activation (norm)")
        ax.set_ylabel(f"layer of neurons, T = {cost.label}")
        ax.set_xlim(left=0)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
