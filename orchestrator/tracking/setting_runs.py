"""A run for each setting: the mean over its training seeds, with intervals and its verdict. The page opens on these."""

from __future__ import annotations

from orchestrator.identity import digest
from orchestrator.report.comparisons import Group, groups
from orchestrator.report.estimates import estimate, price
from orchestrator.report.results import Results
from orchestrator.tracking.cell_runs import CellRuns, cell_key, last_finished
from orchestrator.tracking.run import COLOUR, Run, milliseconds, points_of


def setting_runs(cells: CellRuns) -> list[Run]:
    """The settings that have a cell which is done or failed."""
    arms = cells.results.plan.sweep.arms
    every = [group for arm in arms for group in groups(cells.results, arm.name)]
    return [_run(cells, group) for group in every if any(cell.complete or cell.reason for cell in group.cells)]


def setting_key(results: Results, group: Group) -> str:
    """The key of a setting's run."""
    return digest([results.plan.sweep.name, "setting", group.arm, dict(group.params)])


def _run(cells: CellRuns, group: Group) -> Run:
    results, first = cells.results, group.cells[0]
    end = last_finished(group)
    params = cells.params(first, cells.planned[cell_key(results, first)])
    kept = {key: value for key, value in params.items() if key in group.params or key not in first.params}
    failed = any(cell.reason is not None for cell in group.cells)
    over = "FAILED" if failed else "SCHEDULED"
    tags = {"sweep": results.plan.sweep.name, "arm": group.arm, "kind": "setting", COLOUR: cells.colours[group.arm]}
    return Run(
        key=setting_key(results, group),
        name=cells.name(first, seeds=False),
        status="FINISHED" if all(cell.complete for cell in group.cells) else over,
        start_ms=milliseconds(end),
        end_ms=milliseconds(end),
        params={**kept, "training_seeds": str(len(group.by_training()))},
        points=points_of(_measured(results, group, end)),
        tags=tags,
        verdict=cells.rulings.words.get(id(first)),
        differences=points_of(cells.rulings.differences.get(id(first), ())),
    )


def _measured(results: Results, group: Group, end: float) -> list[tuple[str, float | None, float, int]]:
    """Metric, value, time, step: means over training seeds, with intervals."""
    seconds = [cell.seconds for cell in group.cells if cell.seconds is not None]
    cost = {"NFE": price(group), "worker_seconds": sum(seconds) / len(seconds) if seconds else None}
    points: list[tuple[str, float | None, float, int]] = [(name, value, end, 0) for name, value in cost.items()]
    for metric in results.metrics:
        known = estimate(group, metric)
        if known is not None:
            numbers = {"": known.mean, "_low": known.low, "_high": known.high}
            points += [(f"{metric}{suffix}", number, end, 0) for suffix, number in numbers.items()]
    return points
