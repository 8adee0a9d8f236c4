"""What a run or a report says at its end, piece by piece; a command prints it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from orchestrator.report import published_values as paper
from orchestrator.report.comparisons import Comparison
from orchestrator.report.formatting import plural
from orchestrator.report.results import CellResult, Results
from orchestrator.report.terminal_tables import comparison_tables, footnotes, sentences


def comparison(results: Results, comparisons: Sequence[Comparison]) -> Iterator[RenderableType]:
    """Tables, what they say in words, how to read them, and what failed or is missing."""
    complete = [cell for cell in results.cells if cell.complete]
    if complete and any(metric.extractor for metric in results.plan.metrics):
        yield comparison_tables(results, comparisons)
        yield from map(Text, sentences(results, comparisons))
        yield from (Text(note, style="dim") for note in footnotes(results, comparisons))
        yield from map(Text, paper.sentences(results))
    yield from (failure(cell) for cell in results.cells if cell.reason is not None)
    left = len(results.cells) - len(complete)
    if left:
        yield Text(f"{left} of {plural(len(results.cells), 'cell')} not done.", style="yellow")


def failure(cell: CellResult) -> Text:
    """Which cell failed, why, and where its log is: one line, however long."""
    text = f"failed: {cell.arm} {cell.digest[:12]}: {cell.reason} (log: {cell.log})"
    return Text(text, style="red", no_wrap=True)
