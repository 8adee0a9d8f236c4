"""Plans as the store keeps them, under the checksum of their content; and the plan of a sweep, by the sweep's name.

A plan read by a known checksum can be trusted. One that is found by the sweep's name is only read and shown.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from nag.numerics import Precision
from orchestrator.errors import BadInput, CorruptFile, unknown
from orchestrator.identity import canonical, changed_fields, checksum
from orchestrator.plan.model import Candidate, Instance, Race, Scored, StoredCell, StoredPlan
from orchestrator.plan.reported import Reported
from orchestrator.spec.model import Arm, Compare, Paper, StoredSweep, Tune
from orchestrator.spec.networks import NAME
from orchestrator.store.layout import plan_name
from orchestrator.store.store import Store
from orchestrator.tasks import stored
from orchestrator.tasks.task import KINDS

WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,199}")  # an arm or a value, which name files of a report too
Pairs = tuple[tuple[str, Any], ...]  # a mapping whose order counts: the keys of JSON objects are sorted


@dataclass(frozen=True)
class About:
    """The part of a stored plan that is for reports."""

    arms: tuple[Arm, ...]
    shared_axes: frozenset[str]
    guidance: frozenset[str]
    precision: Precision
    paper: Paper | None
    metrics: tuple[Reported, ...]
    whole: bool
    varying: tuple[tuple[str, bool], ...]
    instances: Mapping[str, Instance]
    code: Mapping[str, Mapping[str, str]]
    tune: Tune | None = None
    compare: Compare = field(default_factory=Compare)
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    protocol: str | None = None


@dataclass(frozen=True)
class CellRow:
    arm: str
    params: Pairs
    digest: str
    stream: str
    count: int
    extracts: tuple[str, ...]
    scores: tuple[tuple[int, str], ...]  # the place of the metric in About.metrics, and the task


@dataclass(frozen=True)
class CandidateRow:
    place: tuple[int, ...]
    params: Pairs
    streams: tuple[str, ...]
    extracts: tuple[str, ...]
    cells: tuple[CellRow, ...]


@dataclass(frozen=True)
class RaceRow:
    arm: str
    params: Pairs
    metric: str
    axes: tuple[tuple[int, bool], ...]
    count: int
    block: int
    limit: int | None
    candidates: tuple[CandidateRow, ...]
    steps: tuple[str, ...]
    follows: int | None = None


_ABOUT, _ROWS = TypeAdapter(About), TypeAdapter(tuple[CellRow, ...])
_RACES = TypeAdapter(tuple[RaceRow, ...])
_FLOORS = TypeAdapter(tuple[tuple[str, tuple[tuple[int, str], ...]], ...])


def document(plan: StoredPlan) -> dict[str, Any]:
    """The plan as the store keeps it, as JSON."""
    sweep, metrics, place = plan.sweep, list[Reported](), dict[int, int]()

    def scores(scored: tuple[Scored, ...]) -> list[list[Any]]:
        for metric in (one.metric for one in scored):
            if id(metric) not in place:
                place[id(metric)] = len(metrics)
                metrics.append(metric)
        return [[place[id(one.metric)], one.task] for one in scored]

    def row(cell: StoredCell) -> dict[str, Any]:
        return {
            "arm": cell.arm,
            "params": list(cell.params.items()),
            "digest": cell.digest,
            "stream": cell.stream,
            "count": cell.count,
            "extracts": cell.extracts,
            "scores": scores(cell.scores),
        }

    cells = [row(cell) for cell in plan.cells]
    races = [_race(race, row) for race in plan.races]
    return {
        "sweep": sweep.name,
        "text": sweep.text,
        "keep": sweep.keep,
        "tasks": {digest: task.definition() for digest, task in plan.tasks.items()},
        "blocks": dict(plan.blocks),
        "goals": sorted(plan.goals),
        "places": dict(plan.places),
        "cells": cells,
        "floors": [[reference, scores(floor)] for reference, floor in plan.floors],
        **({"races": races} if races else {}),
        "about": {
            "arms": [{**dataclasses.asdict(arm), "overrides": sorted(arm.overrides)} for arm in sweep.arms],
            "shared_axes": sorted(sweep.shared_axes),
            "guidance": sorted(
                sweep.guidance & {key.partition(".")[0] for cell in plan.every_cell for key in cell.params}
            ),
            "precision": changed_fields(sweep.precision),
            "paper": _paper(sweep.paper) if sweep.paper else None,
            "metrics": [dataclasses.asdict(metric) for metric in metrics],
            "whole": plan.whole,
            "varying": list(plan.varying.items()),
            "instances": {digest: {"name": one.name, "axes": dict(one.axes)} for digest, one in plan.instances.items()},
            "code": {digest: dict(files) for digest, files in plan.code.items()},
            **({"classes": dict(plan.classes)} if plan.classes else {}),
            **({"tune": dataclasses.asdict(sweep.tune)} if sweep.tune else {}),
            **({"compare": dataclasses.asdict(sweep.compare)} if sweep.compare != Compare() else {}),
            **({"overrides": list(sweep.overrides)} if sweep.overrides else {}),
            **({"protocol": sweep.protocol} if sweep.protocol else {}),
        },
    }


def _race(race: Race, row: Callable[[StoredCell], dict[str, Any]]) -> dict[str, Any]:
    candidates = [
        {
            "place": candidate.place,
            "params": list(candidate.params.items()),
            "streams": candidate.streams,
            "extracts": candidate.extracts,
            "cells": [row(cell) for cell in candidate.cells],
        }
        for candidate in race.candidates
    ]
    names = ("arm", "metric", "axes", "count", "block", "limit", "steps", "follows")
    given = {name: getattr(race, name) for name in names}
    return {**given, "params": list(race.params.items()), "candidates": candidates}


def _paper(paper: Paper) -> dict[str, Any]:
    rows = [
        {**dataclasses.asdict(row), "params": list(row.params.items()), "values": list(row.values.items())}
        for row in paper.rows
    ]
    return {**dataclasses.asdict(paper), "rows": rows}


def plan_checksum(plan: StoredPlan) -> str:
    """The name of a plan in stores, computed from its content."""
    return checksum(canonical(document(plan)).encode())


def read_plan(store: Store, name: str) -> StoredPlan:
    """The plan with this checksum. Raises MissingFile; CorruptFile if it is not a valid plan or has other content;
    BadInput if it is from a nagbench that kept no cells.
    """
    held = stored.read(store, name)
    if "about" not in held.document:
        raise BadInput(
            f"sweep {held.sweep} was last run by a nagbench that kept no cells in its plans: run it again, or name its "
            "YAML file."
        )
    try:
        return _plan(held)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CorruptFile(f"{plan_name(name)} is not a plan ({type(error).__name__}: {error})") from error


def _plan(held: stored.StoredTasks) -> StoredPlan:
    about = _about(held.document["about"])
    rows = _ROWS.validate_json(canonical(held.document["cells"]))
    floors = _FLOORS.validate_json(canonical(held.document["floors"]))

    def scores(pairs: tuple[tuple[int, str], ...]) -> tuple[Scored, ...]:
        return tuple(Scored(about.metrics[_natural(place)], _known(held, task, KINDS)) for place, task in pairs)

    def cell(row: CellRow) -> StoredCell:
        return StoredCell(
            arm=row.arm,
            params=dict(row.params),
            digest=row.digest,
            stream=_known(held, row.stream, ("sample",)),
            count=_natural(row.count),
            extracts=tuple(_known(held, extract, ("extract",)) for extract in row.extracts),
            scores=scores(row.scores),
        )

    cells = tuple(map(cell, rows))
    race_rows = _RACES.validate_json(canonical(held.document.get("races", [])))
    races = tuple(_read_race(held, row, cell) for row in race_rows)
    for race in races:
        if race.follows is not None:
            _check_follower(race, races[_natural(race.follows)])
    names = [arm.name for arm in about.arms]
    values = [value.name + metric.suffix for metric in about.metrics for value in metric.values]
    for word in (held.sweep, *names, *values):
        if not WORD.fullmatch(word):
            raise ValueError(f"{word!r} is not a name")
    used = {cell.arm for cell in cells} | {race.arm for race in races}
    if not {*names} >= used | {arm.against for arm in about.arms if arm.against}:
        raise ValueError("an arm is not listed")
    sweep = StoredSweep(
        name=held.sweep,
        text=held.text,
        arms=about.arms,
        shared_axes=about.shared_axes,
        guidance=about.guidance,
        path=held.sweep,
        precision=about.precision,
        keep=held.keep,
        paper=about.paper,
        tune=about.tune,
        compare=about.compare,
        overrides=about.overrides,
        protocol=about.protocol,
    )
    return StoredPlan(
        sweep=sweep,
        tasks=held.tasks,
        blocks=held.blocks,
        goals=held.goals,
        cells=cells,
        floors=tuple((_known(held, reference, ("reference",)), scores(floor)) for reference, floor in floors),
        whole=about.whole,
        varying=dict(about.varying),
        instances=about.instances,
        places=held.places,
        code=about.code,
        races=races,
        classes=about.classes,
    )


def _read_race(held: stored.StoredTasks, row: RaceRow, cell: Callable[[CellRow], StoredCell]) -> Race:
    candidates = tuple(
        Candidate(
            place=each.place,
            params=dict(each.params),
            streams=tuple(_known(held, stream, ("sample",)) for stream in each.streams),
            extracts=tuple(_known(held, extract, ("extract",)) for extract in each.extracts),
            cells=tuple(map(cell, each.cells)),
        )
        for each in row.candidates
    )
    inside = [(0 <= at < size) for each in candidates for at, (size, _) in zip(each.place, row.axes, strict=True)]
    if (
        not candidates
        or bool(row.steps) is (row.follows is not None)
        or not all(inside)
        or min(row.count, row.block) < 1
        or (row.limit is not None and row.limit < 2)
    ):
        raise ValueError(f"the race of arm {row.arm} has no candidates or steps, or numbers that are not valid")
    if not WORD.fullmatch(row.metric):
        raise ValueError(f"{row.metric!r} is not a name")
    return Race(
        arm=row.arm,
        params=dict(row.params),
        metric=row.metric,
        axes=row.axes,
        count=row.count,
        block=row.block,
        limit=row.limit,
        candidates=candidates,
        steps=tuple(_known(held, step, ("select",)) for step in row.steps),
        follows=row.follows,
    )


def _check_follower(race: Race, followed: Race) -> None:
    if followed.follows is not None:
        raise ValueError("a race follows one that follows another")
    if {each.place for each in race.candidates} < {each.place for each in followed.candidates}:
        raise ValueError(f"the race of arm {race.arm} lacks places of the one that it follows")


def _about(about: Mapping[str, Any]) -> About:
    if paper := about["paper"]:
        rows = [{**row, "params": dict(row["params"]), "values": dict(row["values"])} for row in paper["rows"]]
        about = {**about, "paper": {**paper, "rows": rows}}
    return _ABOUT.validate_json(canonical(about))


def _known(held: stored.StoredTasks, digest: str, kinds: tuple[str, ...]) -> str:
    if held.tasks[digest].kind not in kinds:
        raise ValueError(f"task {digest} is not of the kind {' or '.join(kinds)}")
    return digest


def _natural(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} is less than zero")
    return number


def plan_of_sweep(store: Store, name: str) -> StoredPlan:
    """The plan with which a store's sweep of this name was last run: of those with the newest text, which may have been
    run in parts, the one with the most cells. Raises BadInput, listing the sweeps of the store, if there is none.
    """
    if not NAME.fullmatch(name) or not (entries := store.list(f"sweeps/{name}")):
        known = [each for each in store.list("sweeps") if NAME.fullmatch(each)]
        raise BadInput(f"store {store.url}: {unknown('sweep', name, known)}")
    newest: StoredPlan | None = None
    for entry in reversed(entries):
        try:
            checksum = store.read_record(f"sweeps/{name}/{entry}", repair=False)["plan"]
            plan = read_plan(store, checksum)
        except (CorruptFile, KeyError, TypeError, BadInput):
            if newest is None:
                raise
            continue
        if plan.sweep.name != name:
            raise CorruptFile(f"sweeps/{name}/{entry} names a plan of sweep {plan.sweep.name}")
        if newest is None or (plan.sweep.text == newest.sweep.text and len(plan.every_cell) > len(newest.every_cell)):
            newest = plan
    assert newest is not None
    return newest
