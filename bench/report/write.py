"""The work of the ``report`` command: read, sort, draw and write."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.report.agreement import agreement_tables
from bench.report.boards import Report
from bench.report.densities import Density, draw_densities, read_densities
from bench.report.figures import draw
from bench.report.html import to_html
from bench.report.latex import to_latex
from bench.report.markdown import TITLE, to_markdown
from bench.report.pivots import conversion_pivots, pivots
from bench.report.samples import Samples, draw_samples, read_samples
from bench.report.sorting import make_report
from bench.report.sources import read_published, read_sources
from bench.report.style import Drawing
from bench.report.tables import TableText, conversion_table, energies, literature, ranking
from sddpm.progress import progress_bar
from sddpm.replacing import atomic_write, sweep_folder

PAGE, MARKDOWN, FIGURES, TABLES = "index.html", "report.md", "figures", "tables"
DPI = 200


@dataclass(frozen=True)
class Outcome:
    """Files that were written."""

    page: Path
    files: list[Path]
    """Everything else."""
    rows: int
    failed: int
    missing: int


def run_report(
    paths: Sequence[Path],
    out: Path,
    *,
    published: Path | None = None,
    command: str = "",
    claims: TableText | None = None,
) -> Outcome:
    """Write the report on ``paths`` to ``out``, replacing the report that is there.

    Args:
        claims: claims of the literature that these records answer.

    Raises:
        FileNotFoundError, ValueError: a path that is no run, a broken file, or a folder that
            holds something else.
    """
    if out.exists() and not _replaceable(out):
        raise ValueError(f"--out {out}: is there already and no report; give a new folder")
    report = make_report(read_sources(paths), read_published(published), command)
    report = replace(report, claims=claims)
    drawn = sum(len(s.boards) + 1 for s in report.sections)
    with progress_bar("report", 2 * drawn) as bar:
        bar.update(note="figures")
        drawings, reasons = draw(report, bar.advance)
        samples: dict[str, Sequence[Samples | Density]] = {}
        pictures: dict[str, Drawing] = {}
        for board in report.boards:
            if board.manifold is None and (grids := read_samples(board)):
                samples[board.name], pictures[board.name] = grids, draw_samples(board, grids)
            elif board.manifold is not None and (maps := read_densities(board)):
                samples[board.name], pictures[board.name] = maps, draw_densities(board, maps)
        every = [*(d for group in drawings.values() for d in group), *pictures.values()]
        bar.update(total=drawn + len(every), note="files")
        files: dict[str, Iterable[bytes]] = {}
        svg: dict[str, str] = {}
        for drawing in every:
            for ending in ("svg", "pdf", "png"):
                content = render(drawing, ending)
                files[f"{FIGURES}/{drawing.name}.{ending}"] = [content]
                if ending == "svg":
                    svg[drawing.name] = content.decode()
            bar.advance()
    for table in _tables(report):
        files[f"{TABLES}/{table.name}.tex"] = [to_latex(table).encode()]
    files[MARKDOWN] = to_markdown(report, drawings, reasons, pictures)
    files[PAGE] = to_html(report, drawings, reasons, samples, pictures, svg)
    _write(out, files)
    rows = [row for board in report.boards for row in board.rows]
    return Outcome(
        page=out / PAGE,
        files=[out / name for name in files if name != PAGE],
        rows=len(rows),
        failed=sum(row.status == "failed" for row in rows),
        missing=sum(row.status == "missing" for row in rows),
    )


def render(drawing: Drawing, ending: str) -> bytes:
    """A drawing as the bytes of a file: the same ones whenever it is drawn again."""
    import matplotlib

    dates = {"svg": "Date", "pdf": "CreationDate"}
    # Text stays text: it can be searched, and edited in a drawing program.
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": drawing.name, "pdf.fonttype": 42}
    file = io.BytesIO()
    with matplotlib.rc_context(settings):
        metadata = {dates[ending]: None} if ending in dates else None
        drawing.figure.savefig(file, format=ending, dpi=DPI, metadata=metadata)
    return file.getvalue()


def _tables(report: Report) -> Iterator[TableText]:
    for board in report.boards:
        yield ranking(board)
        yield from pivots(board)
        if board.done:
            yield energies(board)
    for section in report.sections:
        yield from agreement_tables(section)
        yield from literature(section)
        if section.conversions:
            yield from conversion_pivots(section)
            yield conversion_table(section)
    if report.claims is not None:
        yield report.claims


def _replaceable(out: Path) -> bool:
    """Whether ``out`` is an empty folder, or holds an earlier report or one that was killed while
    it was written."""
    if not out.is_dir():
        return False
    sweep_folder(out)
    names = {path.name for path in out.iterdir()}
    if not names or names >= {PAGE, MARKDOWN}:
        return True
    if not {MARKDOWN} <= names <= {MARKDOWN, FIGURES, TABLES}:
        return False
    begins = f"{TITLE}\n".encode()
    with (out / MARKDOWN).open("rb") as file:
        return file.read(len(begins)) == begins


def _write(out: Path, files: Mapping[str, Iterable[bytes]]) -> None:
    """Write every file completely or not at all, then remove files of an earlier report that this
    one does not have.

    The Markdown file is written first: by it the report is known if this is stopped. The page,
    which shows the others, is written last.
    """
    order = sorted(files, key=lambda name: (name != MARKDOWN, name == PAGE))
    for name in order:
        with atomic_write(out / name) as temporary, temporary.open("wb") as file:
            file.writelines(files[name])
    for folder in (FIGURES, TABLES):
        if (out / folder).is_dir():
            sweep_folder(out / folder)
    for folder, endings in ((FIGURES, (".svg", ".pdf", ".png")), (TABLES, (".tex",))):
        for path in (out / folder).glob("*"):
            if path.suffix in endings and f"{folder}/{path.name}" not in files:
                path.unlink()
