"""The work of the ``claims`` command, and the table that ``report`` shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.claims.answers import answer_claims
from bench.claims.evidence import Evidence
from bench.claims.page import report_table, to_page
from bench.claims.schema import Claim, read_claims
from bench.claims.verdict import RULES
from bench.report.sources import read_published
from bench.report.tables import TableText


def make_page(
    results: Path, claims: Path | None = None, published: Path | None = None
) -> tuple[str, dict[str, int]]:
    """The page on the records below ``results``, and the number of lines of each verdict.

    Args:
        claims: YAML file; None: the package's.
        published: CSV of the literature's figures; None: the package's.

    Raises:
        FileNotFoundError, ValueError: a folder, a file or a record that a claim needs is missing.
    """
    if not results.is_dir():
        raise FileNotFoundError(
            f"{results}: no such folder; expected one with a folder of records for each suite"
        )
    found = read_claims(claims)
    folders = {name: results / name for name in _folders(found) if (results / name).is_dir()}
    answers = answer_claims(found, Evidence(folders), read_published(published))
    counts = Counter(line.verdict for answer in answers for line in answer.lines)
    counts["not tested here"] += sum(not answer.lines for answer in answers)
    return to_page(answers), {name: counts[name] for name in RULES if counts[name]}


def make_report_table(paths: Sequence[Path]) -> TableText | None:
    """The claims that the records of a report answer; None where they answer none.

    Args:
        paths: sources of the report. A source is the folder of a claim if its path ends in the
            folder's name.
    """
    claims = read_claims()
    folders = {
        name: path
        for name in _folders(claims)
        for path in paths
        if path.is_dir() and path.resolve().as_posix().endswith(f"/{name}")
    }
    answers = answer_claims(claims, Evidence(folders), read_published(), partial=True)
    return report_table(answers)


def _folders(claims: Sequence[Claim]) -> list[str]:
    """Folders of records that claims name."""
    names: dict[str, None] = {}
    for claim in claims:
        for line in claim.comparisons:
            cells = [*([line.of] if line.of else []), *([line.against] if line.against else [])]
            for cell in (*cells, *line.curve):
                names[cell.folder] = None
            if line.table is not None:
                names[line.table.file.rpartition("/")[0]] = None
    return list(names)
