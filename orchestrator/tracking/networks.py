"""Trainings as runs, what they make as logged models, and the data sets behind them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from orchestrator.errors import CorruptFile, MissingFile
from orchestrator.identity import digest
from orchestrator.plan.model import StoredPlan
from orchestrator.report.formatting import short
from orchestrator.store.store import Store
from orchestrator.tasks.checkpoints import training_progress
from orchestrator.tasks.task import Task
from orchestrator.tracking.run import DataSet, Model, Run, milliseconds, points_of, short_key

FORBIDDEN = re.compile(r"[/:.%\"']")  # in the name of a logged model
FOLDERS = ("image_folder", "npz")  # data sets whose path says which they are
Measured = tuple[str, float, float, int]  # metric, value, seconds since the epoch, step


def training_runs(plan: StoredPlan, store: Store) -> list[Run]:
    """The trainings that have begun, and the checkpoints that were imported."""
    trainings = []
    for task in plan.tasks.values():
        so_far = _so_far(task, store) if task.kind == "train" else None
        if so_far is None:
            continue
        status, started, ended, measured = so_far
        model = model_of(plan, task)
        data = data_set(plan, task.params, "training")
        trainings.append(
            Run(
                key=training_key(plan, task.digest),
                name=f"training {_name(plan, task)}",
                status=status,
                start_ms=milliseconds(started),
                end_ms=milliseconds(ended),
                params=model.params,
                points=points_of(measured),
                tags={"sweep": plan.sweep.name, "digest": task.digest, "kind": "training"},
                makes=model,
                data=(data,) if data else (),
            )
        )
    return trainings


def training_key(plan: StoredPlan, task: str) -> str:
    """The key of a training's run."""
    return digest([plan.sweep.name, "training", task])


def model_of(plan: StoredPlan, task: Task) -> Model:
    """What a training makes, under its name in the sweep with its values on the sweep's axes."""
    network = plan.instances.get(task.digest)
    params = _flat(_readable(plan, task.params))
    if network:
        params |= {key: str(value) for key, value in network.axes.items()}
    name = FORBIDDEN.sub("_", _name(plan, task))
    return Model(task.digest, name, "extractor" if "extractor" in params else "network", params)


def _name(plan: StoredPlan, task: Task) -> str:
    """`sit seed=0`, `ready pre seed=0`, `digits`; a network that the plan does not name has its digest, not the name of
    its model, which may be another network's.
    """
    network = plan.instances.get(task.digest)
    if network is None:
        return str(task.params["extractor"]["name"]) if "extractor" in task.params else task.digest[:12]
    words = [network.name, *(f"{short_key(key)}={short(value)}" for key, value in network.axes.items())]
    parent = task
    while isinstance(init := parent.params.get("init"), str) and init in plan.tasks:
        parent = plan.tasks[init]
        above = plan.instances.get(parent.digest)
        if above and above.axes:
            words += [above.name, *(f"{short_key(key)}={short(value)}" for key, value in above.axes.items())]
    return " ".join(words)


def data_set(plan: StoredPlan, params: Mapping[str, Any], context: str) -> DataSet | None:
    """The data set in the params of a training or a reference; published statistics count as one."""
    if isinstance(statistics := params.get("statistics"), str):
        name = PurePath(plan.places.get(statistics, "published statistics")).name
        return DataSet(name, statistics[:8], plan.places.get(statistics, statistics), context)
    data = _images(plan, params.get("data"))
    if data is None:
        return None
    fields = _readable(plan, data.get("fields", {}))
    path = fields.get("path")
    name = PurePath(path).name if data["name"] in FOLDERS and isinstance(path, str) else data["name"]
    return DataSet(str(name), digest(dict(data))[:8], str(path or data["name"]), context)


def _images(plan: StoredPlan, data: Any) -> Mapping[str, Any] | None:
    """The identity of a data set; of latents, that of the images that were encoded."""
    if isinstance(data, Mapping) and data.get("encode") in plan.tasks:
        data = plan.tasks[data["encode"]].params["data"]
    return data if isinstance(data, Mapping) and "name" in data else None


def _readable(plan: StoredPlan, params: Any) -> Any:
    """Params with names and paths in place of the digests of other tasks and of the contents of files."""
    if isinstance(params, Mapping):
        images = _images(plan, params) if "encode" in params else None
        return {key: _readable(plan, value) for key, value in (images or params).items()}
    if isinstance(params, str) and params in plan.tasks:
        return _name(plan, plan.tasks[params])
    return plan.places.get(params, params) if isinstance(params, str) else params


def _so_far(task: Task, store: Store) -> tuple[str, float, float, list[Measured]] | None:
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


def _row_points(row: Mapping[str, float]) -> list[Measured]:
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
