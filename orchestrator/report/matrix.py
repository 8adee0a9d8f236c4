"""Arm x sampler x task: the verdict's difference of each arm with each sampler, network or data set, as one table."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.report.estimates import panel_of, panel_title
from orchestrator.report.formatting import brief_name, half_width_text
from orchestrator.report.results import Results
from orchestrator.report.table import Column, Row, Table, TableCell
from orchestrator.report.verdicts import Verdict

Panel = dict[str, object]


def matrix(results: Results, ruled: Sequence[Verdict]) -> Table | None:
    """A row for each arm and task, a column for each sampler; if there is one sampler, a column for each task. None if
    there is one of both.
    """
    panels = [panel_of(results, one.group) for one in ruled]
    if len({str(panel) for panel in panels}) < 2:
        return None
    several = len({str(_sampler(panel)) for panel in panels}) > 1
    columns = _titles([_sampler(panel) if several else _task(panel) for panel in panels])
    tasks = _titles([_task(panel) if several else {} for panel in panels])
    rows: dict[tuple[str, str], dict[str, Verdict]] = {}
    for one, column, task in zip(ruled, columns, tasks, strict=True):
        rows.setdefault((one.group.arm, task), {})[column] = one
    heads = [*dict.fromkeys(columns)]
    beside = any(tasks)
    named = [Column("arm"), Column("against"), *([Column("task")] if beside else [])]
    body = [
        Row(
            (
                TableCell(arm),
                TableCell(next(iter(known.values())).baseline.arm),
                *([TableCell(task)] if beside else []),
                *(_cell(known.get(head)) for head in heads),
            ),
            arm,
        )
        for (arm, task), known in rows.items()
    ]
    title = f"Difference in {brief_name(results, ruled[0].metric)} ± 95 %, and verdict"
    every = (*named, *(Column(head, head.replace(", ", "\n"), numeric=True) for head in heads))
    return Table(every, tuple(body), title)


def _cell(one: Verdict | None) -> TableCell:
    if one is None or one.difference is None:
        return TableCell("–")
    text, outcome = half_width_text(one.difference, one.low, one.high), one.outcome or "not tested"
    return TableCell(text, outcome, outcome)


def _sampler(panel: Panel) -> Panel:
    return {key: value for key, value in panel.items() if key.startswith("sampler")}


def _task(panel: Panel) -> Panel:
    return {key: value for key, value in panel.items() if not key.startswith("sampler")}


def _titles(panels: Sequence[Panel]) -> list[str]:
    return [panel_title(panel, panels) for panel in panels]
