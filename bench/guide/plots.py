"""The figure of a search for thresholds: quality, held-out loss and firing rate against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.guide.scores import ScoredThresholds
from bench.guide.search import Findings
from bench.look.plots import figure_file, palette
from sddpm.guidance import mean_threshold

MARKS = {"trained": "o", "grid": "o", "loss": "s", "gradient": "D"}


def plot_guidance(findings: Findings, distance: str, path: Path) -> None:
    """Quality, held-out loss and firing rate against the threshold, one plot above the other. A
    setting with one threshold for each layer is drawn at their mean."""
    colours = dict(zip(MARKS, [".2", *palette()], strict=False))
    labels = {"trained": "trained", "grid": "grid", "loss": "least held-out loss",
              "gradient": "one a layer (mean, range)"}  # fmt: skip
    measured = any(row.loss_difference is not None for row in findings.rows)
    panels = 3 if measured else 2
    again = [row for row in findings.confirmations if row.method != "trained"]
    everywhere = [_where(row) for row in findings.rows]
    aside = 0.008 * (max(everywhere) - min(everywhere))
    with figure_file(path, 1.5 * panels + 0.6, panels, sharex=True) as (figure, axes):
        top, rates = axes[0, 0], axes[-1, 0]
        for method, mark in MARKS.items():
            rows = [row for row in findings.rows if row.method == method]
            if not rows:
                continue
            style: dict[str, Any] = dict(
                fmt=mark, color=colours[method], markersize=5, capsize=2, linewidth=1,
                zorder=2 if method == "grid" else 3,
            )  # fmt: skip
            if method == "loss":  # stands on a grid point, which must stay visible
                style |= {"markerfacecolor": "none", "markersize": 9}
            x, spread = [_where(row) for row in rows], _spread(rows)
            top.errorbar(
                x,
                [row.difference for row in rows],
                yerr=_whiskers(rows),
                label=labels[method],
                **style,
            )
            rates.errorbar(x, [row.firing_rate for row in rows], xerr=spread, **style)
            if measured and all(row.loss_difference is not None for row in rows):
                axes[1, 0].errorbar(
                    x,
                    [1e3 * (row.loss_difference or 0.0) for row in rows],
                    yerr=[1.96e3 * (row.loss_error or 0.0) for row in rows],
                    **style,
                )
        if again:
            top.errorbar(
                [_where(row) + aside for row in again], [row.difference for row in again],
                yerr=_whiskers(again), fmt="x", color=palette()[3], capsize=2, linewidth=1,
                label="again, on other noise", zorder=4,
            )  # fmt: skip
        for ax in axes[:, 0]:
            ax.axvline(_where(findings.rows[0]), color=".75", linewidth=1, zorder=1)
        for ax in axes[: panels - 1, 0]:
            ax.axhline(0, color=".5", linestyle="--", linewidth=1, zorder=1)
        top.set_ylabel(f"{distance}\n− trained")
        if measured:
            axes[1, 0].set_ylabel("held-out loss\n− trained (× 10⁻³)")
        rates.set_ylabel("firing rate (spikes\nper neuron and step)")
        rates.set_xlabel("firing threshold while sampling (vertical bars: 95% intervals)")
        figure.legend(frameon=False, loc="outside upper center", ncols=3)


def _where(row: ScoredThresholds) -> float:
    return mean_threshold(row.thresholds)


def _spread(rows: Sequence[ScoredThresholds]) -> NDArray[np.float64] | None:
    """Distances from the layers' mean threshold to the lowest and to the highest."""
    if not any(isinstance(row.thresholds, Mapping) for row in rows):
        return None
    values = [
        list(r.thresholds.values()) if isinstance(r.thresholds, Mapping) else [r.thresholds]
        for r in rows
    ]
    return np.array([[np.mean(v) - min(v), max(v) - np.mean(v)] for v in values]).T


def _whiskers(rows: Sequence[ScoredThresholds]) -> NDArray[np.float64] | None:
    if any(row.low is None or row.high is None for row in rows):
        return None
    return np.array(
        [[r.difference - (r.low or 0.0), (r.high or 0.0) - r.difference] for r in rows]
    ).T
