"""The command on two tables: check."""

from __future__ import annotations

import os
from pathlib import Path

import click

from bench.commands import options
from bench.commands.terminal import FAILURE, print_table
from bench.quality.metrics import METRICS
from bench.visible import visible

_DEFAULTS = "\n".join(
    f"  {metric.key:<11} {metric.tolerance!s:<6} {metric.direction}" for metric in METRICS.values()
)
_FLOORS = "\n".join(
    f"A percentage of {metric.title}, which may be 0 or below, never allows less than the "
    f"baseline's\n{metric.key}_std, or {metric.least_tolerance:g} where it has none."
    for metric in METRICS.values()
    if metric.least_tolerance is not None
)
HELP = f"""Compare two metric tables cell by cell and fail on a regression.

A cell is a data set, system, time steps, sampler, samples, seed and extractor. Exit code 0: no
figure got worse by more than its tolerance. 1: a figure did or is missing, or a cell is missing or
was scored against other images. 2: bad input. Better figures and new cells do not change the code.

\b
A tolerance is for a kind of metric (fd, energy) or a column (strict_mj_per_image). Its unit is
percent of the baseline, or the metric's unit.
{_FLOORS}
The defaults:
{_DEFAULTS}
  energy      5 %    lower is better
Compared only if --tolerance names them, lower is better: firing_rate, params_millions,
evaluations_per_image, seconds.

\b
Examples:
  sddpm-bench check --baseline results/demo/table.csv --candidate runs/demo/table.csv
  sddpm-bench check --baseline main.csv --candidate mine.csv --tolerance fid=5%,kid=0.002
  sddpm-bench check --baseline main.csv --candidate mine.csv --tolerance sample_seconds=20%
  sddpm-bench check --baseline main.csv --candidate runs/mine --format github
"""


@click.command(help=HELP)
@click.option("--baseline", required=True, type=options.PATH, metavar="TABLE",
              help="Table that must be kept: table.csv, records.jsonl or a run's "
              "folder.")  # fmt: skip
@click.option("--candidate", required=True, type=options.PATH, metavar="TABLE",
              help="Table that is judged, in the same forms.")  # fmt: skip
@click.option("--tolerance", "tolerances", multiple=True, callback=options.split_names,
              metavar="METRIC=AMOUNT[%],...",
              help="Largest change for the worse that is accepted, in place of the "
              "default.")  # fmt: skip
@click.option(
    "--all", "everything", is_flag=True, help="Print every figure, also those that did not change."
)
@click.option("--format", "kind", type=click.Choice(["text", "github", "json"]), default="text",
              help="Output format. github writes Markdown, also to $GITHUB_STEP_SUMMARY, and "
              "annotations.")  # fmt: skip
@click.pass_context
def check(
    ctx: click.Context,
    baseline: Path,
    candidate: Path,
    tolerances: tuple[str, ...],
    everything: bool,
    kind: str,
) -> None:
    """Compare two metric tables; :data:`HELP` is the help text."""
    from bench.check import output
    from bench.check.compare import compare, parse_tolerance
    from bench.check.rows import read_table

    allowed = dict(parse_tolerance(text) for text in tolerances)
    comparison = compare(read_table(baseline), read_table(candidate), allowed)
    if kind == "json":
        click.echo(output.to_json(comparison))
    elif kind == "github":
        summary = output.to_github(comparison, everything)
        click.echo(summary)
        for line in output.workflow_commands(comparison):
            click.echo(line)
        if step_summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            with Path(step_summary).open("a", encoding="utf-8") as file:
                file.write(summary + "\n")
    else:
        moved = output.rows(comparison, everything)
        if moved:
            print_table(output.HEADINGS, moved)
        for title, entries in (("missing", comparison.missing), ("note", comparison.notes)):
            for cell, reason in entries:
                click.echo(visible(f"{title}: {cell}: {reason}"))
        click.echo(output.sentence(comparison))
    if comparison.failed:
        ctx.exit(FAILURE)
