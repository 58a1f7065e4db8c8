"""Tables of a report in LaTeX, with the rules of booktabs; one file a table, for ``\\input``."""

from __future__ import annotations

from bench.report_tables import TableText

_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}", "±": r"$\pm$", "×": r"$\times$", "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
}  # fmt: skip


def escape(text: str) -> str:
    """``text`` as LaTeX prints it: no character of it is a command, none breaks a line."""
    return "".join(_ESCAPES.get(character, character) for character in " ".join(text.split()))


def to_latex(table: TableText) -> str:
    """A ``table`` environment; the best figure of a column in bold.

    Needs ``booktabs`` and ``graphicx``, which shrinks a table that is wider than the text.
    """
    letters = "".join("r" if column.figures else "l" for column in table.columns)
    lines = [
        r"% Needs \usepackage{booktabs}, \usepackage{graphicx} and \usepackage[T1]{fontenc}.",
        r"\begin{table}",
        r"  \centering",
        f"  \\caption{{{escape(table.caption)}}}",
        f"  \\label{{tab:{table.name}}}",
        # Only a table that is too wide is shrunk: a narrow one keeps its size.
        r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        f"  \\begin{{tabular}}{{{letters}}}",
        r"    \toprule",
        "    " + " & ".join(escape(column.text) for column in table.columns) + r" \\",
        r"    \midrule",
    ]
    for line in table.lines:
        cells = [escape(entry.text) for entry in line.entries]
        bold = [rf"\textbf{{{cell}}}" if entry.best else cell
                for cell, entry in zip(cells, line.entries, strict=True)]  # fmt: skip
        lines.append("    " + " & ".join(bold) + r" \\")
    lines += [r"    \bottomrule", r"  \end{tabular}}"]
    for note in table.notes:
        lines.append(rf"  \par\smallskip{{\footnotesize {escape(note)}\par}}")
    return "\n".join([*lines, r"\end{table}", ""])
