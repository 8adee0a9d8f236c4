"""One table, four targets: what each shows of it, and that none takes text for commands."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from orchestrator.report import latex
from orchestrator.report.markdown import plain
from orchestrator.report.table import Column, Row, Table, TableCell
from orchestrator.report.terminal_tables import LEGEND, TerminalTable

TABLE = Table(
    (
        Column("arm"),
        Column("setting", only="page"),
        Column("against", only="terminal"),
        Column("FID", numeric=True),
        Column("difference", numeric=True, joined=True),
        Column("FID (pixels)", "FID\npixels", numeric=True),
        Column("difference", numeric=True, joined=True),
    ),
    (
        Row(
            (
                TableCell("nag", brief="nag 2"),
                TableCell("nag 2", "selected, best of 4"),
                TableCell("plain"),
                TableCell("5.85", "[5.00, 6.70]"),
                TableCell("−1.27 [−1.62, −0.93]", "better than plain", "better", "−1.27 ± 0.35"),
                TableCell("1.17"),
                TableCell("−0.25 [−0.32, −0.18]", "better than plain", "better", "−0.25 ± 0.07"),
            ),
            "nag",
        ),
    ),
    "Distances",
    ("For all.",),
    page_notes=("For pages.",),
    terminal_notes=("For terminals.",),
)


def shown(table: Table, width: int) -> str:
    out = StringIO()
    Console(file=out, width=width, color_system=None).print(TerminalTable(table))
    return out.getvalue()


def test_a_terminal_shows_the_brief_form() -> None:
    text = shown(TABLE, 100)
    assert "-1.27 ± 0.35 ✓" in text  # a hyphen: a copied number is a number
    for word in ("nag 2", "against", "For all.", "For terminals.", LEGEND):
        assert word in text
    for word in ("setting", "selected", "[5.00", "For pages."):
        assert word not in text


@pytest.mark.parametrize(("width", "parts"), [(100, 1), (46, 2)])
def test_a_wide_table_continues_below_with_its_first_columns(width: int, parts: int) -> None:
    lines = shown(TABLE, width).splitlines()
    assert max(map(len, lines)) <= width
    assert sum("nag 2" in line for line in lines) == sum("plain" in line for line in lines) == parts
    assert "…" not in "".join(lines)
    pairs = [line for line in lines if "±" in line]
    assert ("5.85" in pairs[0], "-1.27 ± 0.35" in pairs[0]) == (True, True)
    assert ("1.17" in pairs[-1], "-0.25 ± 0.07" in pairs[-1]) == (True, True)


def test_latex_has_the_whole_table_with_the_better_in_bold() -> None:
    text = latex.text("made", [TABLE])
    assert r"\begin{tabular}{llrrrr}" in text
    assert r"arm & setting & FID & difference & FID (pixels) & difference \\" in text
    assert r"nag & nag 2 {\scriptsize selected, best of 4} & 5.85 {\scriptsize [5.00, 6.70]}" in text
    assert r"\textbf{$-$1.27 [$-$1.62, $-$0.93]} {\scriptsize better than plain}" in text
    assert r"\footnotesize For all. For pages." in text


def test_text_is_not_taken_for_commands() -> None:
    evil = "a_b 50% & $x$ #1 {y} ~z^2 \\input{secret}\nnext"
    escaped = latex.plain(evil)
    assert escaped == (
        r"a\_b 50\% \& \$x\$ \#1 \{y\} \textasciitilde{}z\textasciicircum{}2 \textbackslash{}input\{secret\} next"
    )
    assert latex.text(evil, []).count("\n") == 1  # its name stays in the comment
    assert plain("**a** <b> | `c`") == r"\*\*a\*\* &lt;b&gt; \| \`c\`"
