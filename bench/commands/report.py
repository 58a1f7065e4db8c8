"""The command on finished runs: report. Everything heavy is imported inside it."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from bench.commands import options


@click.command()
@click.argument("runs", nargs=-1, required=True, type=options.PATH)
@click.option("--out", required=True, type=options.PATH, metavar="DIR",
              help="Folder for index.html, report.md, figures/ and tables/.")  # fmt: skip
@click.option("--published", type=options.PATH, metavar="FILE.csv",
              help="File with figures of the literature. [default: the package's]")  # fmt: skip
def report(runs: tuple[Path, ...], out: Path, published: Path | None) -> None:
    """Make a report of RUNS: run folders, folders that convert wrote, or records.jsonl files.

    The report is one HTML page that needs no network, the same page as Markdown, every table in
    LaTeX, and every figure as PDF, SVG and PNG. It shows rankings with mean and spread over seeds,
    quality against energy, T and sampler steps, conversion curves, firing rates, samples, published
    figures, and the origin of each figure. Only comparable rows share a ranking. Folders that are
    named as in this project's results/ also answer the claims of the literature.

    \b
    Examples:
      sddpm-bench report runs/digits-small --out report
      sddpm-bench report runs/cifar10-medium runs/cifar10-seeds converted --out report
      sddpm-bench report results/records/*.jsonl --out report
    """
    from bench.claims.make import make_report_table
    from bench.report.write import run_report

    words = ["sddpm-bench", "report", *runs, "--out", out]
    words += ["--published", published] if published else []
    command = shlex.join(map(str, words))
    claims = make_report_table(runs)
    made = run_report(runs, out, published=published, command=command, claims=claims)
    left = [f"{made.failed} failed"] * bool(made.failed)
    left += [f"{made.missing} missing"] * bool(made.missing)
    click.echo(f"rows: {made.rows}" + (f" ({', '.join(left)})" if left else ""))
    click.echo(f"files: {len(made.files)} beside the page")
    click.echo(f"page: {made.page}")
