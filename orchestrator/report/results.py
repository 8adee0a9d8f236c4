"""What the records say of a plan: the cells with their metrics, what is missing, what failed. Reads, never writes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nag.metrics.metric import Shown, shown
from nag.registry import name_of
from orchestrator.errors import CorruptFile
from orchestrator.execution import engine
from orchestrator.identity import digest
from orchestrator.plan.model import Plan, PlannedCell, Scored
from orchestrator.plan.progress import Done
from orchestrator.store.layout import file_name
from orchestrator.store.store import Store
from orchestrator.tasks.score import NO_HELD_OUT


@dataclass
class CellResult:
    """A cell as far as it is scored. `scores`: metric name -> the whole score, with its record and stamp."""

    arm: str
    digest: str
    params: Mapping[str, Any]
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    complete: bool = True
    finished: float = 0.0  # seconds since the epoch
    network_calls: float | None = None
    seconds: float | None = None
    reason: str | None = None  # why it failed
    log: str | None = None  # the log of what failed, on the machine that tried
    kinds_of_device: tuple[dict[str, Any], ...] = ()  # on which it was sampled; {}: one that was not recorded
    shift: dict[str, Any] | None = None  # noise shift by level (nag.noise_shift.shift), with the task that measured it

    def value(self, metric: str, key: str = "value") -> float | None:
        return self.scores[metric]["score"][key] if metric in self.scores else None


@dataclass(frozen=True)
class Floor:
    """What `count` real images score. at: the N that the value was corrected to, its bias taken as c / N; None where it
    is not corrected.
    """

    value: float
    count: int
    at: int | None

    @property
    def words(self) -> str:
        return f"N = {self.count:,}" + (f", corrected to {self.at:,}" if self.at else "")


@dataclass
class Results:
    plan: Plan
    cells: list[CellResult]
    floor: dict[str, dict[str, Any]]  # metric name -> score of the held-out images, and how many they are

    def floor_of(self, metric: str) -> Floor | None:
        """The held-out images' score as it stands beside the cells: at their N, where they have one and it is known."""
        found = self.floor.get(metric)
        if found is None:
            return None
        counts = {cell.scores[metric]["stamp"]["count"] for cell in self.cells if metric in cell.scores}
        value, own, limit = found["value"], found["count"], found.get("extrapolated")
        if counts == {own} or not self.extrapolates(metric):
            return Floor(value, own, None)
        if len(counts) != 1 or limit is None:
            return Floor(value, own, None)
        [count] = counts
        return Floor(limit + (value - limit) * own / count, own, count)

    def of(self, arm: str) -> list[CellResult]:
        return [cell for cell in self.cells if cell.arm == arm]

    @cached_property
    def metrics(self) -> list[str]:
        """Every metric's reported name, in the order of the sweep; but for what a data set without held-out images
        cannot be asked.
        """
        names: dict[str, None] = {}
        for planned in self.plan.cells:
            for scored in planned.scores:
                names.update({name + scored.suffix: None for name in scored.metric.names})
        scores = ((name, entry["score"]) for cell in self.cells for name, entry in cell.scores.items())
        empty = {name for name, score in scores if score["reason"] == NO_HELD_OUT}
        return [name for name in names if name not in empty]

    def lower_is_better(self, metric: str) -> bool | None:
        """None where neither is: a noise shift is best at zero."""
        method, name = self._method(metric)
        return method.lower_is_better[name]

    def extrapolates(self, metric: str) -> bool:
        """Whether the metric is biased in N, so that its differences are between extrapolated values."""
        return self._method(metric)[0].extrapolates

    def is_distance(self, metric: str) -> bool:
        """Whether it is a distance that cells are compared by: one to the held-out images is only shown beside it."""
        return self.extrapolates(metric) and not self.shown(metric).beside

    def is_measured(self, metric: str) -> bool:
        """Whether it is of a measure, such as the noise shift, and not a score of the samples."""
        return self.extractor(metric) == ""

    def shown(self, metric: str) -> Shown:
        """How its values are written."""
        return shown(*self._method(metric))

    def suffix(self, metric: str) -> str:
        """What the extractor adds to its name; "" of the first extractor."""
        return self._scored(metric)[0].suffix

    @cached_property
    def planes(self) -> list[tuple[str, str]]:
        """Pairs (x, y) of reported names that are drawn against each other, as their metrics' classes say."""
        found: dict[tuple[str, str], None] = {}
        for planned in self.plan.cells:
            for scored in planned.scores:
                plane = scored.metric.plane
                if isinstance(plane, tuple) and len(plane) == 2 and {*plane} <= {*scored.metric.names}:
                    found[plane[0] + scored.suffix, plane[1] + scored.suffix] = None
        return [plane for plane in found if {*plane} <= {*self.metrics}]

    def words(self, metric: str) -> str:
        """A metric's name in words: `FID`, `recall`, `FID (pixels)`, `FD-DINOv2`."""
        try:
            scored, name = self._scored(metric)
        except KeyError:
            return metric.replace("_", " ")
        words = shown(scored.metric, name).label or (name.upper() if len(name) <= 3 else name.replace("_", " "))
        own = self._distance_name(scored.extractor)
        if own is not None and words.startswith("FID"):
            return words.replace("FID", own, 1)
        return f"{words} ({scored.suffix[1:]})" if scored.suffix else words

    def _distance_name(self, extractor: str) -> str | None:
        """What the field calls FID on this extractor, as the extractor's class says; None where it has no such name."""
        score = self.plan.sweep.score
        found = [one for one in (score.features if score else ()) if name_of(one) == extractor]
        name = found[0].distance_name if found else None
        return name if isinstance(name, str) else None

    def extractor(self, metric: str) -> str:
        """The name of the extractor that the metric is of; "" for a measurement."""
        return self._scored(metric)[0].extractor

    def setting(self, metric: str) -> str:
        """The fields of a metric, defaults too, such as ` k 3`: values under another setting are other values."""
        method, _ = self._method(metric)
        shown = [f.name for f in dataclasses.fields(method) if f.name not in ("estimator", "against")]
        fields = {name: getattr(method, name) for name in shown}
        return "".join(f" {name} {value}" for name, value in fields.items())

    def _method(self, metric: str) -> tuple[Any, str]:
        scored, name = self._scored(metric)
        return scored.metric, name

    def _scored(self, metric: str) -> tuple[Scored, str]:
        for planned in self.plan.cells:
            for scored in planned.scores:
                for name in scored.metric.names:
                    if name + scored.suffix == metric:
                        return scored, name
        raise KeyError(metric)


def collect(plan: Plan, store: Store, done: Done | None = None) -> Results:
    """Read the records of a plan's cells and floors. A record that is damaged counts as not there."""
    done = done or Done(store)
    records: dict[str, dict[str, Any] | None] = {}

    def record(task: str) -> dict[str, Any] | None:
        if task not in records:
            records[task] = None
            if done.small_done(plan.tasks[task]):
                with contextlib.suppress(CorruptFile):  # the next run makes it again
                    records[task] = store.read_record(plan.tasks[task].record_name, repair=False)
        return records[task]

    cells = [_cell(plan, done, planned, record) for planned in plan.cells]
    for planned, result in zip(plan.cells, cells, strict=True):
        if not result.complete:
            goals = [scored.task for scored in planned.scores if record(scored.task) is None] or [planned.stream]
            for attempt in engine.failures(plan, done, goals).values():
                result.reason, result.log = attempt["reason"], attempt["log"]
    floor: dict[str, dict[str, Any]] = {}
    for _, floor_scores in plan.floors:
        for scored in floor_scores:
            found = record(scored.task)
            for name, score in (found or {"values": {}})["values"].items():
                if found is not None and score["value"] is not None:
                    floor[name + scored.suffix] = {
                        "value": score["value"],
                        "count": found["count"],
                        "extrapolated": score["extrapolated"],
                    }
    return Results(plan, cells, floor)


def _cell(plan: Plan, done: Done, planned: PlannedCell, record: Any) -> CellResult:
    result = CellResult(planned.cell.arm, planned.digest, planned.cell.params)
    extract_s: dict[str, float] = {}
    sample_s = None
    for scored in planned.scores:
        found = record(scored.task)
        if found is None:
            result.complete = False
            continue
        for name, score in found["values"].items():
            stamp = _stamp(plan, scored, found)
            entry = {"score": score, "task": scored.task, "name": name, "stamp": stamp}
            result.scores[name + scored.suffix] = entry | {"dimension": found.get("dimension")}
        result.finished = max(result.finished, found["started"] + found["seconds"])
        if plan.tasks[scored.task].kind == "measure":
            estimator = plan.sweep.estimator.name if plan.sweep.estimator else ""
            result.shift = {**found["shift"], "estimator": estimator, "task": scored.task}
            for name in found["values"]:
                result.scores[name + scored.suffix]["states"] = found.get("states")
        else:
            result.kinds_of_device = tuple(found.get("kinds_of_device", ()))
            result.network_calls, sample_s = found.get("network_calls"), found.get("sample_seconds")
            extract_s[plan.tasks[scored.task].params["features"]] = found.get("extract_seconds", 0.0)
    if not planned.scores:
        result.complete = done.complete(plan, planned.stream)
    if sample_s is not None:
        result.seconds = round(sample_s + sum(extract_s.values()), 3)
    return result


def _stamp(plan: Plan, scored: Scored, record: Mapping[str, Any]) -> dict[str, Any]:
    """The measurement stamp: values under unlike stamps are never ranked with each other."""
    task = plan.tasks[scored.task]
    if task.kind == "measure":
        return {key: task.params[key] for key in ("measure", "levels", "estimator", "data", "count")}
    reference = plan.tasks[task.params["reference"]]
    features = plan.tasks[task.params["features"]]
    return {
        "metric": task.params["metric"],
        "count": record["count"],
        "extractor": reference.params["extractor"],
        "weights": reference.params["weights"],
        "reference": reference.digest,
        "reference_content": _content(reference.params),
        "reference_size": record["reference_size"],
        "decode": features.params.get("decode"),
        "labels": plan.tasks[features.params["stream"]].params["labels"],
    }


def _content(params: Mapping[str, Any]) -> str:
    """The hash of what a reference is made of: of a published file, or of a data set where it lies."""
    if "statistics" in params:
        return params["statistics"]
    fields = params["data"]["fields"]
    folders = [fields[name] for name in ("path",) if isinstance(fields.get(name), str)]
    return folders[0] if folders else digest(params["data"])


def shift_arrays(store: Store, task: str) -> dict[str, Any] | None:
    """Levels t (K,), and the estimator's predictions on sampled and on true states (K, M) each."""
    from orchestrator.store.arrays import unpack

    try:
        return unpack(store.read(file_name(task, "shift.safetensors")))[0]
    except (CorruptFile, ValueError):
        return None


def influence(store: Store, task: str) -> Any:
    """The influence of every sample on a score, (N,) float32, or None if the metric has none."""
    from orchestrator.store.arrays import unpack

    try:
        return unpack(store.read(file_name(task, "arrays.safetensors")))[0].get("influence")
    except (CorruptFile, ValueError):
        return None
