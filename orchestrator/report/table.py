"""A table without a format: terminal_tables.py, markdown.py, html.py and latex.py render it.

A page shows all of a table. A terminal shows its brief form: the brief text of each cell, and no details.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class TableCell:
    text: str = ""
    detail: str = ""  # small print below
    verdict: str = ""  # better | worse | alike | undecided | mixed | lower | higher
    brief: str | None = None  # in place of `text` where space is short
    loud: bool = False  # the text itself is the verdict


@dataclass(frozen=True)
class Column:
    heading: str
    brief: str | None = None
    numeric: bool = False  # aligned to the right, never wrapped
    joined: bool = False  # stays next to the column before it
    only: Literal["", "page", "terminal"] = ""


@dataclass(frozen=True)
class Row:
    cells: tuple[TableCell, ...]
    arm: str | None = None  # the arm whose colour marks it
    muted: bool = False


@dataclass(frozen=True)
class Table:
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    title: str = ""
    notes: tuple[str, ...] = ()
    page_notes: tuple[str, ...] = ()  # explain details
    terminal_notes: tuple[str, ...] = ()  # explain brief forms

    @classmethod
    def plain(cls, headings: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> Table:
        """A table of text, aligned to the left."""
        return cls(tuple(map(Column, headings)), tuple(Row(tuple(map(TableCell, row))) for row in rows), title)

    def on_page(self) -> Table:
        """The whole table, without the columns that only a terminal shows."""
        return replace(self._without("terminal"), notes=(*self.notes, *self.page_notes))

    def in_terminal(self) -> Table:
        """The brief form."""
        kept = self._without("page")
        columns = tuple(replace(c, heading=c.heading if c.brief is None else c.brief) for c in kept.columns)
        rows = tuple(replace(row, cells=tuple(map(_brief, row.cells))) for row in kept.rows)
        return replace(kept, columns=columns, rows=rows, notes=(*self.notes, *self.terminal_notes))

    def _without(self, target: str) -> Table:
        kept = [place for place, column in enumerate(self.columns) if column.only != target]
        rows = tuple(replace(row, cells=tuple(row.cells[place] for place in kept)) for row in self.rows)
        return replace(self, columns=tuple(self.columns[place] for place in kept), rows=rows)


def _brief(cell: TableCell) -> TableCell:
    return TableCell(cell.text if cell.brief is None else cell.brief, verdict=cell.verdict, loud=cell.loud)
