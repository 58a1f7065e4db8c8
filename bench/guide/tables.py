"""The table of a search for thresholds and a gain: for a terminal, as Markdown and as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.guide.findings import Findings
from bench.guide.scores import PIXELS, ScoredSetting, best_of, may_win
from bench.quality.metrics import METRICS, OFF, shown
from bench.run.settled import describe_thresholds
from bench.tables.text import DASH, csv_table, markdown_table
from bench.visible import visible

BARRED = "not eligible"
"""Note on a row that may not win."""
NOTES = f"""\
Every row draws the same noise, so differences from the trained setting are paired; intervals
are 95 %, from a paired bootstrap over the images, and do not correct for the number of rows.
Contrast, saturation and noise: ratios to the training images, 1 is best; {OFF} is more than a
fifth away. The distance keeps falling while pictures saturate. A gain that it chose is therefore
{BARRED} if its contrast or saturation has the mark, unless that lies between the trained
setting's and 1.
Held-out loss: denoising loss on images that were not trained on, minus the trained threshold's,
with its standard error (x 1e-3). Evaluations: network evaluations of one image that finding the
setting costs; a backward pass counts as two. "match" is the gain with the least
(ln contrast)^2 + (ln noise)^2, interpolated between a few samples at each gain; "both" is the best
threshold with the best gain of the grids."""


def headings(distance: str, kid: str) -> list[str]:
    """Column names; ``distance`` and ``kid`` as the extractor calls them."""
    return [
        "found by", "threshold", "gain", distance, "difference", "95% interval", kid,
        *(METRICS[name].title.lower() for name in PIXELS),
        "firing rate", "held-out loss, 1e-3", "evaluations",
    ]  # fmt: skip


def cells(row: ScoredSetting, trained: ScoredSetting) -> list[str]:
    """A row for people."""
    interval = DASH if row.low is None else f"{row.low:+.2f} to {row.high:+.2f}"
    loss = DASH
    if row.loss_difference is not None:
        loss = f"{row.loss_difference * 1e3:+.3f} ± {(row.loss_error or 0.0) * 1e3:.3f}"
    reference = row.method == "trained"
    return [
        row.method if may_win(row, trained) else f"{row.method}, {BARRED}",
        DASH if row.thresholds is None else describe_thresholds(row.thresholds),
        f"{row.gain:g}",
        f"{row.distance:.2f}",
        DASH if reference else f"{row.difference:+.2f}",
        DASH if reference else interval,
        f"{row.kid:.4f}",
        *(_ratio(row, name) for name in PIXELS),
        DASH if row.firing_rate is None else f"{row.firing_rate:.4f}",
        loss,
        f"{row.evaluations:,}" if row.evaluations else DASH,
    ]


def _ratio(row: ScoredSetting, column: str) -> str:
    value = getattr(row, column)
    if value is None:
        return DASH
    return f"{shown(column, value)} {OFF}" if row.off(column) else shown(column, value)


def costs(findings: Findings) -> list[str]:
    """Results and costs of the ways of choosing, one line each, cheapest first."""
    rows, judged = findings.rows, {row.setting.key: row for row in findings.confirmations}
    trained = findings.trained
    ways = [
        (row.method, row, row.evaluations)
        for row in rows
        if row.method in ("loss", "gradient", "match", "both")
    ]
    grid = [row for row in rows if row.method == "grid"]
    for name, part in (
        ("grid of thresholds", [row for row in grid if row.gain == 1]),
        ("grid of gains", [row for row in grid if row.gain != 1]),
    ):
        if part:
            best = best_of([trained, *part])
            ways.append((name, best, sum(row.evaluations for row in [trained, *part])))
    lines = []
    for way, row, evaluations in sorted(ways, key=lambda item: item[2]):
        final = judged.get(row.setting.key, row)
        again = " on other noise" if final.confirmation else ""
        lines.append(
            f"{way}: {evaluations:,} evaluations, {row.setting.describe(row.gain != 1)}, "
            f"difference{again} {final.difference:+.2f}"
        )
    return lines


def to_markdown(findings: Findings, names: Sequence[str], facts: Mapping[str, Any]) -> str:
    """The report of a search.

    Args:
        names: :func:`headings`.
        facts: how it was made, by name.
    """

    def table(rows: Sequence[ScoredSetting]) -> str:
        return markdown_table(names, (cells(row, rows[0]) for row in rows))

    parts = [table(findings.rows), findings.sentence(names[3])]
    if findings.confirmations:
        parts += ["On other noise:", table(findings.confirmations)]
    ways = costs(findings)
    if len(ways) > 1:
        parts += ["\n".join(["What each way of choosing cost:", "", *(f"- {w}" for w in ways)])]
    parts += [NOTES, "\n".join(f"- {name}: {value}" for name, value in facts.items())]
    return visible("\n\n".join(["# Guidance of thresholds and gain", *parts]) + "\n", keep="\n")


def to_csv(findings: Findings) -> str:
    """Every row in full precision; thresholds of several layers as their range."""
    names = [
        "method", "threshold", "gain", "distance", "difference", "low", "high", "kid", *PIXELS,
        "firing_rate", "loss_difference", "loss_error", "evaluations", "confirmation",
    ]  # fmt: skip
    rows = [*findings.rows, *findings.confirmations]
    facts = (vars(row) | {"threshold": _threshold(row)} for row in rows)
    return csv_table(names, ([row[name] for name in names] for row in facts))


def _threshold(row: ScoredSetting) -> str:
    return "" if row.thresholds is None else describe_thresholds(row.thresholds)
