"""`report --json`: the results as one document for other programs. docs/json.md specifies its form."""

from __future__ import annotations

import math
from typing import Any

from orchestrator.report import agreement, by_class, choices, shift_agreement, verdict_table
from orchestrator.report.comparisons import compare
from orchestrator.report.devices import marked
from orchestrator.report.published_values import published_values
from orchestrator.report.results import CellResult, Results
from orchestrator.report.verdicts import verdicts
from orchestrator.store.store import Store


def document(results: Results, store: Store) -> dict[str, Any]:
    """Verdicts, choices, cells, comparisons, what is missing and what failed. Numbers that are not finite are null."""
    scored, paper = [cell for cell in results.cells if cell.scores], results.plan.sweep.paper
    comparisons = compare(results, store)
    published = {"published": [one.as_json(paper) for one in published_values(results)]} if paper else {}
    return _finite(
        published
        | {
            "sweep": results.plan.sweep.name,
            "overrides": list(results.plan.sweep.overrides),
            "protocol": results.plan.sweep.protocol,
            "verdict": verdict_table.as_json(results, verdicts(results, comparisons)),
            "choices": choices.as_json(results),
            "cells": [_cell(results, cell) for cell in scored],
            "comparisons": [marked(results, row) for row in comparisons],
            "agreement": agreement.as_json(results),
            "shift_agreement": shift_agreement.as_json(results),
            "floor": results.floor,
            "missing": [_name(cell) for cell in results.cells if not cell.complete and cell.reason is None],
            "failed": [
                _name(cell) | {"reason": cell.reason, "log": cell.log}
                for cell in results.cells
                if cell.reason is not None
            ],
        }
    )


def _name(cell: CellResult) -> dict[str, Any]:
    return {"arm": cell.arm, "digest": cell.digest, "params": dict(cell.params)}


def _cell(results: Results, cell: CellResult) -> dict[str, Any]:
    metrics = {
        name: {key: entry["score"][key] for key in ("value", "low", "high", "extrapolated", "reason")}
        for name, entry in cell.scores.items()
    }
    stamps = {
        name: entry["stamp"] | ({"states": entry["states"]} if entry.get("states") else {})
        for name, entry in cell.scores.items()
    }
    cost = {"network_calls": cell.network_calls, "steps": cell.steps, "seconds": cell.seconds}
    classes = {"by_class": by_class.as_json(results, cell.by_class)} if cell.by_class else {}
    shift = {"shift": cell.shift} if cell.shift else {}
    return _name(cell) | {"metrics": metrics} | cost | {"stamps": stamps} | shift | classes


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
