"""``sddpm-bench check-records``: every problem of a records file, a line each."""

from __future__ import annotations

from pathlib import Path

import click

from bench.commands import options
from bench.commands.terminal import BAD_INPUT
from bench.visible import visible


@click.command("check-records")
@click.argument("files", nargs=-1, required=True, type=options.PATH, metavar="FILE...")
@click.option("--outside", is_flag=True,
              help="Also require what a record that is sent to this project needs: submitted_by, "
              "and a commit without changed files.")  # fmt: skip
@click.pass_context
def check_records(ctx: click.Context, files: tuple[Path, ...], outside: bool) -> None:
    """Check records.jsonl files against the schema, and their figures against each other.

    The command prints one line for each problem: file, line, field, value, and what would be
    accepted. It checks types and ranges, that columns are named for their extractor, that energies
    follow from the counts, and that no cell occurs twice. Exit code 2: there are problems.

    \b
    Examples:
      sddpm-bench check-records runs/digits-small/records.jsonl
      sddpm-bench check-records --outside mine.jsonl
    """
    from bench.records.validate import find_problems

    found = False
    for path in files:
        count, problems = find_problems(path, outside)
        for problem in problems:
            click.echo(visible(str(problem)))
        lines = len({problem.line for problem in problems})
        verdict = f"{len(problems)} problems in {lines} lines" if problems else "no problem"
        click.echo(visible(f"{path}: {count} records, {verdict}"))
        found = found or bool(problems)
    if found:
        ctx.exit(BAD_INPUT)
