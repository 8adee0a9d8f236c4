"""The output at the end of a run or a report, piece by piece; a command prints it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from orchestrator.execution.retries import alike
from orchestrator.plan.model import Choice
from orchestrator.report.answer import answer, limits, notices
from orchestrator.report.choices import summary_table
from orchestrator.report.comparisons import Comparison
from orchestrator.report.estimates import chosen
from orchestrator.report.formatting import listed, plural
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
    yield from failure_lines(results.cells)
    yield from (choice_failure(choice) for choice in results.choices if choice.reason is not None)
    yield from (Text(notice, style="yellow") for notice in notices(results))


def choice_failure(choice: Choice) -> Text:
    return Text(plain(f"arm {choice.arm}: its tuned values are not chosen: {choice.reason}"), style="red")


def failure_lines(cells: Iterable[CellResult]) -> Iterator[Text]:
    """Which cells failed, why, and where a log is: one line, however long, for all that failed alike."""
    failed: dict[str, list[CellResult]] = {}
    for cell in cells:
        if cell.reason is not None:
            failed.setdefault(alike(cell.reason), []).append(cell)
    for several in failed.values():
        first = several[0]
        arms = listed(list(dict.fromkeys(cell.arm for cell in several)))
        which = f"{arms} {first.digest[:12]}" if len(several) == 1 else f"{arms}, {plural(len(several), 'cell')} alike"
        log = f" (log: {first.log})" if first.log else ""
        yield Text(f"failed: {which}: {first.reason}{log}", style="red", no_wrap=True)
