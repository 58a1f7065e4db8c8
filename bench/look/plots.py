"""Figures for papers, as PNG, PDF or SVG by the file's ending. Draws numbers, collects none.

Drawn on figures of their own, never through pyplot's global state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.look.trace import STRIP_COLUMNS, moments
from sddpm.replacing import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from torch import Tensor

    from bench.look.activity import LayerSpikes, Raster

WIDTH = 6.3
"""Inches: the text width of a one-column paper."""
DPI = 200
RASTER_NEURONS = 120
STRIP_POINTS = 11
"""Least size of the text of a denoising strip."""
PALETTE = "colorblind"


@contextmanager
def figure_file(
    path: Path, height: float, rows: int = 1, **layout: Any
) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes (``[rows, columns]``), written to ``path`` at the end, atomically."""
    import matplotlib
    import seaborn
    from matplotlib.figure import Figure

    small: Any = {"font.size": 9, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8,
             "legend.fontsize": 8, "svg.fonttype": "none", "pdf.fonttype": 42}  # fmt: skip
    style = seaborn.axes_style("ticks", {"axes.grid": True, "grid.color": ".92"})
    with matplotlib.rc_context({**seaborn.plotting_context("paper"), **style, **small}):
        figure: Figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots(rows, squeeze=False, **layout)
        yield figure, axes
        seaborn.despine(fig=figure)
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], dpi=DPI)


def palette() -> list[Any]:
    """The colours of lines and marks, which most people can distinguish."""
    import seaborn

    return list(seaborn.color_palette(PALETTE))


TICKS = ((4, (1, 1.5, 2, 3, 4, 5, 7)), (20, (1, 2, 3, 5)), (150, (1, 2, 5)), (math.inf, (1,)))
"""Span of a logarithmic axis, and the digits at which one that is shorter has its ticks."""
FEWEST_TICKS = 3


def plain_numbers(axis: Axis, limits: tuple[float, float]) -> None:
    """Ticks of a logarithmic axis as plain numbers, at least three: more of them where it is
    short, and evenly spaced ones where no round number lies in it."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    low, high = min(limits), max(limits)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    coarsest = next(number for number, (span, _) in enumerate(TICKS) if high / low < span)
    for _, digits in TICKS[coarsest::-1]:
        ticks = [digit * 10.0**power for power in powers for digit in digits]
        if sum(low <= tick <= high for tick in ticks) >= FEWEST_TICKS:
            axis.set_major_locator(LogLocator(subs=digits))
            break
    else:
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], min_n_ticks=FEWEST_TICKS))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def plot_rates(layers: Sequence[LayerSpikes], path: Path) -> None:
    """Firing rate of each layer as a bar, with a mark for each spiking step."""
    import seaborn

    names = [layer.name for layer in layers]
    steps = len(layers[0].spikes)
    mean = float(np.average([layer.rate for layer in layers], weights=[x.updates for x in layers]))
    with figure_file(path, 0.9 + 0.2 * len(layers)) as (_, axes):
        ax: Axes = axes[0, 0]
        ax.grid(visible=False, axis="y")
        seaborn.barplot(
            x=[layer.rate for layer in layers], y=names, ax=ax, color=palette()[0], alpha=0.55,
            label="all steps",
        )  # fmt: skip
        shades = seaborn.color_palette("flare", steps)
        for step in range(steps if steps <= 8 else 0):
            rates = [layer.rates[step] for layer in layers]
            ax.scatter(
                rates, range(len(layers)), s=14, color=shades[step], label=f"s = {step + 1}",
                zorder=3,
            )  # fmt: skip
        ax.axvline(mean, color=".3", linestyle="--", linewidth=1, label=f"network: {mean:.3f}")
        ax.set_xlabel("firing rate (spikes per neuron and spiking step)")
        ax.set_ylabel("layer of neurons")
        ax.set_xlim(left=0)
        ax.set_ylim(len(layers) - 0.4, -0.6)
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def plot_raster(raster: Raster, path: Path) -> None:
    """Spikes of one layer for one image: above, channels' mean at each pixel; below, one row
    a neuron. Columns are spiking steps, in a group for each denoising step shown."""
    import seaborn

    shown = sorted(raster.moments)
    steps, channels, height, width = raster.moments[shown[0]].shape
    total = channels * height * width
    chosen = np.sort(np.random.default_rng(0).permutation(total)[:RASTER_NEURONS])
    highest = max(float(raster.moments[m].float().mean(1).max()) for m in shown)
    ratios = {"height_ratios": [1, 4]}
    with figure_file(path, 4.2, 2, ncols=len(shown), sharey="row", gridspec_kw=ratios) as (
        figure,
        axes,
    ):
        for column, moment in enumerate(shown):
            spikes = raster.moments[moment]
            above, below = axes[0, column], axes[1, column]
            maps = spikes.float().mean(1).numpy()
            gap = np.full((height, max(1, width // 8)), np.nan)
            pieces = [piece for step in maps for piece in (step, gap)][:-1]
            picture = above.imshow(
                np.hstack(pieces), cmap="rocket", vmin=0, vmax=highest, interpolation="nearest"
            )
            above.set_axis_off()
            above.set_title(f"denoising step {moment} of {raster.evaluations}", fontsize=9)
            fired = spikes.flatten(1).numpy()[:, chosen].T
            # A mark a spike, narrower than its step, so that the steps stay apart.
            neuron, step = np.nonzero(fired)
            below.bar(step + 1, 0.9, 0.84, bottom=neuron - 0.45, color=".15", linewidth=0)
            rate = float(spikes.float().mean())
            below.set_xlabel(f"spiking step s\n(firing rate {rate:.3f})")
            below.set_xticks(range(1, steps + 1))
            below.set_xlim(0.5, steps + 0.5)
            below.set_ylim(-0.5, len(chosen) - 0.5)
            below.grid(visible=False)
        axes[1, 0].set_ylabel(f"neuron of {raster.layer} ({len(chosen)} of {total:,})")
        figure.colorbar(picture, ax=list(axes[0]), label="share of\nchannels", shrink=0.9)
        seaborn.despine(fig=figure, left=True)


def plot_strip(frames: NDArray[np.uint8], path: Path, columns: int = STRIP_COLUMNS) -> None:
    """The denoising chain: a row an image, a column a moment."""
    chosen = moments(len(frames), columns)
    images = frames.shape[1]
    side = WIDTH / len(chosen)
    # Readable when a tall strip is shown whole, and narrower than a column.
    size = min(max(STRIP_POINTS, 1.2 * side * images), 24 * side)
    with figure_file(path, side * images + size / 20, images, ncols=len(chosen)) as (figure, axes):
        figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
        for column, moment in enumerate(chosen):
            for row in range(images):
                picture = frames[moment, row].transpose(1, 2, 0)
                axes[row, column].imshow(
                    picture.squeeze(), cmap="grey", vmin=0, vmax=255, interpolation="nearest"
                )
                axes[row, column].set_axis_off()
            axes[0, column].set_title(str(moment), fontsize=size, pad=3)
        figure.supxlabel("denoising steps done (0: noise)", fontsize=size)


def plot_training(
    log: Mapping[str, Sequence[tuple[int, float]]], path: Path, predicted: str | None = None
) -> None:
    """The logged losses against training steps: each point faint, their running mean above.

    Args:
        predicted: what a denoiser's last layer predicts, whose squared error ``loss`` is.
    """
    losses = {name: points for name, points in log.items() if name != "images_per_second"}
    with figure_file(path, 2.6 * len(losses), len(losses), sharex=True) as (_, axes):
        for number, (name, points) in enumerate(losses.items()):
            ax: Axes = axes[number, 0]
            steps, values = map(np.asarray, zip(*points, strict=True))
            ax.plot(steps, values, color=palette()[0], alpha=0.3, linewidth=0.8, label="logged")
            span = max(1, len(values) // 20)
            mean = np.convolve(values, np.ones(span) / span, "valid")
            ax.plot(
                steps[(span - 1) // 2 :][: len(mean)],
                mean,
                color=palette()[0],
                linewidth=1.6,
                label=f"mean of {span} points" if span > 1 else None,
            )
            if values.min() > 0 and values.max() > 5 * np.median(values):
                ax.set_yscale("log")
                plain_numbers(ax.yaxis, ax.get_ylim())
                ax.grid(visible=True, which="minor", color=".96")
            denoising = name == "loss" and predicted is not None
            ax.set_ylabel(f"denoising loss (MSE of {predicted})" if denoising else name)
            ax.legend(frameon=False)
        axes[-1, 0].set_xlabel("training step")


def plot_scales(scales: Mapping[str, Tensor], path: Path) -> None:
    """TSM's p at each spiking step: every layer faint, their mean with one standard deviation."""
    values = np.stack([scale.numpy() for scale in scales.values()])
    steps = np.arange(1, values.shape[1] + 1)
    mean, spread = values.mean(0), values.std(0)
    colour = palette()[0]
    with figure_file(path, 2.8) as (_, axes):
        ax: Axes = axes[0, 0]
        for layer in values:
            ax.plot(steps, layer, color=".6", linewidth=0.6, alpha=0.6)
        ax.fill_between(
            steps, mean - spread, mean + spread, color=colour, alpha=0.25, label="± 1 s.d."
        )
        ax.plot(steps, mean, color=colour, marker="o", label=f"mean of {len(values)} layers")
        ax.axhline(1, color=".3", linestyle="--", linewidth=1, label="initial value")
        ax.set_xticks(steps)
        ax.set_xlabel("spiking step s")
        ax.set_ylabel("temporal scale p[s]")
        ax.legend(frameon=False)
