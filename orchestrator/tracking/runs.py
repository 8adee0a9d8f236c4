"""The MLflow runs of a sweep: one for each scored or failed cell, one for each training, one summary.

A pure function of the records: all times come from them, so lost runs are created again just as they were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.errors import CorruptFile, MissingFile
from orchestrator.identity import checksum, digest
from orchestrator.plan.model import StoredCell, StoredPlan
from orchestrator.report.agreement import agreements
from orchestrator.report.comparisons import compare
from orchestrator.report.formatting import state_text
from orchestrator.report.palette import arm_colours
from orchestrator.report.results import CellResult, Results
from orchestrator.report.verdict_table import tag_text
from orchestrator.report.verdicts import verdicts
from orchestrator.store.store import Store
from orchestrator.tasks.checkpoints import training_progress
from orchestrator.tasks.task import Task
from orchestrator.tracking.grid import GRID_VERSION, sample_png

COLOUR, NOTE = "mlflow.runColor", "mlflow.note.content"
Point = tuple[str, float, int, int]  # metric, value, milliseconds since the epoch, step


@dataclass(frozen=True)
class Artifact:
    """A file of a run. digest: of its content, known before the file is read or made."""

    digest: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Run:
    key: str
    name: str
    status: str  # FINISHED | FAILED | SCHEDULED (part of it is still to be done) | RUNNING (a training)
    start_ms: int
    end_ms: int
    params: Mapping[str, str] = field(default_factory=dict)
    points: tuple[Point, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)  # path -> file
    verdict: str | None = None  # on its setting, known when all cells of the sweep are done

    @property
    def folders(self) -> dict[str, str]:
        """Digests of artifacts by the first part of their paths; what changed is uploaded again."""
        parts: dict[str, dict[str, str]] = {}
        for path, artifact in self.artifacts.items():
            parts.setdefault(path.partition("/")[0], {})[path] = artifact.digest
        return {name: digest(files)[:12] for name, files in sorted(parts.items())}

    @property
    def state(self) -> str:
        """A digest of the run without its artifacts and its verdict, which hangs on other runs."""
        held = [self.name, self.status, self.start_ms, self.end_ms, dict(self.params), [list(p) for p in self.points]]
        return digest([*held, dict(self.tags)])


def runs(results: Results, store: Store | None = None, report: Path | None = None) -> list[Run]:
    """The runs of a sweep. With `store`: also its trainings, and the times of failures. With `report` (a folder): also
    its files, and the sample grids of the best cells.
    """
    planned = {(cell.arm, cell.digest, _params_digest(cell.params)): cell for cell in results.plan.cells}
    varying = list(results.plan.varying)
    colours = arm_colours(arm.name for arm in results.plan.sweep.arms)
    best = best_cells(results) if report else []
    failed_at = partial(_failed_at, results.plan, store, {})
    ruled = _verdicts(results, store)
    all_runs = []
    for cell in results.cells:
        if cell.complete or cell.reason is not None:
            stored_cell = planned[cell.arm, cell.digest, _params_digest(cell.params)]
            grid = _grid(store, stored_cell) if store is not None and cell in best else {}
            all_runs.append(
                _cell(results, cell, stored_cell, varying, colours[cell.arm], failed_at, grid, ruled.get(id(cell)))
            )
    all_runs += _trainings(results.plan, store) if store is not None else []
    whole = results.plan.whole and len(results.cells) == len(results.plan.cells)  # else the old summary stays
    return [*all_runs, _summary(results, all_runs, report)] if whole and (all_runs or report) else all_runs


def _verdicts(results: Results, store: Store | None) -> dict[int, str]:
    """The verdict on the setting of a cell, by the cell's id; none for some arms, or while cells are to be done."""
    over = all(cell.complete or cell.reason is not None for cell in results.cells)
    if store is None or not over or not results.plan.whole:
        return {}
    ruled = verdicts(results, compare(results, store))
    return {id(cell): tag_text(results, one) for one in ruled for cell in one.group.cells}


def _params_digest(params: Mapping[str, Any]) -> str:
    return digest(dict(params))


def best_cells(results: Results) -> list[CellResult]:
    """The best cell of each arm by the sweep's first metric, corrected for its bias in N if all have such a value. If
    neither direction is better: the one nearest to 0.
    """
    metric = next((name for name in results.metrics if not results.is_cost(name)), None)
    if metric is None:
        return []
    lower = results.lower_is_better(metric)
    best = []
    for arm in results.plan.sweep.arms:
        cells = [cell for cell in results.of(arm.name) if cell.value(metric) is not None]
        key = "extrapolated" if all(cell.value(metric, "extrapolated") is not None for cell in cells) else "value"
        values = [(cell.value(metric, key), i) for i, cell in enumerate(cells)]
        ranked = [(abs(v) if lower is None else v if lower else -v, i) for v, i in values if v is not None]
        if ranked:
            best.append(cells[min(ranked)[1]])
    return best


def _cell(
    results: Results,
    cell: CellResult,
    planned: StoredCell,
    varying: list[str],
    colour: str,
    failed_at: Callable[[StoredCell], float],
    artifacts: Mapping[str, Artifact],
    ruled: str | None,
) -> Run:
    sweep = results.plan.sweep.name
    end = cell.finished or failed_at(planned)
    values: dict[str, float | None] = {"network_calls": cell.network_calls, "worker_seconds": cell.seconds}
    for name, entry in cell.scores.items():
        score = entry["score"]
        values |= {name: score["value"], f"{name}_low": score["low"], f"{name}_high": score["high"]}
    points: list[tuple[str, float | None, float, int]] = [(name, value, end, 0) for name, value in values.items()]
    shift = cell.shift or {"t": (), "delta": ()}
    points += [("noise_shift", d, end, round(1000 * t)) for t, d in zip(shift["t"], shift["delta"], strict=True)]
    curve = cell.effective_scale or {"t": (), "scale": ()}
    by_level = zip(curve["t"], curve["scale"], strict=True)
    points += [("effective_scale_by_level", scale, end, round(1000 * t)) for t, scale in by_level]
    tags = {
        "sweep": sweep,
        "arm": cell.arm,
        "sampler": str(cell.params.get("sampler")),
        "digest": cell.digest,
        "kind": "cell",
        COLOUR: colour,
    }
    if cell.reason is not None:
        tags["reason"] = cell.reason
    varied = [(_short(key), _value(cell.params[key])) for key in varying if key in cell.params]
    return Run(
        key=digest([sweep, cell.arm, cell.digest, dict(cell.params)]),
        name=" ".join([cell.arm, *(v if key in ("sampler", cell.arm) else f"{key}={v}" for key, v in varied)]),
        status="FINISHED" if cell.complete else "FAILED",
        start_ms=_ms(end - (cell.seconds or 0)),
        end_ms=_ms(end),
        params={key: str(value) for key, value in cell.params.items()},
        points=_points(points),
        tags=tags,
        artifacts=artifacts,
        verdict=ruled,
    )


def _short(key: str) -> str:
    return key.removesuffix(".scale").rpartition(".")[2]


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))  # MLflow takes 0 for "now"


def _points(values: Iterable[tuple[str, float | None, float, int]]) -> tuple[Point, ...]:
    """Points from metric, value, seconds since the epoch, step. Values have six digits, because MLflow shows all.
    Infinite ones are left out, because it would draw them as 1.8e308.
    """
    return tuple(
        (n, float(f"{v:.6g}"), _ms(at), step) for n, v, at, step in values if v is not None and math.isfinite(v)
    )


def _failed_at(plan: StoredPlan, store: Store | None, known: dict[str, float], cell: StoredCell) -> float:
    """When a task that a cell needs last failed, in seconds since the epoch; 0 if that is unknown."""

    def last(task: str) -> float:
        if task not in known and store is not None:
            names = store.list(f"attempts/{task}")
            with suppress(CorruptFile):
                known[task] = store.read_record(f"attempts/{task}/{names[-1]}", repair=False)["time"] if names else 0.0
        return max([known.setdefault(task, 0.0), *map(last, plan.tasks[task].inputs)])

    return max(map(last, [scored.task for scored in cell.scores] or [cell.stream]))


def _grid(store: Store, cell: StoredCell) -> dict[str, Artifact]:
    name = digest([GRID_VERSION, cell.stream, cell.count])
    return {"samples.png": Artifact(name, partial(sample_png, store, cell))}


def _trainings(plan: StoredPlan, store: Store) -> list[Run]:
    trainings = []
    for task in plan.tasks.values():
        if task.kind != "train":
            continue
        so_far = _training_so_far(task, store)
        if so_far is None:
            continue
        status, started, ended, measured = so_far
        network = plan.instances.get(task.digest)
        params = _flat(task.params) | ({key: str(value) for key, value in network.axes.items()} if network else {})
        name = network.name if network else params.get("extractor") or params.get("model") or task.digest[:12]
        axes = [f"{_short(key)}={_value(value)}" for key, value in network.axes.items()] if network else []
        trainings.append(
            Run(
                key=digest([plan.sweep.name, "training", task.digest]),
                name=" ".join(["training", str(name), *axes]),
                status=status,
                start_ms=_ms(started),
                end_ms=_ms(ended),
                params=params,
                points=_points(measured),
                tags={"sweep": plan.sweep.name, "digest": task.digest, "kind": "training"},
            )
        )
    return trainings


def _training_so_far(task: Task, store: Store) -> tuple[str, float, float, list[tuple[str, float, float, int]]] | None:
    """Status, start, end and points (name, value, time, step) of a training so far; None before it starts."""
    try:
        record = store.read_record(task.record_name, repair=False)
    except (MissingFile, CorruptFile):  # not done yet, or the next run repeats it
        rows = training_progress(store, task.digest)
        if not rows:
            return None
        return "RUNNING", rows[0]["time"], rows[-1]["time"], [point for row in rows for point in _row_points(row)]
    ended = record["started"] + record["seconds"]
    telemetry = record.get("telemetry", {"columns": [], "rows": []})
    rows = [dict(zip(telemetry["columns"], row, strict=True)) for row in telemetry["rows"]]
    points = [point for row in rows for point in _row_points(row)]
    return "FINISHED", record["started"], ended, [*points, ("worker_seconds", record["seconds"], ended, 0)]


def _row_points(row: Mapping[str, float]) -> list[tuple[str, float, float, int]]:
    step, at = int(row["step"]), row["time"]
    return [(name, value, at, step) for name, value in row.items() if name not in ("step", "time")]


def _flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A task's params as flat text: {"model": {"name": "sit", "fields": {"depth": 4}}} gives model, model.depth."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        if isinstance(value, Mapping):
            if "name" in value:
                flat[prefix + key] = str(value["name"])
            flat |= _flat(value.get("fields", {}), f"{prefix}{key}.")
        elif value is not None:
            flat[prefix + key] = str(value)
    return flat


def _summary(results: Results, others: list[Run], report: Path | None) -> Run:
    sweep = results.plan.sweep
    done = sum(cell.complete for cell in results.cells)
    failed = sum(cell.reason is not None for cell in results.cells)
    status = (
        "FINISHED" if done == len(results.cells) else "FAILED" if done + failed == len(results.cells) else "SCHEDULED"
    )
    note = f"Sweep `{sweep.name}`: {state_text(results)}."
    note += " The report is among the artifacts." if report else ""
    note += f"\n\n```yaml\n{sweep.text[:6000]}\n```"
    end_ms = max((run.end_ms for run in others), default=1)
    agreed = agreements(results) if status == "FINISHED" else None  # MLflow keeps what it was told before
    pairs = agreed.pairs() if agreed else ()
    return Run(
        key=digest([sweep.name, "summary"]),
        name=f"{sweep.name} summary",
        status=status,
        start_ms=min((run.start_ms for run in others), default=1),
        end_ms=end_ms,
        points=_points((f"agreement/{one}/{other}", rho, end_ms / 1000, 0) for one, other, rho in pairs),
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
