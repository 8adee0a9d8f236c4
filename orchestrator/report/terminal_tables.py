"""Draw a table in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from rich import box
from rich import table as rich_table
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from orchestrator.report.table import Row, Table, TableCell

STYLES = {"better": "green", "worse": "red", "undecided": "yellow", "mixed": "yellow", "alike": "cyan"}
MARKS = {"better": "✓", "worse": "✗", "undecided": "≈"}
LEGEND = "✓ better than the baseline, ✗ worse, ≈ cannot be told apart."
BETWEEN = 2  # characters between columns


class TerminalTable:
    """A table in its brief form. One that is too wide continues below, its first columns repeated."""

    def __init__(self, table: Table) -> None:
        self.table = table.in_terminal()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        table = self.table
        if table.title:
            yield Text(table.title, style="bold")
        for part in _parts(table, options.max_width):
            yield _drawn(table, part)
        notes = [*table.notes]
        if any(cell.verdict in MARKS and not cell.loud for row in table.rows for cell in row.cells):
            notes.append(LEGEND)
        yield from (Text(note, style="dim") for note in notes)
        if notes:
            yield Text("")


def _drawn(table: Table, places: list[int]) -> rich_table.Table:
    drawn = rich_table.Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for place in places:
        column = table.columns[place]
        side: Literal["left", "right"] = "right" if column.numeric else "left"
        drawn.add_column(Text(column.heading), justify=side, no_wrap=column.numeric, overflow="fold")
    for row in table.rows:
        drawn.add_row(*(_text(row, row.cells[place]) for place in places))
    return drawn


def _text(row: Row, cell: TableCell) -> Text:
    words = f"{cell.text} {MARKS[cell.verdict]}" if cell.verdict in MARKS and not cell.loud else cell.text
    return Text(plain(words), style="dim" if row.muted else STYLES.get(cell.verdict, ""))


def plain(words: str) -> str:
    """Replace minus signs with hyphens, so that a copied number can be parsed."""
    return words.replace("−", "-")


def _parts(table: Table, width: int) -> list[list[int]]:
    """The places of the columns in each part, from the top; only columns of numbers move below."""
    every = list(range(len(table.columns)))
    first = next((place for place in every if table.columns[place].numeric), len(every))
    if not all(table.columns[place].numeric for place in every[first:]):
        return [every]
    widths = [_width(table, place) for place in every]
    blocks: list[list[int]] = []
    for place in every[first:]:
        if table.columns[place].joined and blocks:
            blocks[-1].append(place)
        else:
            blocks.append([place])
    parts = [every[:first]]
    for block in blocks:
        if len(parts[-1]) > first and 1 + sum(widths[place] for place in [*parts[-1], *block]) > width:
            parts.append(every[:first])
        parts[-1] = parts[-1] + block
    return parts


def _width(table: Table, place: int) -> int:
    lines = table.columns[place].heading.split("\n")
    lines += [_text(row, row.cells[place]).plain for row in table.rows]
    return max(map(cell_len, lines)) + BETWEEN
