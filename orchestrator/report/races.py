"""Races of tuned values: what they may cost, and how far they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.plan.model import Budget, Choice, Trial
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


def trial_text(trial: Trial | None) -> str:
    """`nag.scale 2, interval.high 0.5`"""
    if trial is None:
        return "–"
    return ", ".join(f"{key} {short(value)}" for key, value in trial.params.items()) or "as it is"
