"""The agreement of metrics over the cells of a sweep, as a table, as JSON and as values for MLflow."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from orchestrator.identity import digest
from orchestrator.report.formatting import metric_name, minus
from orchestrator.report.results import CellResult, Results
from orchestrator.report.table import Column, Row, Table, TableCell

if TYPE_CHECKING:
    from nag.agreement import Agreement

TITLE = "Agreement between metrics"
NOTES = (
    "Rank correlations (Spearman) over the cells, each metric turned so that better is higher: 1 is the same order, 0 "
    "is none and below 0 is the contrary one.",
    "In brackets: 95 % bootstrap intervals over cells, as if they were independent.",
)


@dataclass(frozen=True)
class Agreements:
    """The metrics with a better direction that all of the cells have, and the cells that were measured alike."""

    results: Results
    metrics: tuple[str, ...]
    cells: tuple[CellResult, ...]

    @cached_property
    def found(self) -> Agreement:
        import numpy as np

        from nag.agreement import agreement

        signs = [-1 if self.results.lower_is_better(metric) else 1 for metric in self.metrics]
        rows = [
            [sign * (cell.value(metric) or 0.0) for sign, metric in zip(signs, self.metrics, strict=True)]
            for cell in self.cells
        ]
        return agreement(np.array(rows))

    def pairs(self) -> Iterator[tuple[str, str, float]]:
        """Each pair of metrics once, with its correlation, if that is known."""
        for i, one in enumerate(self.metrics):
            for j, other in enumerate(self.metrics[:i]):
                if math.isfinite(rho := float(self.found.rho[i, j])):
                    yield other, one, rho


def agreements(results: Results) -> Agreements | None:
    """None with fewer than two such metrics or three such cells."""
    from nag.agreement import LEAST

    directed = [
        metric
        for metric in results.metrics
        if results.lower_is_better(metric) is not None and not results.is_cost(metric)
    ]
    scored = [cell for cell in results.cells if cell.complete and cell.scores]
    metrics = [metric for metric in directed if scored and all(_known(cell, metric) for cell in scored)]
    measured = [digest([cell.scores[metric]["stamp"] for metric in metrics]) for cell in scored]
    alike = [cell for cell, way in zip(scored, measured, strict=True) if way == Counter(measured).most_common(1)[0][0]]
    return Agreements(results, tuple(metrics), tuple(alike)) if len(metrics) > 1 and len(alike) >= LEAST else None


def _known(cell: CellResult, metric: str) -> bool:
    value = cell.value(metric)
    return value is not None and math.isfinite(value)


def agreement_table(results: Results) -> Table | None:
    known = agreements(results)
    if known is None:
        return None
    names = [metric_name(results, metric) for metric in known.metrics]
    rows = []
    for i, name in enumerate(names):
        cells = [_cell(*(float(one[i, j]) for one in known.found)) if j < i else TableCell() for j in range(len(names))]
        rows.append(Row((TableCell(name), *cells[:-1])))
    columns = (Column("metric"), *(Column(name, numeric=True) for name in names[:-1]))
    return Table(columns, tuple(rows[1:]), f"{TITLE} ({len(known.cells)} cells)", page_notes=NOTES)


def _cell(rho: float, low: float, high: float) -> TableCell:
    if not math.isfinite(rho):
        return TableCell("–", "equal in all cells")
    interval = f"[{_two(low)}, {_two(high)}]" if math.isfinite(low) else ""
    return TableCell(_two(rho), interval)


def _two(value: float) -> str:
    return minus(f"{value:.2f}").replace("−0.00", "0.00")


def as_json(results: Results) -> dict[str, Any] | None:
    known = agreements(results)
    if known is None:
        return None
    matrices = {name: matrix.round(6).tolist() for name, matrix in known.found._asdict().items()}
    return {"metrics": list(known.metrics), "cells": len(known.cells), **matrices}
