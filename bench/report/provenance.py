"""Origin of each number of a report: the facts in its records, as text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from bench.records.record import OperationCounts, Record
from bench.report.boards import Row
from bench.tables.rows import data_noun, one_noun, size_text


def provenance(row: Row) -> list[tuple[str, str]]:
    """Origin of the figures of ``row``: name of each fact, and its value at every seed."""

    def each(read: Callable[[Record], str]) -> str:
        return _list(read(record) for record in row.records)

    facts: list[tuple[str, Callable[[Record], str]]] = [
        ("Sent by", lambda r: r.submitted_by or ""),
        ("Command", lambda r: r.command),
        ("Suite, preset", lambda r: f"{r.suite}, {r.preset}"),
        ("Data", lambda r: f"{r.dataset}, {size_text(r.image_size, r.manifold, '×')}"),
        ("Training", lambda r: f"{r.train_steps:,} steps of {r.batch_size} "
         f"{data_noun(r.manifold)}, {r.precision}"),
        ("Seed", lambda r: str(r.seed)),
        ("Samples", lambda r: f"{r.samples:,}"),
        ("References", lambda r: "" if r.reference_images is None else
         f"{r.reference_images:,} {r.reference_split} {data_noun(r.manifold)}, "
         f"hash {r.reference_hash}"),
        ("Extractor", lambda r: r.extractor or ""),
        ("Metrics", lambda r: ", ".join(f"{k} {v:.6g}" for k, v in r.metrics.items())),
        ("Network run", lambda r: r.engine or ""),
        ("Firing thresholds", lambda r: "" if r.thresholds is None else json.dumps(r.thresholds)),
        ("Output's gain", lambda r: "" if r.gain is None else f"{r.guided_gain or r.gain}"),
        ("Operations", lambda r: _operations(r.counts_per_image, one_noun(r.manifold))),
        ("Energy", lambda r: "" if r.energy_table is None else
         f"{r.energy_table}, metered over {r.energy_images} {data_noun(r.manifold)}"),
        ("Time", lambda r: ", ".join(f"{k} {v:,.1f} s" for k, v in r.wall_seconds.items())),
        ("Machine", lambda r: f"{r.device}, {r.cores} cores"),
        ("Peak memory", lambda r: "" if r.peak_memory_mib is None else
         f"{r.peak_memory_mib:,.0f} MiB"),
        ("Versions", lambda r: ", ".join(f"{k} {v}" for k, v in r.versions.items())),
        ("Commit", lambda r: r.git_commit),
        ("Configuration", lambda r: json.dumps(r.config)),
        ("Cell's hash", lambda r: r.config_hash),
        ("Training's hash", lambda r: r.training_hash),
    ]  # fmt: skip
    shown = [("Reason", row.reason)] if row.reason else []
    found = [(name, each(read)) for name, read in facts]
    return [(name, text) for name, text in [*shown, *found] if text]


def _operations(counts: OperationCounts | None, noun: str) -> str:
    if counts is None:
        return ""
    article = "an" if noun[0] in "aeiou" else "a"
    sops = "" if counts.sops is None else f", {counts.sops:.4g} SOPs"
    return f"{counts.macs:.4g} MACs, {counts.acs:.4g} accumulates{sops} {article} {noun}"


def _list(values: Iterable[object]) -> str:
    """Distinct values in order of first appearance."""
    return " / ".join(dict.fromkeys(text for text in map(str, values) if text))
