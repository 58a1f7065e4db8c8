"""A comparison of two tables as people and programs read it: text, GitHub's Markdown, JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from bench.check.compare import Change, Comparison, Verdict
from bench.tables.text import DASH

HEADINGS = ["cell", "metric", "baseline", "candidate", "change", "allowed", "verdict"]


def rows(comparison: Comparison, everything: bool = False) -> list[list[str]]:
    """Figures that changed by more than their tolerance, worst first; or every figure, in order."""
    if everything:
        return [_row(change) for change in comparison.changes]
    order: tuple[Verdict, ...] = ("regressed", "lost", "improved", "new")
    return [_row(change) for verdict in order for change in comparison.having(verdict)]


def sentence(comparison: Comparison) -> str:
    """The outcome in one line."""
    figures = len(comparison.changes)
    counts = [f"{len(comparison.having('regressed'))} regressed"]
    if lost := comparison.having("lost"):
        counts.append(f"{len(lost)} lost")
    if comparison.missing:
        counts.append(f"{len(comparison.missing)} of {comparison.cells} cells missing")
    counts.append(f"{len(comparison.having('improved'))} improved")
    counts.append(f"{len(comparison.having('same'))} within tolerance")
    outcome = "REGRESSION" if comparison.failed else "no regression"
    cells = f"{comparison.cells} cell" + ("" if comparison.cells == 1 else "s")
    return f"{outcome}: {figures} figures of {cells}: {', '.join(counts)}"


def to_json(comparison: Comparison) -> str:
    """The whole comparison; a figure that is no number is null."""
    content = {
        "failed": comparison.failed,
        "summary": sentence(comparison),
        "cells": comparison.cells,
        "changes": [_plain(change) for change in comparison.changes],
        "missing": [{"cell": cell, "reason": reason} for cell, reason in comparison.missing],
        "notes": [{"cell": cell, "reason": reason} for cell, reason in comparison.notes],
    }
    return json.dumps(content, indent=2, allow_nan=False)


def to_github(comparison: Comparison, everything: bool = False) -> str:
    """A summary in GitHub's Markdown, for a pull request or a job."""
    mark = ":x:" if comparison.failed else ":white_check_mark:"
    lines = [f"### {mark} sddpm-bench check", "", sentence(comparison) + "."]
    moved = rows(comparison, everything)
    if moved:
        lines += ["", _line(HEADINGS), _line(["---"] * 2 + ["---:"] * 4 + ["---"])]
        lines += [_line(row) for row in moved]
    for title, entries in (("Missing", comparison.missing), ("Notes", comparison.notes)):
        if entries:
            listed = [f"- {_escape(cell)}: {_escape(reason)}" for cell, reason in entries]
            lines += ["", f"**{title}**", "", *listed]
    return "\n".join(lines) + "\n"


def workflow_commands(comparison: Comparison) -> list[str]:
    """GitHub's workflow commands: an error for each failure, a notice for each improvement."""
    lines = []
    for change in comparison.having("regressed", "lost", "improved"):
        level = "notice" if change.verdict == "improved" else "error"
        _, metric, before, after, moved, allowed, verdict = _row(change)
        text = f"{change.cell}: {before} -> {after} ({moved}, allowed {allowed})"
        lines.append(_command(level, f"{metric} {verdict}", text))
    for cell, reason in comparison.missing:
        lines.append(_command("error", "missing cell", f"{cell}: {reason}"))
    return lines


def _row(change: Change) -> list[str]:
    before, after = change.baseline, change.candidate
    return [
        change.cell, change.metric, _figure(before), _figure(after), _moved(before, after),
        str(change.tolerance), change.verdict,
    ]  # fmt: skip


def _figure(value: float | None) -> str:
    return DASH if value is None else f"{value:.5g}"


def _moved(before: float | None, after: float | None) -> str:
    if before is None or after is None or not math.isfinite(after - before):
        return DASH
    # Of a figure at 0 there is no percentage.
    return f"{100 * (after - before) / abs(before):+.2f} %" if before else f"{after - before:+.4g}"


def _plain(change: Change) -> dict[str, Any]:
    facts = asdict(change) | {"tolerance": str(change.tolerance)}
    for name in ("baseline", "candidate"):
        if facts[name] is not None and not math.isfinite(facts[name]):
            facts[name] = None
    return facts


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(_escape(cell) for cell in cells) + " |"


def _escape(text: str) -> str:
    """Text that cannot leave its cell, or become markup."""
    for mark in "\\`*_<>[]|":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")


def _command(level: str, title: str, message: str) -> str:
    message = message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    for mark, code in (("%", "%25"), (":", "%3A"), (",", "%2C"), ("\n", "%0A")):
        title = title.replace(mark, code)
    return f"::{level} title={title}::{message}"
