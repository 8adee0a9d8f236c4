"""The numerical precision of networks and samples. A comparison across precisions is noted (docs/precision.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nag.numerics import Precision
from orchestrator.plan.model import StoredPlan
from orchestrator.report.comparisons import Comparison, groups
from orchestrator.report.formatting import listed
from orchestrator.report.results import CellResult, Results


def words(precision: Precision) -> str:
    """`bfloat16, compiled`"""
    parts = [precision.dtype, "with TF32" if precision.tf32 else "", "compiled" if precision.compile else ""]
    return ", ".join(filter(None, parts))


def of_stream(plan: StoredPlan, stream: str) -> str:
    """How a stream was sampled, and its network and those that this one was fine-tuned from were trained."""
    params = plan.tasks[stream].params
    trained, network = [], plan.tasks.get(params["network"])
    while network is not None:
        fields: Mapping[str, Any] = network.params.get("train", {}).get("fields", {})
        trained += [words(Precision(**fields.get("precision", {})))] if "train" in network.params else []
        network = plan.tasks.get(network.params.get("init", ""))
    sampled = words(Precision(**params["precision"]))
    return f"sampled in {sampled}" + (f", trained in {' after '.join(dict.fromkeys(trained))}" if trained else "")


def note(results: Results, comparisons: Sequence[Comparison], metric: str) -> str:
    """Note which comparisons cross precisions; empty if none does."""
    pairs = zip(results.plan.cells, results.cells, strict=True)
    known = {id(cell): of_stream(results.plan, planned.stream) for planned, cell in pairs}
    crossing = {}
    for row in comparisons:
        found = sorted({known[id(cell)] for cell in _cells(results, row) if id(cell) in known})
        if row.metric == metric and len(found) > 1:
            crossing[f"{row.arm} against {row.against}"] = found
    if not crossing:
        return ""
    every = sorted({words for found in crossing.values() for words in found})
    return f"Of unlike precision ({'; '.join(every)}): {listed(list(crossing))}. This alone may move a distance."


def _cells(results: Results, row: Comparison) -> list[CellResult]:
    sides = ((row.arm, row.params), (row.against, row.against_params))
    every = ((group, params) for arm, params in sides for group in groups(results, arm))
    return [cell for group, params in every if group.params == params for cell in group.cells]
