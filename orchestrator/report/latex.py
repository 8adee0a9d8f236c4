r"""tables.tex: the tables of a report for a paper; they need \usepackage{booktabs}."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.report.table import Row, Table, TableCell

ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "±": r"$\pm$",
    "–": "--",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def text(sweep: str, tables: Iterable[Table]) -> str:
    head = f"% {' '.join(sweep.split())}: tables of its nagbench report; they need \\usepackage{{booktabs}}"
    return "\n\n".join([head, *map(_table, tables)]) + "\n"


def _table(table: Table) -> str:
    shown = table.on_page()
    form = "".join("r" if column.numeric else "l" for column in shown.columns)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{plain(shown.title)}}}"]
    lines += [rf"\begin{{tabular}}{{{form}}}", r"\toprule"]
    lines += [" & ".join(plain(column.heading) for column in shown.columns) + r" \\", r"\midrule"]
    lines += map(_row, shown.rows)
    lines += [r"\bottomrule", r"\end{tabular}"]
    if shown.notes:
        lines.append(rf"\par\smallskip\footnotesize {plain(' '.join(shown.notes))}")
    return "\n".join([*lines, r"\end{table}"])


def _row(row: Row) -> str:
    return " & ".join(map(_cell, row.cells)) + r" \\"


def _cell(cell: TableCell) -> str:
    words = rf"\textbf{{{plain(cell.text)}}}" if cell.verdict == "better" else plain(cell.text)
    return rf"{words} {{\scriptsize {plain(cell.detail)}}}" if cell.detail else words


def plain(words: str) -> str:
    """Text on one line, without commands of its own."""
    return "".join(ESCAPES.get(sign, sign) for sign in " ".join(words.split()))
