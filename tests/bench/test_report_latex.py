"""LaTeX tables: long ones may be broken, headings are narrow, and LaTeX itself reads them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bench.report.latex import to_latex
from bench.report.tables import Column, Entry, Line, TableText


def has_latex() -> bool:
    """Whether pdflatex is here, and the packages that the tables ask for."""
    if shutil.which("pdflatex") is None or shutil.which("kpsewhich") is None:
        return False
    packages = ["kpsewhich", "booktabs.sty", "longtable.sty", "graphicx.sty"]
    return subprocess.run(packages, capture_output=True, check=False).returncode == 0


HEADINGS = ["System", "T", "FD (efflite0) ↓", "Strict mJ/evaluation", "Loss / parent's"]
HOSTILE = r"[4pt] 50% of $x_1$ & \{more\} ~ ^ # <b> | `q` × ±"


def table(lines: int) -> TableText:
    body = [
        Line([Entry(HOSTILE), Entry("4"), Entry(f"{100 + n}.25", best=n == 0), Entry("0.081"),
              Entry("1.017")]) for n in range(lines)
    ]  # fmt: skip
    columns = [Column(text, text != "System") for text in HEADINGS]
    return TableText("ranking-1", "All of it, 100%.", columns, body, notes=["made_by `this`"])


def test_a_table_of_a_page_floats_and_a_longer_one_is_broken() -> None:
    short, long = to_latex(table(40)), to_latex(table(41))
    assert r"\begin{table}" in short
    assert "longtable" not in short
    assert r"\begin{longtable}{lrrrr}" in long
    assert r"\begin{table}" not in long
    assert long.count("0.081") == 41
    assert re.search(r"\\toprule.*\\endhead", long, re.DOTALL)  # repeated on every page


def test_headings_are_broken_where_they_are_wider_than_figures() -> None:
    text = to_latex(table(1))
    assert r"\shortstack[r]{FD\\(efflite0) $\downarrow$}" in text
    assert r"\shortstack[r]{Strict mJ/\\evaluation}" in text
    assert text.count("shortstack") == 3


def test_a_cell_is_never_the_argument_of_the_rule_above_it() -> None:
    cells = ["[4pt] system", "* system", "[x]"]
    body = [Line([Entry(text)]) for text in cells]
    text = to_latex(TableText("t", "c", [Column("System")], body))
    rows = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
    assert [row.strip() for row in rows if row.strip()] == [
        r"{[}4pt] system \\",
        r"{*} system \\",
        r"{[}x] \\",
    ]


@pytest.mark.skipif(not has_latex(), reason="no LaTeX with booktabs and longtable here")
@pytest.mark.parametrize("lines", [3, 90])
def test_latex_sets_it(lines: int, tmp_path: Path) -> None:
    (tmp_path / "part.tex").write_text(to_latex(table(lines)), encoding="utf-8")
    (tmp_path / "paper.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs,graphicx,longtable}"
        r"\usepackage[T1]{fontenc}\begin{document}\input{part}\end{document}",
        encoding="utf-8",
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "paper.log").read_text(encoding="latin-1")
    assert "Overfull \\vbox" not in log
    assert "too large" not in log
    assert f"({2 if lines == 90 else 1} page" in log.replace("pages", "page")
