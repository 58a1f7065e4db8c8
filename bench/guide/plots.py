"""The figures of a search: quality, held-out loss and firing rate against the threshold; quality
and the ratios of pixels against the gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.guide.findings import Findings
from bench.guide.scores import PIXELS, ScoredSetting
from bench.look.plots import figure_file, palette
from bench.quality.metrics import METRICS
from sddpm.guidance import mean_threshold

MARKS = {"trained": "o", "grid": "o", "loss": "s", "gradient": "D"}
GAIN_MARKS = {"trained": "o", "grid": "o", "match": "s", "both": "^"}


def plot_guidance(findings: Findings, distance: str, path: Path) -> None:
    """Quality, held-out loss and firing rate against the threshold, one plot above the other. A
    setting with one threshold for each layer is drawn at their mean. Settings with a gain are not
    drawn."""
    shown = [row for row in findings.rows if row.gain == 1]
    colours = dict(zip(MARKS, [".2", *palette()], strict=False))
    labels = {"trained": "trained", "grid": "grid", "loss": "least held-out loss",
              "gradient": "one a layer (mean, range)"}  # fmt: skip
    measured = any(row.loss_difference is not None for row in shown)
    rated = all(row.firing_rate is not None for row in shown)
    panels = 1 + measured + rated
    again = [r for r in findings.confirmations if r.method != "trained" and r.gain == 1]
    everywhere = [_where(row) for row in shown]
    aside = 0.008 * (max(everywhere) - min(everywhere))
    with figure_file(path, 1.5 * panels + 0.6, panels, sharex=True) as (figure, axes):
        top, rates = axes[0, 0], axes[-1, 0]
        for method, mark in MARKS.items():
            rows = [row for row in shown if row.method == method]
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
            if rated:
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
        for ax in axes[: 1 + measured, 0]:
            ax.axhline(0, color=".5", linestyle="--", linewidth=1, zorder=1)
        top.set_ylabel(f"{distance}\n− trained")
        if measured:
            axes[1, 0].set_ylabel("held-out loss\n− trained (× 10⁻³)")
        if rated:
            rates.set_ylabel("firing rate (spikes\nper neuron and step)")
        rates.set_xlabel("firing threshold while sampling (vertical bars: 95% intervals)")
        figure.legend(frameon=False, loc="outside upper center", ncols=3)


def plot_gains(findings: Findings, distance: str, path: Path) -> None:
    """Quality and the three ratios of pixels against the gain; the band is the data's, within a
    fifth, beyond which reports mark a row."""
    colours = dict(zip(GAIN_MARKS, [".2", *palette()], strict=False))
    labels = {"trained": "trained", "grid": "grid", "match": "matched pixels",
              "both": "best threshold and gain"}  # fmt: skip
    found = [row for row in findings.rows if row.method in GAIN_MARKS]
    trained = findings.trained
    alone = [row for row in found if row.thresholds == trained.thresholds]
    shown = [row for row in found if row is trained or row.gain != 1]
    again = [r for r in findings.confirmations if r.gain != 1]
    with figure_file(path, 3.8, 2, sharex=True) as (figure, axes):
        top, ratios = axes[0, 0], axes[1, 0]
        for method, mark in GAIN_MARKS.items():
            rows = [row for row in shown if row.method == method]
            if rows:
                hollow = {"markerfacecolor": "none", "markersize": 9} if method == "match" else {}
                style = {"color": colours[method], "markersize": 5, **hollow}
                _points(top, rows, mark, label=labels[method], **style)
        if again:
            _points(top, again, "x", color=palette()[3], label="again, on other noise")
        top.axhline(0, color=".5", linestyle="--", linewidth=1, zorder=1)
        curve = sorted(alone, key=lambda row: row.gain)
        for name, colour in zip(PIXELS, palette()[4:], strict=False):
            known = [row for row in curve if getattr(row, name) is not None]
            heights = [getattr(row, name) for row in known]
            ratios.plot([row.gain for row in known], heights, "o-", color=colour, markersize=4,
                        linewidth=1, label=name)  # fmt: skip
        limit = METRICS["contrast"].mark_beyond or 0.0
        ratios.axhspan(1 - limit, 1 + limit, color=".93", zorder=0)
        ratios.axhline(1, color=".5", linestyle="--", linewidth=1, zorder=1)
        top.set_ylabel(f"{distance}\n− trained")
        ratios.set_ylabel("ratio to the\ntraining images")
        ratios.set_xlabel("gain of the output while sampling (vertical bars: 95% intervals)")
        ratios.legend(frameon=False, ncols=3)
        figure.legend(*top.get_legend_handles_labels(), frameon=False,
                      loc="outside upper center", ncols=3)  # fmt: skip


def _points(axis: Any, rows: Sequence[ScoredSetting], mark: str, **style: Any) -> None:
    """Differences from the trained setting, with their intervals, against the gain."""
    axis.errorbar(
        [row.gain for row in rows], [row.difference for row in rows], yerr=_whiskers(rows),
        fmt=mark, capsize=2, linewidth=1, **style,
    )  # fmt: skip


def _where(row: ScoredSetting) -> float:
    assert row.thresholds is not None, "a network without thresholds has no plot against them"
    return mean_threshold(row.thresholds)


def _spread(rows: Sequence[ScoredSetting]) -> NDArray[np.float64] | None:
    """Distances from the layers' mean threshold to the lowest and to the highest."""
    if not any(isinstance(row.thresholds, Mapping) for row in rows):
        return None
    values = [
        list(r.thresholds.values()) if isinstance(r.thresholds, Mapping) else [_where(r)]
        for r in rows
    ]
    return np.array([[np.mean(v) - min(v), max(v) - np.mean(v)] for v in values]).T


def _whiskers(rows: Sequence[ScoredSetting]) -> NDArray[np.float64] | None:
    if any(row.low is None or row.high is None for row in rows):
        return None
    return np.array(
        [[r.difference - (r.low or 0.0), (r.high or 0.0) - r.difference] for r in rows]
    ).T
