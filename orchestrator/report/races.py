"""Races of tuned values: what they may cost, and how far they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from orchestrator.plan.model import Budget, Choice, Plan, PlannedCell, StoredCell, Trial
from orchestrator.report.formatting import short
from orchestrator.report.table import Column, Row, Table, TableCell
from orchestrator.report.terminal_tables import TerminalTable

UNEQUAL = 1.1  # budgets that differ by more are told


def choices_table(choices: Sequence[Choice], spent: bool) -> TerminalTable:
    """The choices of tuned values: what each may cost or, with `spent`, how far its race is."""
    several = len({choice.arm for choice in choices}) < len(choices)
    rows = []
    for choice in choices:
        setting = [" ".join(short(value) for value in choice.params.values())] if several else []
        if spent:
            best = choice.chosen or choice.leader
            words = "chosen" if choice.chosen else f"{choice.left} left"
            numbers = [words, trial_text(best), f"{choice.samples:,} of {choice.exhaustive:,}"]
        else:
            budget = choice.allowed
            numbers = [f"{budget.candidates:,}", f"{budget.samples:,}", f"{budget.evaluations:,.0f}"]
        rows.append((choice.arm, *setting, *numbers))
    heads = ("candidates", "leader", "samples") if spent else ("candidates", "samples", "evaluations")
    columns = ("arm", *(["setting"] if several else []))
    table = Table(
        (*map(Column, columns), *(Column(head, numeric=not spent or head == "samples") for head in heads)),
        tuple(Row(tuple(map(TableCell, row))) for row in rows),
    )
    return TerminalTable(replace(table, title="Choice of tuned values" + ("" if spent else ", at most")))


def unequal(choices: Sequence[Choice]) -> str:
    """A note if arms may try much more than others; empty if their budgets are alike."""
    by_arm: dict[str, list[Budget]] = {}
    for choice in choices:
        by_arm.setdefault(choice.arm, []).append(choice.allowed)
    budgets = {arm: [sum(values) for values in zip(*several, strict=True)] for arm, several in by_arm.items()}
    apart = []
    for place, name in enumerate(Budget._fields):
        values = {arm: budget[place] for arm, budget in budgets.items()}
        if values and max(values.values()) > UNEQUAL * min(values.values()):
            most, least = max(values, key=values.__getitem__), min(values, key=values.__getitem__)
            apart.append(f"{name}: {most} {values[most]:,.0f}, {least} {values[least]:,.0f}")
    if not apart:
        return ""
    return (
        f"Arms are not tuned with equal budgets ({'; '.join(apart)}). tune.candidates gives all arms the same number."
    )


def too_few_at_first(plan: Plan) -> list[str]:
    """A line for each way in which races begin with too few samples to tell a distance apart: their candidates leave by
    rank alone then.
    """
    from nag.intervals import samples_for_difference
    from nag.search import SHARES, rungs
    from orchestrator.plan.races import metric_of

    if not plan.races or plan.sweep.tune is None:
        return []
    metric, extractors, _ = metric_of(plan.sweep)
    lines: dict[str, None] = {}
    for race in plan.races:
        cell, first = race.candidates[0].cells[0], rungs(race.count, race.block)[0]
        d = max(_dimension(metric, extractor, cell) for extractor in extractors)
        needed = samples_for_difference(d)
        if race.follows is None and metric.extrapolates and first < min(needed, race.count):
            lines[
                f"tune.count: a race by {race.metric} begins with {first:,} of {race.count:,} samples, and differences "
                f"in {d:,} dimensions take {needed:,}. With fewer, settings leave by rank alone, and a race can miss "
                f"the one that all samples would choose; with a count of {SHARES[0] * needed:,} it begins with enough."
            ] = None
    return list(lines)


def _dimension(metric: Any, extractor: Any, cell: StoredCell) -> int:
    """Of the features that a metric compares; 0 if it is not known before they are computed."""
    from orchestrator.retention.usage import images_shape

    shape = images_shape(cell.cell.network) if isinstance(cell, PlannedCell) else None
    known = extractor.dims(shape) if shape and callable(extractor.dims) else {}  # a user's may be a field
    return max((known.get(output, 0) for output in metric.needs), default=0)


def trial_text(trial: Trial | None) -> str:
    """`nag.scale 2, interval.high 0.5`"""
    if trial is None:
        return "–"
    return ", ".join(f"{key} {short(value)}" for key, value in trial.params.items()) or "as it is"
