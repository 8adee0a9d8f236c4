"""How settings were chosen: the candidates of each tuned arm, on samples that the verdicts do not use."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from orchestrator.plan.model import Choice, Trial
from orchestrator.report.comparisons import Group, groups
from orchestrator.report.formatting import calls_text, difference_text, metric_name, plural, short, value_text
from orchestrator.report.results import Results
from orchestrator.report.table import Column, Row, Table, TableCell
from orchestrator.report.verdict_table import params_text
from orchestrator.report.verdicts import choice_of

TITLE = "How settings were chosen"


def summary_table(results: Results) -> Table | None:
    """A row for each choice: what was chosen, among how many, and with how many samples."""
    if not results.choices:
        return None
    columns = (
        Column("arm"),
        Column("chosen"),
        Column("candidates", numeric=True),
        Column("samples", numeric=True),
        Column("of all", numeric=True),
        Column("network evaluations", "NFE in all", numeric=True),
    )
    rows = tuple(Row(_summary(results, choice), choice.arm) for choice in results.choices)
    notes = ("Chosen on other samples than those of the verdict. Of all: the samples of every candidate in full.",)
    return Table(columns, rows, TITLE, notes)


def _summary(results: Results, choice: Choice) -> tuple[TableCell, ...]:
    open_ = f"{plural(choice.left, 'candidate')} left" if choice.chosen is None else ""
    best = choice.chosen or choice.leader
    words = params_text(best.params) if best else ""
    told = f"{words} leads, {open_}" if words and open_ else open_ or words or "–"
    share = f"{100 * choice.samples / choice.exhaustive:.0f} %" if choice.exhaustive else "–"
    return (
        TableCell(named(results, choice)),
        TableCell(told, f"by {choice.score}"),
        TableCell(f"{len(choice.trials):,}"),
        TableCell(f"{choice.samples:,}"),
        TableCell(share),
        TableCell(calls_text(round(choice.evaluations))),
    )


def named(results: Results, choice: Choice) -> str:
    """The arm, and what tells its choices apart: their values on the factors outside arms."""
    others = [each for each in results.choices if each.arm == choice.arm]
    factors = [
        f"{key.rpartition('.')[2]} {short(value)}"
        for key, value in choice.params.items()
        if any(other.params.get(key) != value for other in others)
    ]
    return " ".join([choice.arm, *factors])


def choice_tables(results: Results) -> tuple[Table, ...]:
    """A table for each choice, a row for each candidate."""
    return tuple(_table(results, choice) for choice in results.choices)


def _table(results: Results, choice: Choice) -> Table:
    name = metric_name(results, choice.metric)
    headings = (Column("candidate"), Column("samples", numeric=True), Column(name, numeric=True))
    columns = (*headings, Column("difference from the leader", "difference", numeric=True), Column(""))
    rows = [_trial(choice, trial) for trial in choice.trials]
    if group := confirmed_group(results, choice):
        value = group.mean(choice.metric)
        rows.append(Row((TableCell("confirmed on fresh samples"), *_fresh(results, group, choice, value))))
    title = f"{named(results, choice)}: choice by {choice.score}"
    notes = ("Means over training seeds. Differences are paired and corrected for the bias in N; above 0 is worse.",)
    return Table(columns, tuple(rows), title, notes)


def _trial(choice: Choice, trial: Trial) -> Row:
    mark = "chosen" if trial == choice.chosen else "leader" if trial == choice.leader else ""
    apart = "–" if trial.difference is None else difference_text(trial.difference, trial.low, trial.high)
    cells = (params_text(trial.params), f"{trial.count:,}", value_text(trial.value), apart, mark)
    return Row(tuple(map(TableCell, cells)), muted=not mark)


def _fresh(results: Results, group: Group, choice: Choice, value: float | None) -> tuple[TableCell, ...]:
    stamps = [cell.scores[choice.metric]["stamp"] for cell in group.cells if choice.metric in cell.scores]
    count = f"{stamps[0]['count']:,}" if stamps else "–"
    return TableCell(count), TableCell(value_text(value)), TableCell(""), TableCell("")


def confirmed_group(results: Results, choice: Choice) -> Group | None:
    """The cells that the chosen setting has on the samples of the verdict; None before they are scored."""
    for group in groups(results, choice.arm):
        if choice_of(results, group) is choice and group.mean(choice.metric) is not None:
            return group
    return None


def as_json(results: Results) -> list[dict[str, Any]]:
    return [choice_json(choice) for choice in results.choices]


def choice_json(choice: Choice) -> dict[str, Any]:
    def trial(one: Trial | None) -> dict[str, Any] | None:
        return asdict(one) | {"params": dict(one.params), "place": list(one.place)} if one else None

    others = ("trials", "leader", "chosen", "params", "allowed")
    whole = {key: value for key, value in vars(choice).items() if key not in others}
    ends = {"leader": trial(choice.leader), "chosen": trial(choice.chosen)}
    whole["allowed"] = choice.allowed._asdict()
    return whole | {"params": dict(choice.params), "trials": [trial(one) for one in choice.trials]} | ends
