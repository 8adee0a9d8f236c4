"""select: one step of a race between the candidates of a tuned arm.

It compares the candidates that are left, on the first samples of their streams, and tells who goes on with more
samples, or which finer values are tried next, or which candidate is chosen. The samples of a race have a seed of their
own, so what is chosen is compared with other arms on samples that chose nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from nag.metrics.metric import by_rows, influence_name, shown
from orchestrator.errors import TaskError
from orchestrator.store.layout import block_name
from orchestrator.tasks.attempts import not_finite
from orchestrator.tasks.context import Context, finish
from orchestrator.tasks.outputs import read_block
from orchestrator.tasks.reference import ReferenceArrays
from orchestrator.tasks.task import Kind, Task

if TYPE_CHECKING:
    import numpy as np

    from nag.search import Place


@dataclass(frozen=True)
class Entry:
    """A candidate's scores. value, corrected: by training seed, as the metric gives them and without the bias in N;
    influences: of each sample, None if the metric has none.
    """

    place: Place
    value: tuple[float, ...]
    corrected: tuple[float, ...]
    influences: tuple[np.ndarray | None, ...]


@dataclass(frozen=True)
class Step:
    """What a step is about. tried: the places of this step and of all before it."""

    params: Mapping[str, Any]  # of the race
    places: tuple[Place, ...]
    count: int
    tried: frozenset[Place]
    left: int  # how many steps may follow


def run(context: Context, task: Task) -> None:
    from nag.racing import race

    started = time.time()
    step = _step(context, task)
    params, scorer = step.params, _Scorer(context, task, step)
    fallen = [place for place in step.places if _is_not_finite(context, scorer.pairs[place])]
    places = [place for place in step.places if place not in fallen]
    if not places:
        raise TaskError("every candidate has samples that are not finite")
    entries = [scorer.entry(place, len(places), number) for number, place in enumerate(places)]
    sign = 1.0 if params["lower"] else -1.0
    counts = _counts(params)
    outcome = race(
        [[sign * value for value in entry.corrected] for entry in entries],
        [entry.influences for entry in entries],
        _margin(params, entries),
        last=step.count >= params["count"] or not step.left,
        first=step.count == counts[0],
        share=step.count / params["count"],
        looks=max(1, len(counts) - 1),
    )
    words = scorer.words
    rows = [_row(entry, away) for entry, away in zip(entries, outcome.differences, strict=True)]
    if step.count == counts[0]:  # so that other metrics compare all candidates at one count
        rows = [{**row, "others": scorer.others(tuple(row["place"]))} for row in rows]
    leader = entries[outcome.leader].place
    then = _next(step, leader, [places[number] for number in outcome.going_on]) if step.left else None
    record = {
        "count": step.count,
        "score": words,
        "scored": [*rows, *map(_empty, fallen)],
        "leader": list(leader),
        "chosen": None if then else list(leader),
        "next": then,
        "tried": sorted(map(list, step.tried)),
    }
    finish(context, task, {}, record, started)


def _step(context: Context, task: Task) -> Step:
    """The first step of a race, or what the step before it calls for."""
    from nag.search import Axis, first_places

    params = context.task(task.params["race"]).params if "race" in task.params else task.params
    if "after" not in task.params:
        places = first_places([Axis(*axis) for axis in params["axes"]], params["limit"])
        return Step(params, places, _counts(params)[0], frozenset(places), task.params["left"])
    before = context.store.read_record(context.task(task.params["after"]).record_name)
    places = tuple(tuple(place) for place in before["next"]["candidates"])
    tried = {tuple(place) for place in before["tried"]}
    return Step(params, places, before["next"]["count"], frozenset({*tried, *places}), task.params["left"])


def _reads(context: Context, task: Task) -> Iterator[str]:
    """Records first, as the one of the step before tells which blocks are read."""
    inputs = [context.task(digest) for digest in task.inputs]
    yield from (each.record_name for each in inputs if not each.makes_blocks)
    step = _step(context, task)
    pairs, blocks = _pairs(step.params), range(-(-step.count // step.params["block"]))
    for place in step.places:
        if not _is_not_finite(context, pairs[place]):
            extracts = [extract for several in pairs[place].values() for extract, _ in several]
            yield from (block_name(extract, number) for extract in extracts for number in blocks)


Pairs = Mapping[str, Sequence[Sequence[str]]]  # by extractor: [extract task, reference task] of each training seed


def _pairs(params: Mapping[str, Any]) -> dict[Place, Pairs]:
    return {tuple(place): pairs for place, pairs in params["candidates"]}


def _is_not_finite(context: Context, pairs: Pairs) -> bool:
    extracts = [context.task(extract) for several in pairs.values() for extract, _ in several]
    streams = [context.task(extract.stream) for extract in extracts]
    networks = [str(stream.params["network"]) for stream in streams]
    return not_finite(context.store, [*networks, *(each.digest for each in (*streams, *extracts))])


def _counts(params: Mapping[str, Any]) -> tuple[int, ...]:
    from nag.search import rungs

    return rungs(params["count"], params["block"])


def _next(step: Step, leader: Place, going_on: Sequence[Place]) -> dict[str, Any] | None:
    """Who takes part in the next step and at how many samples; None if the leader is chosen."""
    from nag.search import Axis, next_places

    counts = _counts(step.params)
    if len(going_on) > 1:
        longer = next(each for each in counts if each > step.count)
        return {"candidates": [list(place) for place in going_on], "count": longer}
    axes = [Axis(*axis) for axis in step.params["axes"]]
    finer = next_places(axes, step.tried, leader, step.params["limit"])
    return {"candidates": [list(leader), *map(list, finer)], "count": counts[0]} if finer else None


def _margin(params: Mapping[str, Any], entries: Sequence[Entry]) -> float:
    """The margin in the metric's unit; a share is of the best mean value."""
    margin, relative = params["margin"]
    if not relative:
        return float(margin)
    means = [sum(entry.value) / len(entry.value) for entry in entries]
    return float(margin * abs(min(means) if params["lower"] else max(means)))


def _row(entry: Entry, difference: tuple[float, float | None, float | None] | None) -> dict[str, Any]:
    """A candidate in the record. Differences are from the leader; above 0 is worse, whatever the metric's direction."""
    away, low, high = difference or (None, None, None)
    value = sum(entry.value) / len(entry.value)
    return {
        "place": list(entry.place),
        "value": value,
        "corrected": sum(entry.corrected) / len(entry.corrected),
        "difference": away,
        "low": low,
        "high": high,
    }


def _empty(place: Place) -> dict[str, Any]:
    """A candidate in the record whose samples are not finite: it is out of the race."""
    return {"place": list(place), "value": None, "corrected": None, "difference": None, "low": None, "high": None}


class _Value(NamedTuple):
    """One extractor's value for one candidate and training. words: what it is, in words."""

    value: float
    extrapolated: float | None
    influence: np.ndarray | None
    words: str


class _Scorer:
    """Scores the first `count` samples of candidates. A Fréchet distance for which so few samples do not suffice is the
    mean of those on parts of the features' directions (docs/statistics.md).
    """

    def __init__(self, context: Context, task: Task, step: Step) -> None:
        self.context, self.task, self.params, self.count = context, task, step.params, step.count
        self.pairs = _pairs(step.params)
        self.named = self.words = str(step.params["value"])  # the words, and `divides`, are of what was last taken
        self.divides = False
        self.known: dict[tuple[str, str], list[dict[str, Any]]] = {}  # a reference for a metric, on each part

    def entry(self, place: Place, of: int, number: int) -> Entry:
        values, corrected, influences = [], [], []
        extractors = self.params["extractors"] if "extractors" in self.params else [self.params["extractor"]]
        for several in zip(*(self.pairs[place][extractor] for extractor in extractors), strict=True):  # of one training
            each = [self._chooses(extractor, *pair) for extractor, pair in zip(extractors, several, strict=True)]
            value, without_bias, influence = self._mean(each)
            values.append(value)
            corrected.append(without_bias)
            influences.append(influence)
        self.context.tell(self.task.digest, number + 1, of + 1)
        return Entry(place, tuple(values), tuple(corrected), tuple(influences))

    def _chooses(self, extractor: str, extract: str, reference: str) -> _Value:
        """The value of one extractor that chooses, or takes part in the mean that does."""
        mean = "extractors" in self.params
        self.named = self.words = f"{self.params['value']} of {extractor}" if mean else str(self.params["value"])
        scores = self._scores(self.params["metric"], extract, reference)
        score = scores["values"][self.params["value"]]
        if score["value"] is None:
            raise TaskError(f"{self.words} has no value at {self.count:,} samples: {score['reason']}")
        key = influence_name(self.context.rebuild("metrics", self.params["metric"]).names, self.params["value"])
        influence = None if self.divides else scores["arrays"].get(key)
        return _Value(score["value"], score["extrapolated"], influence, self.words)

    def _mean(self, of: Sequence[_Value]) -> tuple[float, float, np.ndarray | None]:
        """Of the extractors' values: the mean, the mean without bias in N, and the influence on it, if all have it."""
        value = sum(one.value for one in of) / len(of)
        known = [one.extrapolated for one in of if one.extrapolated is not None]
        influences = [one.influence for one in of if one.influence is not None]
        if len(of) > 1:
            self.words = f"the mean of {', '.join(one.words for one in of)}"
        return (
            value,
            sum(known) / len(known) if len(known) == len(of) else value,
            sum(influences[1:], influences[0]) / len(of) if len(influences) == len(of) else None,
        )

    def others(self, place: Place) -> dict[str, float]:
        """The means of the other metrics over training seeds, by reported name; without those that have no value."""
        means: dict[str, float] = {}
        over_extractors: dict[str, list[float | None]] = {}
        for other in self.params["others"]:
            metric = self.context.rebuild("metrics", other["metric"])
            if metric.least > self.count:
                continue
            several = [self._scores(other["metric"], *pair)["values"] for pair in self.pairs[place][other["extractor"]]]
            for name in several[0]:
                known = [_corrected(values[name]) for values in several if values[name]["value"] is not None]
                mean = sum(known) / len(known) if len(known) == len(several) else None
                if mean is not None:
                    means[name + other["suffix"]] = mean
                if shown(metric, name).mean_label:
                    over_extractors.setdefault(f"{name}_mean", []).append(mean)
        for name, values in over_extractors.items():
            if len(finite := [value for value in values if value is not None]) == len(values) > 1:
                means[name] = sum(finite) / len(finite)
        return means

    def _scores(self, identity: Mapping[str, Any], extract: str, reference: str) -> Any:
        metric = self.context.rebuild("metrics", identity)
        samples, known = self._outputs(extract, metric.needs), ReferenceArrays(self.context, reference)
        output = next(iter(metric.needs - {"labels"}), "")
        parts = self._parts(samples[output].shape[1]) if output and not by_rows(metric) else ()
        self.divides = len(parts) > 1
        if not self.divides:
            return metric(samples, known)
        self.words = f"{self.named} on {parts[0].shape[1]:,} random directions at a time"
        key = (reference, repr(identity))
        if key not in self.known:
            self.known[key] = [_reference_on(P, metric, output, known) for P in parts]
        wide = samples[output].astype("float64")
        several = [metric(samples | {output: wide @ P}, on) for P, on in zip(parts, self.known[key], strict=True)]
        return {"values": {name: _mean_of_parts([one["values"][name] for one in several]) for name in metric.names}}

    def _outputs(self, extract: str, needs: frozenset[str]) -> dict[str, np.ndarray]:
        """(count, ...) of every output that a metric needs."""
        import numpy as np

        names, block = sorted({*needs, "labels"}), self.params["block"]

        def read() -> dict[str, np.ndarray]:
            parts = [read_block(self.context.store, extract, number)[0] for number in range(-(-self.count // block))]
            return {name: np.concatenate([part[name] for part in parts])[: self.count] for name in names}

        return self.context.load("features", f"{extract} {self.count} {names}", read)

    def _parts(self, dimension: int) -> tuple[np.ndarray, ...]:
        """The directions that are scored at a time."""
        from nag.racing import dimension_for, parts_of_directions

        most = max(1, dimension_for(self.count))
        return parts_of_directions(dimension, most) if most < dimension else ()


def _reference_on(P: np.ndarray, metric: Any, output: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """What a Fréchet distance needs of a reference, on the directions P (d, k)."""
    on: dict[str, Any] = {}
    for name in (output, *(["held_out"] if metric.against == "held_out" else [])):
        mean, cov = ("mean", "cov") if name == "features" else (f"mean_{name}", f"cov_{name}")
        if mean in known:
            on |= {mean: known[mean] @ P, cov: P.T @ known[cov] @ P}
        if name in known and (name == "held_out" or mean not in known):
            on[name] = known[name].astype("float64") @ P
    return on


def _mean_of_parts(several: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One score from those on each part; without a number that one of them does not have."""
    found = dict(several[0])
    for key in ("value", "extrapolated"):
        numbers = [score[key] for score in several]
        found[key] = None if None in numbers else sum(numbers) / len(numbers)
    return found


def _corrected(score: Mapping[str, Any]) -> float:
    """A score without its bias in N, if it is known."""
    return float(score["value"] if score["extrapolated"] is None else score["extrapolated"])


KIND = Kind(
    version=2,
    run=run,
    guess_s=lambda task, costs: 20.0,
    reads_all=True,
    reads=_reads,
    scores_cells=True,
    stage="score",
    column="scores",
    cost_class=lambda task, costs: "select",
)
