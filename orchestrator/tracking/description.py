"""The description of a sweep's experiment: the verdict in words, with its table, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.report.answer import answer, notices
from orchestrator.report.comparisons import Comparison
from orchestrator.report.estimates import chosen
from orchestrator.report.formatting import state_text
from orchestrator.report.markdown import plain, table_text
from orchestrator.report.results import Results
from orchestrator.report.verdict_table import verdict_table
from orchestrator.report.verdicts import verdicts

LENGTH = 4500  # characters; older servers keep 5000 in a tag


def description(results: Results, comparisons: Sequence[Comparison]) -> str:
    """What the report answers, then the table of verdicts, with as many rows as MLflow has room for."""
    parts = [f"**{plain(notice)}**" for notice in notices(results)]
    parts += [plain(sentence) for sentence in answer(results, comparisons, chosen(results))] if comparisons else []
    parts.append(f"Sweep `{results.plan.sweep.name}`: {state_text(results)}.")
    text = "\n\n".join(parts)[:LENGTH]
    table = verdict_table(results, verdicts(results, comparisons)) if comparisons else None
    if table is None:
        return text
    table = replace(table.in_terminal(), title="")
    for count in range(len(table.rows), 0, -1):
        left = len(table.rows) - count
        more = (f"{left} more in the report.",) if left else ()
        shown = table_text(replace(table, rows=table.rows[:count], notes=(*more, *table.notes)))
        if len(whole := f"{text}\n\n{shown}") <= LENGTH:
            return whole
    return text
