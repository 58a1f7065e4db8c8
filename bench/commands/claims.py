"""``sddpm-bench claims``: the literature's claims against the records."""

from __future__ import annotations

from pathlib import Path

import click

from bench.commands import options


@click.command()
@click.argument("results", default=Path("results"), type=options.PATH, metavar="[RESULTS]")
@click.option("--out", required=True, type=options.PATH, metavar="FILE.md",
              help="Markdown page to write.")  # fmt: skip
@click.option("--claims", "file", type=options.PATH, metavar="FILE.yaml",
              help="File with claims. [default: the package's]")  # fmt: skip
@click.option("--published", type=options.PATH, metavar="FILE.csv",
              help="File with figures of the literature. [default: the package's]")  # fmt: skip
def claims(results: Path, out: Path, file: Path | None, published: Path | None) -> None:
    """Compare the claims of the literature with the records in RESULTS.

    RESULTS holds a folder of records for each suite, as this project's results/ does; the
    default is results. For each claim the page has what was claimed, what the records say with
    mean and spread over seeds, the verdict, and the commands that made the records. A rule
    finds the verdict: holds, holds in direction, not seen, contradicted, or not tested here.
    The same records give the same page.

    \b
    Examples:
      sddpm-bench claims results --out results/claims.md
      sddpm-bench claims runs --claims mine.yaml --out claims.md
    """
    from bench.claims.make import make_page
    from bench.files import check_file, write_text

    check_file("--out", out)
    page, counts = make_page(results, file, published)
    write_text(out, page)
    for verdict, count in counts.items():
        click.echo(f"{verdict}: {count}")
    click.echo(f"page: {out}")
