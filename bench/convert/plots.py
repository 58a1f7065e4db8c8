"""Figures of a conversion: what it costs against T, and which layer breaks. Draws numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.convert.tables import breakeven
from bench.look.plots import figure_file, palette, plain_numbers
from bench.quality.metrics import columns_of, heading
from bench.records.conversions import ConversionCurve, ConvertedNetwork

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PRICES = {"published": "as published", "strict": "real inputs as MACs"}
"""Accounting of energy -> its line's name."""
PARTS = {"inherited": "s", "clipping": "^", "rounding": "D", "unevenness": "v"}
"""Part of a layer's error -> its mark."""


def plot_costs(curve: ConversionCurve, path: Path) -> None:
    """Relative error, sample quality (if it was measured) and energy against T, one plot above the
    other. Lines show the values of the ANN. Crosses show schedules at their mean T."""
    from matplotlib.ticker import NullLocator

    parent, children = curve.parent, curve.children
    colours = palette()
    panels = 3 if curve.scored else 2
    with figure_file(path, 1.7 * panels + 0.5, panels, sharex=True) as (_, axes):
        error, energy = axes[0, 0], axes[-1, 0]
        _curve(error, children, lambda c: 100 * c.facts.relative_error, colours[0], "")
        error.set_ylabel("relative error of\nthe noise (%)")
        error.set_yscale("log")
        if curve.scored:
            distance = columns_of(curve.scored[0].metrics)[0]
            quality: Axes = axes[1, 0]

            def of(network: ConvertedNetwork) -> float:
                return network.metrics.get(distance, float("nan"))

            _curve(quality, children, of, colours[1], "")
            quality.axhline(of(parent), color=".3", linestyle="--", linewidth=1, label="ANN")
            quality.set_yscale("log")
            quality.set_ylabel(heading(distance))
            quality.legend(frameon=False)
        for (price, words), colour in zip(PRICES.items(), colours[2:], strict=False):
            _curve(energy, children, lambda c, p=price: c.facts.evaluation_mj[p], colour, words)
            below, above = breakeven(curve, price)
            if below is not None and above is not None:
                energy.axvspan(below, above, color=colour, alpha=0.12, linewidth=0,
                               label=f"break-even: T={below} to {above}")  # fmt: skip
        strict = parent.facts.evaluation_mj["strict"]
        energy.axhline(strict, color=".3", linestyle="--", linewidth=1, label="ANN")
        energy.set_yscale("log")
        energy.set_ylabel("mJ per network\nevaluation")
        for ax in axes[:, 0]:
            plain_numbers(ax.yaxis, ax.get_ylim())
        energy.set_xscale("log", base=2)
        steps = sorted({child.time_steps for child in children if child.time_steps})
        energy.set_xticks(steps, [str(step) for step in steps])
        energy.xaxis.set_minor_locator(NullLocator())
        energy.set_xlabel("spiking time steps T")
        energy.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def _curve(
    ax: Axes, children: Sequence[ConvertedNetwork], of: Any, colour: Any, label: str
) -> None:
    constant = [child for child in children if not child.schedule]
    x = [child.time_steps or 0 for child in constant]
    ax.plot(x, [of(child) for child in constant], marker="o", color=colour, label=label or None)
    for child in (child for child in children if child.schedule):
        at = child.time_steps or 0, of(child)
        ax.plot(*at, marker="x", color=colour, linestyle="none")
        ax.annotate(child.label, at, xytext=(4, 4), textcoords="offset points", fontsize=7)


def plot_layers(
    headings: Sequence[str], label: str, layers: Sequence[Sequence[str]], path: Path
) -> None:
    """Relative error of every layer as a bar, and the parts that make it as marks. Parts are
    norms: they do not add up.

    Args:
        label: of the child, its spiking time steps.
        layers: its table of single layers.
    """
    import seaborn

    def column(name: str) -> list[float]:
        number = headings.index(name)
        return [float(row[number].removesuffix(" %")) for row in layers]

    names = [row[0] for row in layers]
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
        ax.set_ylabel(f"layer of neurons, T = {label}")
        ax.set_xlim(left=0)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
