"""The output at the end of a run or a report, piece by piece; a command prints it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from orchestrator.plan.model import Choice
from orchestrator.report.answer import answer, limits, notices
from orchestrator.report.choices import summary_table
from orchestrator.report.comparisons import Comparison
from orchestrator.report.estimates import chosen
from orchestrator.report.formatting import plural
from orchestrator.report.matrix import matrix
from orchestrator.report.published_values import published_table
from orchestrator.report.results import CellResult, Results
from orchestrator.report.tables import comparison_tables, every_setting, shift_table
from orchestrator.report.terminal_tables import TerminalTable, plain
from orchestrator.report.verdict_table import verdict_table
from orchestrator.report.verdicts import verdicts

LIMITS = 2  # limits of the answer, the most important; the report has all


def comparison(results: Results, comparisons: Sequence[Comparison]) -> Iterator[RenderableType]:
    """The verdicts and choices, tables of every setting, the answer with its limits, and what failed or is missing."""
    if any(cell.scores for cell in results.cells):
        best, settings = chosen(results), every_setting(results)
        shift, published = shift_table(results, comparisons, settings), published_table(results)
        ruled = verdicts(results, comparisons)
        first = (matrix(results, ruled), verdict_table(results, ruled), summary_table(results))
        for table in (*first, *comparison_tables(results, comparisons, settings), shift, published):
            if table and table.rows:
                yield TerminalTable(table)
        yield from (Text(plain(sentence)) for sentence in answer(results, comparisons, best) if sentence)
        told = limits(results, comparisons, best)
        yield from (Text(plain(f"- {limit}"), style="dim") for limit in told[:LIMITS])
        if more := len(told) - LIMITS if len(told) > LIMITS else 0:
            yield Text(f"- {plural(more, 'more limit')} in the report.", style="dim")
    yield from (failure_line(cell) for cell in results.cells if cell.reason is not None)
    yield from (choice_failure(choice) for choice in results.choices if choice.reason is not None)
    yield from (Text(notice, style="yellow") for notice in notices(results))


def choice_failure(choice: Choice) -> Text:
    return Text(plain(f"arm {choice.arm}: its tuned values are not chosen: {choice.reason}"), style="red")


def failure_line(cell: CellResult) -> Text:
    """Which cell failed, why, and where its log is: one line, however long."""
    log = f" (log: {cell.log})" if cell.log else ""
    return Text(f"failed: {cell.arm} {cell.digest[:12]}: {cell.reason}{log}", style="red", no_wrap=True)
