r"""tables.tex: the tables of a report for a paper; they need \usepackage{array, booktabs, graphicx}."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.report.table import Row, Table, TableCell

NEEDED = r"\usepackage{array, booktabs, graphicx}"
FITTED = r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi"  # as wide as the text at most
WRAPPED = 40  # characters
LATIN = "\u0180"  # the end of the letters that pdflatex has without further packages
ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "±": r"$\pm$",
    "–": "--",
    "·": r"$\cdot$",
    "≈": r"$\approx$",
    "×": r"$\times$",
    "δ": r"$\delta$",
    **{sign: f"${sign}$" for sign in "<>|"},
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def text(sweep: str, tables: Iterable[Table]) -> str:
    head = f"% {' '.join(sweep.split())}: tables of its nagbench report; they need {NEEDED}"
    return "\n\n".join([head, *map(_table, tables)]) + "\n"


def _table(table: Table) -> str:
    shown = table.on_page()
    form = "".join(_form(shown, place) for place in range(len(shown.columns)))
    lines = [r"\begin{table}[htbp]", r"\centering", rf"\caption{{{plain(shown.title)}}}"]
    lines += [r"\sbox0{%", rf"\begin{{tabular}}{{{form}}}", r"\toprule"]
    lines += [" & ".join(plain(column.heading) for column in shown.columns) + r" \\", r"\midrule"]
    lines += map(_row, shown.rows)
    lines += [r"\bottomrule", r"\end{tabular}}", FITTED]
    if shown.notes:
        lines.append(rf"\par\smallskip\footnotesize {plain(' '.join(shown.notes))}")
    return "\n".join([*lines, r"\end{table}"])


def _form(table: Table, place: int) -> str:
    """A column's letter; long texts are wrapped."""
    if table.columns[place].numeric:
        return "r"
    longest = max((len(row.cells[place].text + row.cells[place].detail) for row in table.rows), default=0)
    return r">{\raggedright\arraybackslash}p{4.4cm}" if longest > WRAPPED else "l"


def _row(row: Row) -> str:
    return " & ".join(map(_cell, row.cells)) + r" \\"


def _cell(cell: TableCell) -> str:
    words = rf"\textbf{{{plain(cell.text)}}}" if cell.verdict == "better" else plain(cell.text)
    return rf"{words} {{\scriptsize {plain(cell.detail)}}}" if cell.detail else words


def plain(words: str) -> str:
    """Text on one line, without commands of its own. What pdflatex has no letter for is a question mark."""
    return "".join(ESCAPES.get(sign, sign if sign < LATIN else "?") for sign in " ".join(words.split()))
