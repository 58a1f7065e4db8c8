"""Tables from records: Markdown for people, CSV for programs. Imports no torch.

A table is made from records and never edited. It holds one extractor's figures only; a cell
without a result, and a figure that a cell does not have, is a dash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from bench.energy.accountings import ACCOUNTINGS
from bench.energy.integer import quantised_mj, rival_bits
from bench.plan.sampling import solver
from bench.quality.metrics import columns_of, heading, ranking_column, shown, sort_key
from bench.quality.registry import POINTS
from bench.records.identity import SEEDS_SHARE
from bench.records.record import Record
from bench.tables.rows import data_noun, row_of, size_text
from bench.tables.text import DASH
from bench.visible import csv_text, visible


def select(records: Iterable[Record], extractor: str) -> list[Record]:
    """The records that a table of ``extractor`` shows."""
    return [record for record in records if record.extractor == extractor]


def frame(records: Sequence[Record], missing: Sequence[Mapping[str, Any]] = ()) -> pd.DataFrame:
    """One row a record, sorted by data set and then by Frechet distance, best first.

    Args:
        missing: cells without a record, as columns of the row that they would have.

    Raises:
        ValueError: the records were scored by more than one extractor.
    """
    extractors = sorted({r.extractor for r in records if r.extractor is not None})
    if len(extractors) > 1:
        raise ValueError(f"one table cannot mix extractors: {', '.join(extractors)}")
    bits = sorted({rival_bits(r.time_steps) for r in records if r.time_steps})
    rows = [{**row_of(record), **_rivals(record, bits)} for record in records]
    table = pd.DataFrame([*rows, *map(dict, missing)])
    if table.empty:
        return table
    order = ("dataset", ranking_column(map(str, table)), "title", "time_steps", "solver", "seed")
    keys = [key for key in order if key is not None and key in table]
    return table.sort_values(keys, na_position="last", kind="stable", ignore_index=True)


def to_csv(table: pd.DataFrame) -> str:
    """The table in full precision, a missing figure as a dash."""
    text = table.select_dtypes("object").columns
    shown = table.assign(**{str(name): table[name].map(_text) for name in text})
    return shown.to_csv(index=False, na_rep=DASH, lineterminator="\n")


def to_markdown(table: pd.DataFrame, records: Sequence[Record]) -> str:
    """The table rounded for reading, and below it how its numbers were made."""
    lines = [_body(table)] if not table.empty else ["No cells."]
    return visible("\n".join([*lines, "", *_footnote(records)]) + "\n", keep="\n")


def _text(value: Any) -> Any:
    return csv_text(value) if isinstance(value, str) else value


def display(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Headings and rounded cells of the table that people read: a row a cell, best mean first.

    Of several seeds a figure is their mean and, where they differ, ``±`` the standard deviation
    (n - 1 in the denominator). Seeds without a figure are not among those that are named, unless
    none has one.
    """
    headings, columns = [], []
    rows = _over_seeds(table)
    for name, text, format_ in _columns(table):
        headings.append(text)
        if name == "seed":
            columns.append([_seeds(row) for row in rows])
        else:
            columns.append([_mean_and_spread(row[name].dropna(), format_) for row in rows])
    return headings, [list(row) for row in zip(*columns, strict=True)]


def _over_seeds(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of every cell, a row a seed, sorted as :func:`frame` sorts, by mean distances."""
    facts = [name for name in SEEDS_SHARE if name in table]
    groups: list[pd.DataFrame] = []
    for _, group in table.groupby(facts, sort=False, dropna=False):
        # One seed twice: the same settings on another parent, which have no mean.
        same = group["seed"].is_unique
        groups += [group] if same else [group.loc[[label]] for label in group.index]
    ranking = ranking_column(map(str, table))

    def key(group: pd.DataFrame) -> tuple[str, float]:
        mean = float("nan") if ranking is None else sort_key(ranking, group[ranking].mean())
        return str(group["dataset"].iloc[0]), float("inf") if pd.isna(mean) else float(mean)

    return sorted(groups, key=key)


def _seeds(row: pd.DataFrame) -> str:
    done = row[row["status"] == "ok"] if "status" in row else row
    seeds = (row if done.empty else done)["seed"].dropna().sort_values()
    return ", ".join(map(_whole, seeds)) or DASH


def _mean_and_spread(values: pd.Series[Any], format_: Callable[[Any], str]) -> str:
    if values.empty:
        return DASH
    if values.nunique() == 1:
        return format_(values.iloc[0])
    return f"{format_(values.mean())} ± {format_(values.std())}"


def cell_name(record: Record) -> str:
    """A record's cell for people, as ``SDDPM, T=4, ddim 50, seed 1``."""
    steps = f"T={record.time_steps}" if record.time_steps else None
    parts = [record.title, steps, solver(vars(record)), f"seed {record.seed}"]
    return ", ".join(part for part in parts if part)


def _rivals(record: Record, bits: Sequence[int]) -> dict[str, float | None]:
    """Energy of an ANN's row at each number of bits that the table's spiking rows carry."""
    counts = record.counts_per_image
    if counts is None or counts.acs or not counts.macs:
        return dict.fromkeys(map(_rival_column, bits))
    return {_rival_column(b): quantised_mj(counts, b) for b in bits}


def _rival_column(bits: int) -> str:
    return f"activations_{bits:02}bit_mj_per_image"


def _columns(table: pd.DataFrame) -> list[tuple[str, str, Callable[[Any], str]]]:
    """Name, heading and format of the columns that people see, in their order."""
    chosen: list[tuple[str, str, Callable[[Any], str]]] = []
    # One extractor is all that a table has, and points have their own.
    points = "extractor" in table and (table["extractor"] == POINTS.key).any()
    one = "point" if points else "image"
    if "dataset" in table and table["dataset"].nunique() > 1:
        chosen.append(("dataset", "Data", str))
    chosen += [("title", "System", str), ("time_steps", "T", _whole), ("solver", "Sampler", str)]
    if _several_budgets(table):
        chosen.append(("train_steps", "Training steps", _thousands))
    if table["seed"].nunique() > 1:
        chosen.append(("seed", "Seeds", _whole))
    for column in columns_of(map(str, table)):
        chosen.append((column, heading(column), partial(shown, column)))
    chosen += [
        ("params_millions", "Params (M)", _rounded(3)),
        *(
            (f"{entry.key}_mj_per_{unit}", f"{entry.title} mJ/{short}", _significant)
            for entry in ACCOUNTINGS.values()
            for unit, short in (("evaluation", "eval"), ("image", one))
            if unit == "image" or entry.per_evaluation
        ),
        ("integer_mj_per_image", f"8-bit mJ/{one}", _significant),
        *(
            (column, f"{int(column[12:14])}-bit mJ/{one}", _significant)
            for column in sorted(map(str, table))
            if column.startswith("activations_")
        ),
        ("firing_rate", "Firing rate", _rounded(3)),
    ]
    return [column for column in chosen if column[0] in table]


def _several_budgets(table: pd.DataFrame) -> bool:
    """Whether rows of one system, T and sampler differ in their training steps."""
    if "train_steps" not in table:
        return False
    groups = table.groupby(["title", "time_steps", "solver"], dropna=False)
    return bool(groups["train_steps"].nunique().max() > 1)


def _whole(value: Any) -> str:
    return str(int(value))


def _thousands(value: Any) -> str:
    return f"{int(value):,}"


def _rounded(decimals: int) -> Callable[[Any], str]:
    return lambda value: f"{value:.{decimals}f}"


def _significant(value: Any) -> str:
    return f"{value:.3g}" if value else "0"


def _body(table: pd.DataFrame) -> str:
    from tabulate import tabulate  # type: ignore[import-untyped]

    headings, rows = display(table)
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    # As text: tabulate would otherwise read figures back as numbers and pad their decimals.
    return tabulate(rows, headings, tablefmt="github", disable_numparse=True)


def _footnote(records: Sequence[Record]) -> list[str]:
    done = [record for record in records if record.status == "ok"]
    lines = []
    if done:
        lines += [
            "- Data: "
            + _each(f"{r.dataset}, {size_text(r.image_size, r.manifold)}" for r in done)
            + "; "
            + _each(
                f"{r.samples:,} samples against {r.reference_images:,} {r.reference_split} "
                + data_noun(r.manifold)
                for r in done
            )
            + f"; seed {_each(str(r.seed) for r in done)}.",
            "- Budget: "
            + _each(
                f"{r.train_steps:,} steps of {r.batch_size} {data_noun(r.manifold)} ({r.precision})"
                for r in done
            )
            + f"; suite {_each(r.suite for r in done)}, preset {_each(r.preset for r in done)}.",
            *_references(done),
            f"- Extractor: {_each(str(r.extractor) for r in done)}. Energy table: "
            f"{_each(str(r.energy_table) for r in done)}, over "
            f"{_each(str(r.energy_images) for r in done)} "
            f"{_each(data_noun(r.manifold) for r in done)}.",
            f"- Machine: {_each(f'{r.device}, {r.cores} cores' for r in done)}.",
            "- Versions: "
            + _each(
                ", ".join(f"{name} {number}" for name, number in r.versions.items()) for r in done
            )
            + f"; commit {_each(r.git_commit for r in done)}.",
            f"- Command: {_each(f'`{r.command}`' for r in done)}",
        ]
    lines += [f"- {note}" for note in unpriced(done)]
    for record in records:
        if record.status == "failed":
            lines.append(f"- Failed: {cell_name(record)}: {record.reason}")
    return lines


def unpriced(records: Iterable[Record]) -> list[str]:
    """A sentence on the records whose counts do not suffice for the published energy."""
    titles = dict.fromkeys(
        record.title
        for record in records
        if (counts := record.counts_per_image) and counts.dense_macs_spikes and counts.sops is None
    )
    if not titles:
        return []
    return [
        f"No published energy of {', '.join(titles)}: the first convolution reads spikes, and "
        "these records, of an older version, do not count the synaptic operations that it causes."
    ]


def _references(done: Sequence[Record]) -> list[str]:
    """A warning for every data set whose rows were scored against different images."""
    lines = []
    for dataset in dict.fromkeys(r.dataset for r in done):
        hashes = {r.reference_hash: cell_name(r) for r in done if r.dataset == dataset}
        if len(hashes) > 1:
            named = _each(f"{key or 'not known'} ({cell})" for key, cell in hashes.items())
            lines.append(
                f"- Not comparable: {dataset} has references of more than one hash: {named}."
            )
    return lines


def _each(values: Iterable[str]) -> str:
    """Distinct values in order of first appearance."""
    return " / ".join(dict.fromkeys(values))
