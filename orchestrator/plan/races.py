"""The races of a plan: how the tuned values of each arm are chosen.

The plan has the tasks of every candidate. `choices.py` tells from the records of the `select` tasks which of them are
wanted now. So an engine need not read the sweep again.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nag.registry import name_of
from orchestrator.plan import cells as tasks_of
from orchestrator.plan.build import TaskBuilder
from orchestrator.plan.model import Candidate, Race
from orchestrator.spec.parameters import Params, is_seed
from orchestrator.spec.score_section import fed, mean_names, of_training

if TYPE_CHECKING:
    from orchestrator.spec.model import Cell, Sweep

STAGES = 2  # of a search along a range each time it halves the distance between its values; the last step chooses
Key = tuple[str, tuple[tuple[str, Any], ...]]


def races(builder: TaskBuilder, sweep: Sweep, candidates: Sequence[Cell]) -> tuple[Race, ...]:
    """One race for each arm with tuned values, and for each combination of the factors outside arms."""
    by_race: dict[Key, list[Cell]] = {}
    for cell in candidates:
        by_race.setdefault((cell.arm, tuple(_fixed(cell).items())), []).append(cell)
    return tuple(_race(builder, sweep, cells) for cells in by_race.values())


def _fixed(cell: Cell) -> Params:
    """The parameters that all cells of its race share."""
    return {key: value for key, value in cell.params.items() if not is_seed(key) and not _is_tuned(cell, key)}


def _is_tuned(cell: Cell, key: str) -> bool:
    """Whether a parameter is tuned, or belongs to a tuned mapping such as an interval."""
    return any(key == tuned or key.startswith(f"{tuned}.") for tuned in cell.tuned)


def _race(builder: TaskBuilder, sweep: Sweep, cells: list[Cell]) -> Race:
    assert sweep.tune is not None
    first = cells[0]
    keys = sorted(first.tuned)
    by_place: dict[tuple[int, ...], list[Cell]] = {}
    for cell in cells:
        by_place.setdefault(tuple(cell.tuned[key].place for key in keys), []).append(cell)
    entries = [_candidate(builder, sweep, place, by_place[place]) for place in sorted(by_place)]
    axes = tuple((first.tuned[key].size, first.tuned[key].ordered) for key in keys)
    candidates = tuple(candidate for candidate, _ in entries)
    params = {
        "candidates": [[list(c.place), pairs] for c, pairs in entries],
        "axes": [list(axis) for axis in axes],
        **_scored_by(builder, sweep),
        "count": sweep.tune.count,
        "block": first.sample.block,
        "limit": sweep.tune.candidates,
        "margin": [sweep.compare.margin, sweep.compare.relative],
    }
    return Race(
        arm=first.arm,
        params=_fixed(first),
        metric=sweep.tune.metric,
        axes=axes,
        count=sweep.tune.count,
        block=first.sample.block,
        limit=sweep.tune.candidates,
        candidates=candidates,
        steps=_steps(builder, params),
    )


Pairs = dict[str, list[list[str]]]  # by extractor: [extract task, reference task] of each training seed


def _candidate(
    builder: TaskBuilder, sweep: Sweep, place: tuple[int, ...], cells: list[Cell]
) -> tuple[Candidate, Pairs]:
    """A candidate, and its extract and reference tasks."""
    assert sweep.tune is not None
    assert sweep.score is not None
    streams: list[str] = []
    pairs: Pairs = {}
    for cell in cells:
        own = replace(cell, sample=replace(cell.sample, seed=sweep.tune.seed, count=sweep.tune.count))
        stream = tasks_of.stream(builder, sweep, own)
        if stream not in streams:  # cells that differ by their sample seed share it
            streams.append(stream)
            for extractor in sweep.score.features:
                scoring = tasks_of.scoring_of(builder, sweep, own, extractor)
                pair = [tasks_of.extract(builder, scoring, own, stream), scoring.reference]
                pairs.setdefault(name_of(extractor), []).append(pair)
    candidate = Candidate(
        place=place,
        params={key: value for key, value in cells[0].params.items() if _is_tuned(cells[0], key)},
        streams=tuple(streams),
        extracts=tuple(extract for several in pairs.values() for extract, _ in several),
        cells=tuple(tasks_of.planned(builder, sweep, cell) for cell in cells),
    )
    return candidate, pairs


def metric_of(sweep: Sweep) -> tuple[Any, tuple[Any, ...], str]:
    """The metric that chooses, its extractors (the mean over them chooses), and the name of its value."""
    assert sweep.score is not None
    assert sweep.tune is not None
    if (mean := mean_names(sweep.score).get(sweep.tune.metric)) is not None:
        metric, name = mean
        return metric, tuple(extractor for extractor in sweep.score.features if fed(metric, extractor)), name
    for extractor, metric in itertools.product(sweep.score.features, sweep.score.metrics):
        for name in metric.names if fed(metric, extractor) else ():
            if name + tasks_of.suffix(sweep, extractor) == sweep.tune.metric:
                return metric, (extractor,), name
    raise ValueError(f"no metric {sweep.tune.metric!r}")  # the reader has checked it


def _scored_by(builder: TaskBuilder, sweep: Sweep) -> dict[str, Any]:
    """The metric that chooses, and the others that are shown beside it."""
    assert sweep.score is not None
    metric, extractors, name = metric_of(sweep)
    named = [*map(name_of, extractors)]
    of = {"extractor": named[0]} if len(named) == 1 else {"extractors": named}
    by = {**of, "metric": builder.identity(metric), "value": name}
    others = [
        {"extractor": name_of(other), "metric": builder.identity(each), "suffix": tasks_of.suffix(sweep, other)}
        for other in sweep.score.features
        for each in sweep.score.metrics
        if fed(each, other) and not of_training(each)
    ]
    return {**by, "lower": metric.lower_is_better[name], "others": others}


def _steps(builder: TaskBuilder, params: dict[str, Any]) -> tuple[str, ...]:
    """The `select` tasks of a race. The first has the definition of the race, each other one the task before it;
    `left`: how many may follow.
    """
    from nag.search import rungs

    stages = 1 + sum(STAGES * int(size).bit_length() for size, ordered in params["axes"] if ordered)
    number = (2 if params["limit"] else stages) * len(rungs(params["count"], params["block"]))
    pairs = [pair for _, by in params["candidates"] for pairs in by.values() for pair in pairs]
    inputs = tuple(dict.fromkeys(task for pair in pairs for task in pair))
    steps = [builder.add("select", params | {"left": number - 1}, inputs)]
    for left in reversed(range(number - 1)):
        steps.append(builder.add("select", {"race": steps[0], "after": steps[-1], "left": left}, (*inputs, steps[-1])))
    return tuple(steps)
