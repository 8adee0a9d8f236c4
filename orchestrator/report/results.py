"""Results of a plan, read from its records: cells with their metrics, what is missing, what failed. Writes nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from nag.metrics.metric import Shown, influence_name
from orchestrator.errors import CorruptFile
from orchestrator.execution import engine
from orchestrator.identity import digest
from orchestrator.plan.choices import Choices
from orchestrator.plan.model import Choice, Scored, StoredCell, StoredPlan
from orchestrator.plan.progress import Done
from orchestrator.plan.reported import Reported, Value
from orchestrator.report.means import mean_entry, members, with_means
from orchestrator.store.layout import file_name
from orchestrator.store.store import Store
from orchestrator.tasks.measured import inputs_of, mean_scale, scale_in
from orchestrator.tasks.score import NO_HELD_OUT
from orchestrator.tasks.task import kind_of


@dataclass
class CellResult:
    """A cell and its scores so far. `scores`: metric name -> the score with its task and stamp."""

    arm: str
    digest: str
    params: Mapping[str, Any]
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    complete: bool = True
    finished: float = 0.0  # seconds since the epoch
    network_calls: float | None = None
    seconds: float | None = None
    matched: float | None = None  # the scale of its CFG, if that is the effective scale of another arm
    steps: int | None = None  # of its sampler; None if they depend on the states
    reason: str | None = None  # why it failed
    log: str | None = None  # path of the failed task's log, on the machine that ran it
    kinds_of_device: tuple[dict[str, Any], ...] = ()  # that sampled it; {} if not recorded
    shift: dict[str, Any] | None = None  # noise shift by level (nag.noise_shift.shift), with the task that measured it
    effective_scale: dict[str, Any] | None = None  # by level (nag.effective_scale.summary)
    by_class: dict[str, dict[str, Any]] = field(default_factory=dict)  # by the name of a metric's first value

    def value(self, metric: str, key: str = "value") -> float | None:
        return self.scores[metric]["score"][key] if metric in self.scores else None


@dataclass(frozen=True)
class Floor:
    """The score of `count` held-out images. at: the N to which its bias, modelled as c / N, is corrected, or None."""

    value: float
    count: int
    at: int | None

    @property
    def words(self) -> str:
        return f"N = {self.count:,}" + (f", corrected to {self.at:,}" if self.at else "")


@dataclass
class Results:
    plan: StoredPlan
    cells: list[CellResult]
    floor: dict[str, dict[str, Any]]  # metric name -> score and number of the held-out images
    choices: tuple[Choice, ...] = ()  # of tuned values

    def __post_init__(self) -> None:
        """Give each cell the means over extractors of the metrics that have one, once all of them are scored."""
        for mean, names in members(self._values).items():
            for cell in self.cells:
                if all(name in cell.scores for name in names):
                    cell.scores[mean] = mean_entry(mean, [cell.scores[name] for name in names])

    @property
    def complete(self) -> bool:
        """Whether every cell is done, and every tuned value is chosen."""
        return all(cell.complete for cell in self.cells) and all(choice.chosen for choice in self.choices)

    def floor_of(self, metric: str) -> Floor | None:
        """The held-out images' score, corrected to the N of the cells if they share one and the limit is known."""
        held_out = self.floor.get(metric)
        if held_out is None:
            return None
        counts = {cell.scores[metric]["stamp"]["count"] for cell in self.cells if metric in cell.scores}
        value, own, limit = held_out["value"], held_out["count"], held_out.get("extrapolated")
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
        """The reported names of all metrics, in the order of the sweep, except those that need held-out images if the
        data set has none.
        """
        scores = ((name, entry["score"]) for cell in self.cells for name, entry in cell.scores.items())
        empty = {name for name, score in scores if score["reason"] == NO_HELD_OUT}
        return [name for name in self._values if name not in empty]

    def lower_is_better(self, metric: str) -> bool | None:
        """None if neither direction is better: a noise shift is best at zero."""
        return self._value(metric)[1].lower_is_better

    def extrapolates(self, metric: str) -> bool:
        """Whether the metric is biased in N, so that differences are taken between extrapolated values."""
        return self._value(metric)[0].extrapolates

    def is_distance(self, metric: str) -> bool:
        """Whether cells are compared by this distance; those to held-out images are only shown."""
        return self.extrapolates(metric) and not self.shown(metric).beside

    def is_shift(self, metric: str) -> bool:
        """Whether it is a noise shift: measured on a sampler's states, not by scoring samples."""
        return self.extractor(metric) == "" and not self.is_cost(metric)

    def is_cost(self, metric: str) -> bool:
        """Whether it says what a setting does or costs, such as the effective scale: it decides nothing."""
        return self.shown(metric).cost

    def shown(self, metric: str) -> Shown:
        """How its values are written."""
        return self._value(metric)[1].shown

    def suffix(self, metric: str) -> str:
        """The suffix that the extractor adds to its name; "" for the first extractor."""
        return self._value(metric)[0].suffix

    @cached_property
    def planes(self) -> list[tuple[str, str]]:
        """Pairs (x, y) of reported names to draw against each other, as declared by the metrics' classes."""
        drawn = ((one.plane[0] + one.suffix, one.plane[1] + one.suffix) for one in self.plan.metrics if one.plane)
        return [plane for plane in dict.fromkeys(drawn) if {*plane} <= {*self.metrics}]

    def words(self, metric: str) -> str:
        """A metric's name in words: `FID`, `recall (pixels)`, `FD-DINOv2`, `Fréchet distance (digits)`."""
        return self._values[metric][1].words if metric in self._values else metric.replace("_", " ")

    def extractor(self, metric: str) -> str:
        """The name of the metric's extractor; "" for a measurement."""
        return self._value(metric)[0].extractor

    def mode(self, metric: str) -> str:
        """How its extractor resizes images; "" if there is only one way."""
        return self._value(metric)[0].mode

    def prepares(self, metric: str) -> str:
        """How its extractor prepares images, in words; "" if it does not say."""
        return self._value(metric)[0].prepares

    def setting(self, metric: str) -> str:
        """The fields of a metric, with defaults, such as ` k 3`: other settings give other values."""
        return self._value(metric)[0].setting

    def _value(self, metric: str) -> tuple[Reported, Value]:
        return self._values[metric]

    @cached_property
    def _values(self) -> dict[str, tuple[Reported, Value]]:
        """Metric and value by reported name."""
        values: dict[str, tuple[Reported, Value]] = {}
        for one in self.plan.metrics:
            for value in one.values:
                values.setdefault(value.name + one.suffix, (one, value))
        return with_means(values)


def collect(plan: StoredPlan, store: Store, done: Done | None = None) -> Results:
    """Read the records of a plan's cells and held-out images. A damaged record counts as missing."""
    done = done or Done(store)
    choices = Choices(plan, store)
    plan = choices.current(done)
    records: dict[str, dict[str, Any] | None] = {}

    def record(task: str) -> dict[str, Any] | None:
        if task not in records:
            records[task] = None
            if done.small_done(plan.tasks[task]):
                with contextlib.suppress(CorruptFile):  # the next run repeats it
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
            task_record = record(scored.task)
            for name, score in (task_record or {"values": {}})["values"].items():
                if task_record is not None and score["value"] is not None:
                    floor[name + scored.suffix] = {
                        "value": score["value"],
                        "count": task_record["count"],
                        "extrapolated": score["extrapolated"],
                    }
    told = tuple(_with_reason(choice, choices, plan, done) for choice in choices.told(done))
    return Results(plan, cells, floor, told)


class LiveResults:
    """The results of a plan while it runs: what is finished is read once, and each new record as it comes."""

    def __init__(self, plan: StoredPlan, store: Store) -> None:
        self.whole, self.store = plan, store
        self.records: dict[str, dict[str, Any]] = {}
        self.new: set[str] = set()  # finished since; their records are not read yet
        self.plan: StoredPlan | None = None  # with the choices made so far
        self.done: Done | None = None

    def finished(self, kind: str, digest: str) -> None:
        """A task that scores cells, or that chooses among them."""
        self.new.add(digest)
        if kind_of(kind).reads_all:
            self.plan = None

    @property
    def choices_open(self) -> int:
        """Tuned values that are not chosen yet; call it after `results`."""
        known = {cell.digest for cell in self.plan.cells} if self.plan else set()
        races = [race for race in self.whole.races if race.follows is None]
        return sum(not any(cell.digest in known for one in race.candidates for cell in one.cells) for race in races)

    def results(self) -> Results:
        if self.plan is None or self.done is None:
            self.done = Done(self.store)
            self.plan = Choices(self.whole, self.store).current(self.done)
        cells = [_cell(self.plan, self.done, planned, self._record) for planned in self.plan.cells]
        return Results(self.plan, cells, {})

    def _record(self, task: str) -> dict[str, Any] | None:
        if task not in self.records:
            known = self.plan is not None and self.done is not None and self.done.small_done(self.plan.tasks[task])
            if not known and task not in self.new:
                return None
            with contextlib.suppress(CorruptFile):
                self.records[task] = self.store.read_record(self.whole.tasks[task].record_name, repair=False)
        return self.records.get(task)


def _with_reason(choice: Choice, choices: Choices[StoredPlan], plan: StoredPlan, done: Done) -> Choice:
    """The choice with the reason of its failure, if what it needs next was given up."""
    step = None if choice.chosen else choices.next_step(choice, done)
    failed = engine.failures(plan, done, [step]) if step else {}
    return replace(choice, reason=next((str(attempt["reason"]) for attempt in failed.values()), None))


def _matched(plan: StoredPlan, planned: StoredCell, record: Any) -> float | None:
    """The scale of a cell that matches another arm, once it is measured there."""
    tasks = [task for each in plan.tasks[planned.stream].params["guidance"] for task in inputs_of(each)]
    records = [record(task) for task in tasks]
    if not records or None in records:
        return None
    return mean_scale(scale_in(each) for each in records)


def _cell(plan: StoredPlan, done: Done, planned: StoredCell, record: Any) -> CellResult:
    steps = plan.tasks[planned.stream].params["sampler"]["fields"].get("steps")
    result = CellResult(planned.arm, planned.digest, planned.params, steps=steps)
    result.matched = _matched(plan, planned, record)
    extract_s: dict[str, float] = {}
    sample_s = None
    for scored in planned.scores:
        task_record = record(scored.task)
        if task_record is None:
            result.complete = False
            continue
        for name, score in task_record["values"].items():
            stamp = _stamp(plan, scored, task_record)
            entry = {"score": score, "task": scored.task, "name": name, "stamp": stamp}
            entry["influence"] = influence_name(scored.metric.names, name)
            result.scores[name + scored.suffix] = entry | {"dimension": task_record.get("dimension")}
        if table := task_record.get("by_class"):
            about = {"task": scored.task, "no_pictures": task_record.get("no_pictures")}
            result.by_class[scored.metric.names[0] + scored.suffix] = table | about
        result.finished = max(result.finished, task_record["started"] + task_record["seconds"])
        if plan.tasks[scored.task].kind == "measure":
            result.effective_scale = task_record.get("curve") or result.effective_scale
            if shift := task_record.get("shift"):
                estimator = plan.instances[plan.tasks[scored.task].params["estimator"]].name
                result.shift = {**shift, "estimator": estimator, "task": scored.task}
            for name in task_record["values"]:
                result.scores[name + scored.suffix]["states"] = task_record.get("states")
        else:
            result.kinds_of_device = tuple(task_record.get("kinds_of_device", ()))
            result.network_calls, sample_s = task_record.get("network_calls"), task_record.get("sample_seconds")
            extract_s[plan.tasks[scored.task].params["features"]] = task_record.get("extract_seconds", 0.0)
    if not planned.scores:
        result.complete = done.complete(plan, planned.stream)
    if sample_s is not None:
        result.seconds = round(sample_s + sum(extract_s.values()), 3)
    return result


def _stamp(plan: StoredPlan, scored: Scored, record: Mapping[str, Any]) -> dict[str, Any]:
    """The stamp: how a score was measured. Values with different stamps are never ranked with each other."""
    task = plan.tasks[scored.task]
    if task.kind == "measure":
        named = ("measure", "levels", "estimator", "data", "count")  # finer adds a curve, and changes no value
        return {key: task.params[key] for key in named if key in task.params}
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
    """The content of a reference: the hash of a published file or a data set, or the data set's folder."""
    if "statistics" in params:
        return params["statistics"]
    fields = params["data"]["fields"]
    folders = [fields[name] for name in ("path",) if isinstance(fields.get(name), str)]
    return folders[0] if folders else digest(params["data"])


def shift_arrays(store: Store, task: str) -> dict[str, Any] | None:
    """Levels t (K,), and the estimator's predictions on sampled and on true states (K, M) each; None for a file that
    cannot be read or does not have them.
    """
    from orchestrator.store.arrays import unpack

    try:
        arrays = unpack(store.read(file_name(task, "shift.safetensors")))[0]
        t, sampled, true = arrays["t"], arrays["sampled"], arrays["true"]
    except (CorruptFile, ValueError, KeyError):
        return None
    fit = t.ndim == 1 and t.size and all(a.ndim == 2 and a.size and len(a) == len(t) for a in (sampled, true))
    return arrays if fit else None


def influence_of(store: Store, entry: Mapping[str, Any]) -> Any:
    """The influence of every sample on a cell's score, or on a mean of its scores; None if one of them has none."""
    parts = [influence(store, task, entry["influence"]) for task in entry.get("tasks", [entry["task"]])]
    return None if any(part is None for part in parts) else sum(parts) / len(parts)


def influence(store: Store, task: str, name: str = "influence") -> Any:
    """The influence of every sample on a score, (N,) float32, or None if the metric has none. name: of the array
    (`influence_name`); by default that of the metric's first value.
    """
    from orchestrator.store.arrays import unpack

    try:
        return unpack(store.read(file_name(task, "arrays.safetensors")))[0].get(name)
    except (CorruptFile, ValueError):
        return None
