"""Output in a terminal: tables, lists, and an error as one line.

Imports no torch: ``sddpm-bench --help`` and most lists must not wait for it.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from bench.visible import shortened, visible

if TYPE_CHECKING:
    from bench.plan.plan import Plan
    from bench.run.estimate import Estimate
    from bench.run.runner import RunResult

BAD_INPUT, FAILURE, INTERRUPTED = 2, 1, 130
"""Exit codes."""
LOG_COLUMNS = 320
"""Width without a terminal: lines in a log or a pipe are not wrapped."""


def say(line: str) -> None:
    """Print a progress message as one line on standard error."""
    print(visible(line), file=sys.stderr, flush=True)


def print_configuration(plan: Plan) -> None:
    """The resolved configuration, as YAML."""
    import yaml

    print(yaml.safe_dump(plan.facts(), sort_keys=False, default_flow_style=None, width=100))


def print_summary(plan: Plan) -> None:
    """Five lines that describe a run before it starts; its folder keeps every setting."""
    from bench.plan.sampling import solver
    from bench.run.runner import RUN

    suite, preset, data, cells = plan.suite, plan.preset, plan.data, plan.cells
    trainings = plan.trainings
    samplings = [cell.sampling for cell in cells if cell.sampling]
    solvers = [solver({**sampling, "sampler_steps": sampling["steps"]}) for sampling in samplings]
    axes: dict[str, Sequence[object]] = {
        "systems": [cell.system for cell in cells],
        "T": sorted({cell.time_steps for cell in cells if cell.time_steps}),
        "samplers": solvers,
        "seeds": [cell.seed for cell in cells],
    }
    swept = (
        f"{name} {', '.join(map(str, dict.fromkeys(values)))}"
        for name, values in axes.items()
        if values
    )
    pictures = f", {data.train_images:,} training {data.kind}" if data.train_images else ""
    size = f"{data.channels} x {data.image_size} x {data.image_size}"
    if data.manifold is not None:
        size = f"{data.manifold} of size {data.image_size}"
    print(f"suite: {suite.name}, preset {plan.options.preset}: {suite.title}")
    print(f"data: {data.label}, {size}{pictures}")
    print(f"cells: {len(cells)}: {'; '.join(swept)}")
    print(
        f"work: {len(trainings)} trainings of {_range(t.steps for t in trainings)} steps, "
        f"{_range(t.batch_size for t in trainings)} {data.kind} each; {preset.samples:,} samples "
        f"a cell against {preset.references:,} {suite.reference_split} {data.kind}"
    )
    print(f"folder: {plan.root} (every setting: {RUN})")


def _range(numbers: Iterable[int]) -> str:
    """The only number, or the least and the greatest."""
    least, *rest = sorted(set(numbers)) or [0]
    return f"{least:,} to {rest[-1]:,}" if rest else f"{least:,}"


def print_states(plan: Plan) -> None:
    """Each cell with the state of its stages."""
    from bench.run.states import stage_states

    rows = stage_states(plan)
    print_table(list(rows[0]), [list(row.values()) for row in rows])
    print(f"folder: {plan.root}")


def print_estimate(estimate: Estimate) -> None:
    """Each cell with its state and remaining work, and the sum."""
    headings = [*estimate.costs[0].states, "MAC/image", "AC/image", "train MAC", "train time",
                "sample MAC", "sample time"]  # fmt: skip
    rows = []
    for cost in estimate.costs:
        measured = [
            _quantity(cost.macs_per_image),
            _quantity(cost.acs_per_image),
            _quantity(cost.train_macs),
            _duration(cost.train_hours),
            _quantity(cost.sample_macs),
            _duration(cost.sample_hours),
        ]
        rows.append([*cost.states.values(), *(["-"] * 6 if cost.reason else measured)])
    print_table(headings, rows)
    for cell, reason in estimate.failed.items():
        print(f"not measured: {cell}: {reason}")
    print(
        f"left to do: {_duration(estimate.hours)} on {estimate.device} (training "
        f"{_duration(sum(cost.train_hours for cost in estimate.costs))}, sampling "
        f"{_duration(sum(cost.sample_hours for cost in estimate.costs))}), "
        f"{_quantity(estimate.macs)} dense MAC; measured in {estimate.measured_seconds:.0f} s"
    )
    print(
        "A training that cells share, its parents before it, is in the first one's row. Training "
        "counts three\nforward passes of the generator; accumulates are of a network that is "
        "hardly trained yet, unless it is there\nalready. Scoring and reading the data set are "
        "not in it."
    )


def _quantity(value: float | None) -> str:
    """A number of operations with its SI prefix."""
    if value is None:
        return "-"
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g}"


def _duration(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.1f} s"


def print_result(result: RunResult) -> None:
    """The table, and where everything is."""
    from bench.run.runner import TABLE_MD
    from bench.tables.table import cell_name, display

    print_table(*display(result.table), repeat=3)
    for record in result.failed:
        say(f"failed: {cell_name(record)}: {record.reason}")
    for label, path in result.grids.items():
        print(visible(f"grid: {path}  ({label})"))
    print(f"table: {result.root / TABLE_MD}")
    print(f"folder: {result.root}")


def print_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], repeat: int | None = None
) -> None:
    """A table; columns of figures are aligned to the right.

    Text that is wider than the terminal is folded. With ``repeat``, the table is printed in
    parts instead, each with the first ``repeat`` columns: a folded figure cannot be read.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table

    headings = [visible(heading, keep="\n") for heading in headings]
    rows = [[visible(text, keep="\n") for text in row] for row in rows]
    console = Console(markup=False, emoji=False)  # a name in brackets is no style
    if not console.is_terminal:
        console.width = LOG_COLUMNS
    widths = [
        max(cell_len(text) for text in (*heading.split(), *(row[number] for row in rows)))
        for number, heading in enumerate(headings)
    ]
    parts = [list(range(len(widths)))]
    if repeat is not None:
        parts = _parts(widths, repeat, console.width)
    for part in parts:
        table = Table(box=box.SIMPLE_HEAD)
        for number in part:
            figures = number > 0 and all(_is_figure(row[number]) for row in rows)
            justify: Literal["left", "right"] = "right" if figures else "left"
            # Only a fixed width keeps Rich from laying a heading out in one line, at the cost of
            # the last columns' figures. Text may be folded where not even one figure fits.
            fixed = widths[number] if repeat is not None and figures else None
            most = widths[number] if repeat is not None and not figures else None
            table.add_column(
                headings[number], justify=justify, width=fixed, max_width=most, overflow="fold"
            )
        for row in rows:
            table.add_row(*(row[number] for number in part))
        console.print(table)


def _parts(widths: Sequence[int], repeat: int, limit: int) -> list[list[int]]:
    """Columns of each part of a table, so that no part is wider than ``limit``."""
    first = list(range(repeat))
    parts = [list(first)]
    for number in range(repeat, len(widths)):
        # Three blanks between two columns, two at either edge.
        needed = 1 + sum(widths[column] + 3 for column in [*parts[-1], number])
        if needed > limit and len(parts[-1]) > repeat:
            parts.append(list(first))
        parts[-1].append(number)
    return parts


def _is_figure(text: str) -> bool:
    return text == "-" or text.lstrip("-")[:1].isdigit()


def print_pairs(pairs: Mapping[str, Any]) -> None:
    """One name and value a line; None is a dash."""
    width = max(map(len, pairs))
    for name, value in pairs.items():
        shown = "-" if value is None else f"{value:.6g}" if isinstance(value, float) else value
        print(visible(f"{name:<{width}}  {shown}"))


def one_line(error: Exception) -> str:
    """An exception as one line, the file in front where it has one."""
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return visible(f"{place}{error.strerror}")
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    text = shortened(visible(" ".join(str(message).split())))
    return text if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {text}"


def exit_code(error: Exception) -> int:
    """2 where the input was at fault, 1 for anything else."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
        return FAILURE
    return BAD_INPUT if isinstance(error, ValueError | OSError | KeyError) else FAILURE
