"""The table of a search for thresholds: for a terminal, as Markdown and as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.guide.scores import ScoredThresholds
from bench.guide.search import Findings
from bench.run.settled import describe_thresholds
from bench.tables.text import DASH, csv_table, markdown_table
from bench.visible import visible

NOTES = """\
Every row draws the same noise, so differences from the trained threshold are paired; intervals
are 95 %, from a paired bootstrap over the images, and do not correct for the number of rows.
Held-out loss: denoising loss on images that were not trained on, minus the trained threshold's,
with its standard error (x 1e-3). Evaluations: network evaluations of one image that finding the
setting costs; a backward pass counts as two."""


def headings(distance: str, kid: str) -> list[str]:
    """Column names; ``distance`` and ``kid`` as the extractor calls them."""
    return [
        "found by", "threshold", distance, "difference", "95% interval", kid,
        "firing rate", "held-out loss, 1e-3", "evaluations",
    ]  # fmt: skip


def cells(row: ScoredThresholds) -> list[str]:
    """A row for people."""
    interval = DASH if row.low is None else f"{row.low:+.2f} to {row.high:+.2f}"
    loss = DASH
    if row.loss_difference is not None:
        loss = f"{row.loss_difference * 1e3:+.3f} ± {(row.loss_error or 0.0) * 1e3:.3f}"
    reference = row.method == "trained"
    return [
        row.method,
        describe_thresholds(row.thresholds),
        f"{row.distance:.2f}",
        DASH if reference else f"{row.difference:+.2f}",
        DASH if reference else interval,
        f"{row.kid:.4f}",
        f"{row.firing_rate:.4f}",
        DASH if reference else loss,
        f"{row.evaluations:,}" if row.evaluations else DASH,
    ]


def costs(findings: Findings) -> list[str]:
    """Results and costs of the ways of choosing, one line each, cheapest first."""
    rows, judged = findings.rows, {repr(row.thresholds): row for row in findings.confirmations}
    drawn = [row for row in rows if row.method in ("trained", "grid")]
    ways = [
        (row.method, row, row.evaluations) for row in rows if row.method in ("loss", "gradient")
    ]
    if len(drawn) > 1:
        best = min(drawn, key=lambda row: row.distance)
        ways.append(("grid", best, sum(row.evaluations for row in drawn)))
    lines = []
    for way, row, evaluations in sorted(ways, key=lambda item: item[2]):
        final = judged.get(repr(row.thresholds), row)
        again = " on other noise" if final.confirmation else ""
        lines.append(
            f"{way}: {evaluations:,} evaluations, threshold {describe_thresholds(row.thresholds)}, "
            f"difference{again} {final.difference:+.2f}"
        )
    return lines


def to_markdown(findings: Findings, names: Sequence[str], facts: Mapping[str, Any]) -> str:
    """The report of a search.

    Args:
        names: :func:`headings`.
        facts: how it was made, by name.
    """
    parts = [markdown_table(names, map(cells, findings.rows)), findings.sentence(names[2])]
    if findings.confirmations:
        parts += ["On other noise:", markdown_table(names, map(cells, findings.confirmations))]
    ways = costs(findings)
    if len(ways) > 1:
        parts += ["\n".join(["What each way of choosing cost:", "", *(f"- {w}" for w in ways)])]
    parts += [NOTES, "\n".join(f"- {name}: {value}" for name, value in facts.items())]
    return visible("\n\n".join(["# Threshold guidance", *parts]) + "\n", keep="\n")


def to_csv(findings: Findings) -> str:
    """Every row in full precision; thresholds of several layers as their range."""
    names = [
        "method", "threshold", "distance", "difference", "low", "high", "kid", "firing_rate",
        "loss_difference", "loss_error", "evaluations", "confirmation",
    ]  # fmt: skip
    rows = [*findings.rows, *findings.confirmations]
    facts = (vars(row) | {"threshold": describe_thresholds(row.thresholds)} for row in rows)
    return csv_table(names, ([row[name] for name in names] for row in facts))
