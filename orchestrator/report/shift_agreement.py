"""Does a smaller noise shift go with a better score? Rank correlations within each training, as a table and as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from orchestrator.identity import digest
from orchestrator.report.comparisons import Group, groups
from orchestrator.report.estimates import cost
from orchestrator.report.formatting import metric_name, minus, plural
from orchestrator.report.results import Results
from orchestrator.report.table import Column, Row, Table, TableCell

if TYPE_CHECKING:
    import numpy as np

    from nag.agreement import Agreement

TITLE = "Noise shift and scores, setting by setting"
NOTES = (
    "Rank correlations (Spearman) over the settings of one training, mean over trainings; a noise shift counts by its "
    "size, and each metric is turned so that better is higher. 1: the smaller the shift, the better the score.",
    "In brackets: 95 % bootstrap intervals over settings, as if these were independent; below, the range over "
    "trainings. A correlation is no cause, and other settings may correlate otherwise.",
)


@dataclass(frozen=True)
class ShiftAgreement:
    """shifts, metrics: their names. values: (trainings, settings, shifts + metrics), higher is better."""

    results: Results
    shifts: tuple[str, ...]
    metrics: tuple[str, ...]
    values: np.ndarray

    @cached_property
    def found(self) -> Agreement:
        from nag.agreement import agreement

        return agreement(self.values)

    @cached_property
    def by_training(self) -> np.ndarray:
        """(trainings, M, M)"""
        from nag.agreement import spearman

        return spearman(self.values)


def shift_agreement(results: Results) -> ShiftAgreement | None:
    """Of the settings that every training has, measured alike; None without a noise shift, a score or three of them."""
    import numpy as np

    from nag.agreement import LEAST

    shifts = tuple(metric for metric in results.metrics if results.is_shift(metric))
    metrics = tuple(
        metric
        for metric in results.metrics
        if results.lower_is_better(metric) is not None and not results.is_cost(metric)
    )
    if not shifts or not metrics:
        return None
    every = [group for arm in results.plan.sweep.arms for group in groups(results, arm.name)]
    trainings = list(dict.fromkeys(training for group in every for training in group.by_training()))
    names = (*shifts, *metrics)
    rows: dict[str, list[list[list[float]]]] = {}
    for group in every:
        if len(group.by_training()) == len(trainings) and (row := _row(results, group, names)):
            rows.setdefault(_stamps(group, names), []).append(row)
    alike = max(rows.values(), key=len) if rows else []
    if len(alike) < LEAST:
        return None
    return ShiftAgreement(results, shifts, metrics, np.swapaxes(np.array(alike), 0, 1))


def _row(results: Results, group: Group, names: tuple[str, ...]) -> list[list[float]] | None:
    """For each training, by its seed, the values turned so that better is higher; None if one is not known."""
    row = []
    for _, cells in sorted(group.by_training().items()):
        values = []
        for name in names:
            known = [value for cell in cells if (value := cell.value(name)) is not None and math.isfinite(value)]
            if len(known) < len(cells):
                return None
            values.append(-cost(results, name, sum(known) / len(known)))
        row.append(values)
    return row


def _stamps(group: Group, names: tuple[str, ...]) -> str:
    return digest([group.cells[0].scores[name]["stamp"] for name in names])


def shift_agreement_table(results: Results) -> Table | None:
    known = shift_agreement(results)
    if known is None:
        return None
    columns = [Column("metric"), *(Column(metric_name(results, shift), numeric=True) for shift in known.shifts)]
    rows = []
    for j, metric in enumerate(known.metrics, len(known.shifts)):
        cells = [_cell(known, i, j) for i in range(len(known.shifts))]
        rows.append(Row((TableCell(metric_name(results, metric)), *cells)))
    trainings, settings, _ = known.values.shape
    title = f"{TITLE} ({plural(settings, 'setting')}, {plural(trainings, 'training')})"
    return Table(tuple(columns), tuple(rows), title, page_notes=NOTES)


def _cell(known: ShiftAgreement, i: int, j: int) -> TableCell:
    rho, low, high = (float(one[i, j]) for one in known.found)
    if not math.isfinite(rho):
        return TableCell("–", "equal in all settings of a training")
    interval = f" [{_two(low)}, {_two(high)}]" if math.isfinite(low) else ""
    own = known.by_training[:, i, j]
    spread = f"{_two(float(own.min()))} to {_two(float(own.max()))}" if len(own) > 1 else ""
    return TableCell(f"{_two(rho)}{interval}", spread)


def _two(value: float) -> str:
    return minus(f"{value:.2f}").replace("−0.00", "0.00")


def as_json(results: Results) -> dict[str, Any] | None:
    known = shift_agreement(results)
    if known is None:
        return None
    n = len(known.shifts)
    trainings, settings, _ = known.values.shape
    matrices = {name: matrix[:n, n:].round(6).tolist() for name, matrix in known.found._asdict().items()}
    return {
        "shifts": list(known.shifts),
        "metrics": list(known.metrics),
        "trainings": trainings,
        "settings": settings,
        **matrices,
        "by_training": known.by_training[:, :n, n:].round(6).tolist(),
    }
