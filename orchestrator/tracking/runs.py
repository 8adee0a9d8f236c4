"""The MLflow runs of a sweep: one for each scored or failed cell, each setting, training and curve, and a summary.

A pure function of the records: all times come from them, so lost runs are created again just as they were.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.identity import checksum, digest
from orchestrator.report.agreement import agreements
from orchestrator.report.comparisons import groups
from orchestrator.report.results import Results
from orchestrator.store.store import Store
from orchestrator.tracking.cell_runs import CellRuns, Rulings, cell_key
from orchestrator.tracking.curves import curve_runs
from orchestrator.tracking.description import description
from orchestrator.tracking.networks import training_key, training_runs
from orchestrator.tracking.run import Artifact, Run, points_of
from orchestrator.tracking.setting_runs import setting_key, setting_runs

NOTE = "mlflow.note.content"
REPORT = "report.html"


@dataclass(frozen=True)
class Tracked:
    """What MLflow shall hold of a sweep. keys: of all its runs, also of those still to be done; runs with other keys
    are superseded. None if only some arms are asked for.
    """

    runs: list[Run]
    keys: frozenset[str] | None
    description: str  # Markdown


def tracked(results: Results, store: Store | None = None, report: Path | None = None) -> Tracked:
    """The runs of a sweep and its description. With `store`: also its trainings, the times of failures and, once all
    cells are done, verdicts and curves. With `report` (a folder): also its files, and sample grids.
    """
    rulings = Rulings(results, store)
    trainings = training_runs(results.plan, store) if store is not None else []
    cells = CellRuns(results, store, rulings, grids=report is not None)
    made = [*trainings, *cells.every(), *setting_runs(cells)]
    made += curve_runs(results) if rulings.comparisons else []
    whole = results.plan.whole and len(results.cells) == len(results.plan.cells)  # else the old summary stays
    text = description(results, rulings.comparisons)
    made += [_summary(results, made, report, text)] if whole and (made or report) else []
    if not whole or store is None:
        return Tracked(made, None, text)
    keys = {cell_key(results, cell) for cell in results.plan.cells} | {run.key for run in made}
    keys |= {setting_key(results, group) for arm in results.plan.sweep.arms for group in groups(results, arm.name)}
    keys |= {training_key(results.plan, task.digest) for task in results.plan.tasks.values() if task.kind == "train"}
    return Tracked(made, frozenset(keys), text)


def runs(results: Results, store: Store | None = None, report: Path | None = None) -> list[Run]:
    """The runs of `tracked`."""
    return tracked(results, store, report).runs


def summary_key(sweep: str) -> str:
    """The key of a sweep's summary, which has its report."""
    return digest([sweep, "summary"])


def _summary(results: Results, others: list[Run], report: Path | None, text: str) -> Run:
    sweep = results.plan.sweep
    done = sum(cell.complete for cell in results.cells)
    failed = sum(cell.reason is not None for cell in results.cells)
    over = "FAILED" if done + failed == len(results.cells) else "SCHEDULED"
    status = "FINISHED" if done == len(results.cells) else over
    note = f"{text}\n\n{'The report is among the artifacts.' if report else ''}\n\n```yaml\n{sweep.text[:2500]}\n```"
    end_ms = max((run.end_ms for run in others), default=1)
    agreed = agreements(results) if status == "FINISHED" else None  # MLflow keeps what it was told before
    pairs = agreed.pairs() if agreed else ()
    return Run(
        key=summary_key(sweep.name),
        name=f"{sweep.name} summary",
        status=status,
        start_ms=min((run.start_ms for run in others), default=1),
        end_ms=end_ms,
        points=points_of((f"agreement/{one}/{other}", rho, end_ms / 1000, 0) for one, other, rho in pairs),
        tags={
            "sweep": sweep.name,
            "kind": "summary",
            "cells": str(len(results.cells)),
            "cells_done": str(done),
            "cells_failed": str(failed),
            NOTE: note,
        },
        artifacts=_files(report) if report else {},
    )


def _files(report: Path) -> dict[str, Artifact]:
    artifacts = {}
    for path in sorted(report.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            with suppress(FileNotFoundError):  # another process writes a new report
                name = path.relative_to(report).as_posix()
                artifacts[name] = Artifact(checksum(path.read_bytes()), path.read_bytes)
    return artifacts
