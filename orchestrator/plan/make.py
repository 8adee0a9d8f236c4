"""From a sweep to its tasks: a pure function. Equal tasks are merged, whichever arms or sweeps need them.

encode ──> train ──> sample ──> extract ──> score      (one score task for each cell, extractor and metric)
           train (of an extractor) ──┴──> reference ──┘
           train (of an estimator) ──> measure         (it reads the first blocks of `sample` as well)
                     sample ──> extract ──> select     (tuned values: one for each step of a race, races.py)

A sample task may need measure tasks of other streams: a scale of its guidance can be a measured one.
encode is for training on latents; extract then takes the reference of those images in the same pass.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import BadInput
from orchestrator.identity import outside
from orchestrator.plan.build import TaskBuilder
from orchestrator.plan.cells import floor, planned
from orchestrator.plan.matching import matched
from orchestrator.plan.model import Instance, Plan, PlannedCell, Race, Scored, find_cell, in_order, of_arms
from orchestrator.plan.races import races
from orchestrator.spec.classes import goes_by_class
from orchestrator.spec.data_notes import class_names
from orchestrator.spec.model import networks_of
from orchestrator.spec.parameters import is_seed
from orchestrator.spec.reference_file import Published

if TYPE_CHECKING:
    from orchestrator.spec.model import Cell, Network, Sweep
    from orchestrator.spec.user_code import Code


def only_cell(sweep: Sweep, prefix: str, count: int | None) -> Sweep:
    """The sweep with one cell, optionally with another number of samples. A candidate of a tuned arm is then a cell as
    if its values were written by hand. Raises BadInput for a cell that matches an arm, which needs that arm's cells.
    """
    whole = plan(sweep)
    digest = find_cell(whole, prefix).digest
    cell = next(each.cell for each in whole.every_cell if each.digest == digest and isinstance(each, PlannedCell))
    if cell.matches:
        raise BadInput(f"{prefix} is of arm {cell.arm}, which matches arm {cell.matches}. Plan it by --arm {cell.arm}.")
    cell = replace(cell, tuned={})
    if count is not None:
        try:
            cell = replace(cell, sample=replace(cell.sample, count=count))
        except ValueError as error:
            raise BadInput(f"--count {count}: {str(error).splitlines()[-1]}") from error
    return replace(sweep, cells=(cell,))


def plan(sweep: Sweep, arms: frozenset[str] | None = None, hashes: bool = True) -> Plan:
    """The tasks of a sweep, or of some of its arms. hashes: False reads no checkpoint; one that was never read
    is then a network that no store has.
    """
    builder = TaskBuilder(hashes, sweep)
    names = {arm.name for arm in sweep.arms} if arms is None else arms
    wanted = _wanted(sweep, names)
    for cell in wanted:  # first, so that a reference knows whether its images are encoded too
        builder.network(cell.network)
    certain = [planned(builder, sweep, cell) for cell in wanted if not cell.tuned and not cell.matches]
    tuned = races(builder, sweep, [cell for cell in wanted if cell.tuned])
    others, following = matched(builder, sweep, [cell for cell in wanted if cell.matches], certain, tuned)
    cells = in_order(sweep, [cell for cell in (*certain, *others) if cell.arm in names])
    tuned = of_arms((*tuned, *following), names)
    floors: dict[str, tuple[Scored, ...]] = {}
    for cell in {id(cell.network): cell for cell in reversed(wanted)}.values():  # one cell of each network
        for extractor in sweep.score.features if sweep.score else ():
            reference, scored = floor(builder, sweep, cell, extractor)
            floors[reference] = scored
    builder.check_size(sweep.path)
    goals = {scored.task for scores in (*(cell.scores for cell in cells), *floors.values()) for scored in scores}
    return Plan(
        sweep=sweep,
        tasks=builder.tasks,
        blocks=builder.blocks,
        goals=frozenset(goals or {cell.stream for cell in cells}),
        cells=cells,
        floors=tuple(floors.items()),
        whole=names >= {cell.arm for cell in sweep.cells},
        varying=_varying(sweep),
        instances=_instances(builder, sweep, cells, tuned),
        races=tuned,
        places={each.content: each.place for each in builder.outside.values() if not each.copied},
        code={digest: _where(sweep, code) for digest, code in sweep.code.items()},
        outside=builder.outside,
        classes=_classes(builder, _named_data(sweep, networks_of(wanted, sweep.estimator))),
    )


def _wanted(sweep: Sweep, names: Container[str]) -> list[Cell]:
    """The cells of these arms, and of those whose effective scale they match."""
    matched_arms = {cell.matches for cell in sweep.cells if cell.arm in names}
    return [cell for cell in sweep.cells if cell.arm in names or cell.arm in matched_arms]


def _varying(sweep: Sweep) -> dict[str, bool]:
    """Guidance first, seeds last; of the whole sweep, so that names stay the same if only a part is planned."""
    values: dict[str, set[str]] = {}
    for cell in sweep.cells:
        for key, value in cell.params.items():
            values.setdefault(key, set()).add(str(value))
    everywhere = {key: all(key in cell.params for cell in sweep.cells) for key in values}
    keys = sorted(values, key=lambda key: (is_seed(key), not sweep.is_guidance(key)))
    return {key: everywhere[key] for key in keys if len(values[key]) > 1 or not everywhere[key]}


def _instances(
    builder: TaskBuilder, sweep: Sweep, cells: Iterable[PlannedCell], races: Iterable[Race]
) -> dict[str, Instance]:
    """Every network of the cells and of the measurement, and what each was made from."""
    candidates = (cell for race in races for candidate in race.candidates for cell in candidate.cells)
    cells = [*cells, *(cell for cell in candidates if isinstance(cell, PlannedCell))]
    scored = (one.task for each in cells for one in each.scores)
    estimates = any("estimator" in builder.tasks[task].params for task in scored)
    made: dict[str, Instance] = {}
    for network in networks_of((each.cell for each in cells), sweep.estimator if estimates else None):
        made.setdefault(builder.network(network), Instance(network.name, network.axes))
    return made


def _named_data(sweep: Sweep, networks: Iterable[Network]) -> Iterator[Any]:
    """The data sets of the networks, and the reference if metrics by class name its classes."""
    yield from (network.data for network in networks if network.data is not None)
    score = sweep.score
    if score and not isinstance(score.reference, Published | None) and any(map(goes_by_class, score.metrics)):
        yield score.reference


def _classes(builder: TaskBuilder, images: Iterable[Any]) -> dict[str, tuple[str, ...]]:
    """The names of the classes of the data sets in folders that tasks read, by content."""
    named: dict[str, tuple[str, ...]] = {}
    for data in {id(data): data for data in images}.values():
        if names := class_names(data):
            for each in outside(data, compute=builder.hashes).values():
                if (each.content, each.copied) in builder.outside:
                    named[each.content] = names
    return named


def _where(sweep: Sweep, code: Code) -> dict[str, str]:
    """Where the YAML looks for the user's own files; those outside its folder get paths in a folder `code`."""
    places = {}
    for path in code.files:
        place = Path(os.path.relpath(code.shown(path), Path(sweep.path).parent)).as_posix()
        places[path] = f"code/{path}" if place.startswith("..") else place
    return places
