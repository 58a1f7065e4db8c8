"""Tables of a report in LaTeX, with the rules of booktabs; one file a table, for ``\\input``."""

from __future__ import annotations

from bench.report.tables import TableText
from bench.visible import visible

_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}", "±": r"$\pm$", "×": r"$\times$", "↓": r"$\downarrow$",
    "↑": r"$\uparrow$", "→": r"$\rightarrow$", "†": r"$\dagger$", "≈": r"$\approx$",
    # After \\ or a rule they would be its star or its argument.
    "[": "{[}", "*": "{*}",
}  # fmt: skip
_PAGE = 40
"""Lines that fit on a page; a longer table is a ``longtable``, which may be broken."""
_HEADING = 10
"""Letters in a line of a heading: the figures below it are no wider."""


def escape(text: str) -> str:
    """``text`` as LaTeX prints it: no character of it is a command, none breaks a line."""
    return "".join(
        _ESCAPES.get(character, character) for character in visible(" ".join(text.split()))
    )


def to_latex(table: TableText) -> str:
    """A ``table`` environment, or a ``longtable``; the best figure of a column in bold.

    A table is shrunk to the width of the text only if it is wider.
    """
    return _long(table) if len(table.lines) > _PAGE else _float(table)


def _float(table: TableText) -> str:
    lines = [
        r"% Needs \usepackage{booktabs}, \usepackage{graphicx} and \usepackage[T1]{fontenc}.",
        r"\begin{table}",
        r"  \centering",
        f"  \\caption{{{escape(table.caption)}}}",
        f"  \\label{{tab:{table.name}}}",
        r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        f"  \\begin{{tabular}}{{{_letters(table)}}}",
        r"    \toprule",
        f"    {_headings(table)}",
        r"    \midrule",
        *_body(table),
        r"    \bottomrule",
        r"  \end{tabular}}",
        *(
            rf"  \par\smallskip{{\footnotesize {escape(note)}\par}}"
            for note in [*table.marks, *table.notes]
        ),
        r"\end{table}",
    ]
    return "\n".join([*lines, ""])


def _long(table: TableText) -> str:
    lines = [
        r"% Needs \usepackage{booktabs}, \usepackage{longtable} and \usepackage[T1]{fontenc}.",
        r"\begingroup\scriptsize\setlength{\tabcolsep}{3pt}",
        f"\\begin{{longtable}}{{{_letters(table)}}}",
        f"    \\caption{{{escape(table.caption)}}}\\label{{tab:{table.name}}}\\\\",
        r"    \toprule",
        f"    {_headings(table)}",
        r"    \midrule",
        r"    \endhead",
        r"    \bottomrule",
        r"    \endfoot",
        *_body(table),
        r"\end{longtable}",
        *(rf"\noindent {escape(note)}\par\smallskip" for note in [*table.marks, *table.notes]),
        r"\endgroup",
    ]
    return "\n".join([*lines, ""])


def _letters(table: TableText) -> str:
    return "".join("r" if column.figures else "l" for column in table.columns)


def _body(table: TableText) -> list[str]:
    lines = []
    for line in table.lines:
        cells = [escape(entry.text) for entry in line.entries]
        bold = [
            rf"\textbf{{{cell}}}" if entry.best else cell
            for cell, entry in zip(cells, line.entries, strict=True)
        ]
        lines.append("    " + " & ".join(bold) + r" \\")
    return lines


def _headings(table: TableText) -> str:
    return " & ".join(_heading(c.text, "r" if c.figures else "l") for c in table.columns) + r" \\"


def _heading(text: str, side: str) -> str:
    """A heading broken at its spaces, so that it is hardly wider than the column's figures."""
    lines: list[str] = []
    for word in text.replace("/", "/ ").split():
        if lines and (len(lines[-1]) + len(word) < _HEADING or word in "↓↑→"):
            lines[-1] += word if lines[-1].endswith("/") else f" {word}"
        else:
            lines.append(word)
    if len(lines) == 1:
        return escape(lines[0])
    return rf"\shortstack[{side}]{{" + r"\\".join(map(escape, lines)) + "}"
