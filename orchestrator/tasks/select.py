"""select: one step of a race between the candidates of a tuned arm.

It compares the candidates that are left, on the first samples of their streams, and tells who goes on with more
samples, or which finer values are tried next, or which candidate is chosen. The samples of a race have a seed of their
own, so what is chosen is compared with other arms on samples that chose nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.errors import TaskError
from orchestrator.store.layout import block_name
from orchestrator.tasks.attempts import not_finite
from orchestrator.tasks.context import Context, finish
from orchestrator.tasks.outputs import read_block
from orchestrator.tasks.reference import ReferenceArrays
from orchestrator.tasks.task import Kind, Task

if TYPE_CHECKING:
    import numpy as np

    from nag.racing import Outcome, Place


@dataclass(frozen=True)
class Entry:
    """A candidate's scores. value, corrected: by training seed, as the metric gives them and without the bias in N;
    influences: of each sample, None if the metric has none.
    """

    place: Place
    value: tuple[float, ...]
    corrected: tuple[float, ...]
    influences: tuple[np.ndarray | None, ...]


def run(context: Context, task: Task) -> None:
    from nag.racing import Axis, race

    started = time.time()
    params, before, places, count = _stage(context, task)
    axes = [Axis(*axis) for axis in params["axes"]]
    tried = {tuple(place) for place in before["tried"]} if before else set()
    scorer = _Scorer(context, task, params, count)
    tried |= {*places}
    fallen = [place for place in places if _is_not_finite(context, scorer.pairs[place])]
    places = [place for place in places if place not in fallen]
    if not places:
        raise TaskError("every candidate has samples that are not finite")
    entries = [scorer.entry(place, len(places), number) for number, place in enumerate(places)]
    sign = 1.0 if params["lower"] else -1.0
    race_over = count >= params["count"] or not task.params["left"]
    outcome = race(
        [[sign * value for value in entry.corrected] for entry in entries],
        [entry.influences for entry in entries],
        _margin(params, entries),
        last=race_over,
    )
    rows = [_row(entry, away) for entry, away in zip(entries, outcome.differences, strict=True)]
    rows += [_empty(place) for place in fallen]
    leader = entries[outcome.leader].place
    chosen: list[int] | None = list(leader)
    then: dict[str, Any] | None = None
    if task.params["left"]:
        chosen, then = _next(axes, params, places, tried, leader, outcome, count)
    record = {
        "count": count,
        "score": scorer.words,
        "scored": rows,
        "leader": list(leader),
        "chosen": chosen,
        "next": then,
        "tried": sorted(map(list, tried)),
    }
    finish(context, task, {}, record, started)


def _stage(context: Context, task: Task) -> tuple[Mapping[str, Any], Mapping[str, Any] | None, list[Place], int]:
    """The params of the race, the record of the step before (None for the first), who takes part, and at how many
    samples. Raises MissingFile if the step before is not done.
    """
    from nag.racing import Axis, first_places, rungs

    params = context.task(task.params["race"]).params if "race" in task.params else task.params
    if "after" not in task.params:
        axes = [Axis(*axis) for axis in params["axes"]]
        return params, None, list(first_places(axes, params["limit"])), rungs(params["count"], params["block"])[0]
    before = context.store.read_record(context.task(task.params["after"]).record_name)
    then = before["next"]
    return params, before, [tuple(place) for place in then["candidates"]], then["count"]


def _reads(context: Context, task: Task) -> Iterator[str]:
    """Records first, as the one of the step before tells which blocks are read."""
    inputs = [context.task(digest) for digest in task.inputs]
    yield from (each.record_name for each in inputs if not each.makes_blocks)
    params, _, places, count = _stage(context, task)
    pairs = _pairs(params)
    for place in places:
        if not _is_not_finite(context, pairs[place]):
            for extract, _ in pairs[place]:
                yield from (block_name(extract, number) for number in range(-(-count // params["block"])))


def _pairs(params: Mapping[str, Any]) -> dict[Place, list[tuple[str, str]]]:
    """The extract and reference tasks of each candidate, one pair for each training seed."""
    return {tuple(place): pairs for place, pairs in params["candidates"]}


def _is_not_finite(context: Context, pairs: Sequence[tuple[str, str]]) -> bool:
    extracts = [context.task(extract) for extract, _ in pairs]
    streams = [context.task(extract.stream) for extract in extracts]
    networks = [str(stream.params["network"]) for stream in streams]
    return not_finite(context.store, [*networks, *(each.digest for each in (*streams, *extracts))])


def _next(
    axes: Sequence[Any],
    params: Mapping[str, Any],
    places: Sequence[Place],
    tried: set[Place],
    leader: Place,
    outcome: Outcome,
    count: int,
) -> tuple[list[int] | None, dict[str, Any] | None]:
    """The place that is chosen, or who takes part in the next step and at how many samples."""
    from nag.racing import next_places, rungs

    counts = rungs(params["count"], params["block"])
    if len(outcome.going_on) > 1:
        longer = next(each for each in counts if each > count)
        return None, {"candidates": [list(places[number]) for number in outcome.going_on], "count": longer}
    finer = next_places(axes, tried, leader, params["limit"])
    if not finer:
        return list(leader), None
    return None, {"candidates": [list(leader), *map(list, finer)], "count": counts[0]}


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


class _Scorer:
    """Scores the first `count` samples of candidates. A Fréchet distance for which so few samples do not suffice is
    taken on a fixed projection of the features to fewer dimensions, which ranks alike (docs/statistics.md).
    """

    def __init__(self, context: Context, task: Task, params: Mapping[str, Any], count: int) -> None:
        self.context, self.task, self.params, self.count = context, task, params, count
        self.metric = context.rebuild("metrics", params["metric"])
        self.pairs = _pairs(params)
        self.words = str(params["value"])

    def entry(self, place: Place, of: int, number: int) -> Entry:
        values, corrected, influences = [], [], []
        for extract, reference in self.pairs[place]:
            score, influence = self._score(extract, reference)
            values.append(score["value"])
            corrected.append(score["value"] if score["extrapolated"] is None else score["extrapolated"])
            influences.append(influence)
        self.context.tell(self.task.digest, number + 1, of + 1)
        return Entry(place, tuple(values), tuple(corrected), tuple(influences))

    def _score(self, extract: str, reference: str) -> tuple[Mapping[str, Any], np.ndarray | None]:
        arrays = ReferenceArrays(self.context, reference)
        samples, known = self._projected(self._outputs(extract), arrays)
        scores = self.metric(samples, known)
        return scores["values"][self.params["value"]], scores["arrays"].get("influence")

    def _outputs(self, extract: str) -> dict[str, np.ndarray]:
        """(count, ...) of every output that the metric needs."""
        import numpy as np

        names, block = sorted({*self.metric.needs, "labels"}), self.params["block"]
        parts = [read_block(self.context.store, extract, number)[0] for number in range(-(-self.count // block))]
        return {name: np.concatenate([part[name] for part in parts])[: self.count] for name in names}

    def _projected(
        self, samples: dict[str, np.ndarray], reference: Mapping[str, Any]
    ) -> tuple[dict[str, np.ndarray], Mapping[str, Any]]:
        """Samples and reference as they are, or on fewer dimensions if the metric is biased in N and N is too small."""
        from nag.racing import dimension_for, projection

        needs = self.metric.needs - {"labels"}
        wide = [samples[name].shape[1] for name in needs if samples[name].ndim == 2]
        to = dimension_for(self.count)
        if not self.metric.extrapolates or not wide or max(wide) <= to:
            return samples, reference
        own, known = dict(samples), dict[str, Any]()
        for name in needs:
            P = projection(samples[name].shape[1], min(to, samples[name].shape[1]))
            own[name] = samples[name].astype("float64") @ P
            mean, cov = ("mean", "cov") if name == "features" else (f"mean_{name}", f"cov_{name}")
            if mean in reference:
                known |= {mean: reference[mean] @ P, cov: P.T @ reference[cov] @ P}
            else:
                known[name] = reference[name].astype("float64") @ P
        self.words = f"{self.params['value']} on {to:,} random directions"
        return own, known


KIND = Kind(
    version=1,
    run=run,
    guess_s=lambda task, costs: 20.0,
    reads_all=True,
    reads=_reads,
    scores_cells=True,
    stage="score",
    column="scores",
    cost_class=lambda task, costs: "select",
)
