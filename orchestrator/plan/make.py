"""From a sweep to its tasks: a pure function. Equal tasks are merged, whichever arms or sweeps need them.

encode ──> train ──> sample ──> extract ──> score      (one score task for each cell, extractor and metric)
           train (of an extractor) ──┴──> reference ──┘
           train (of an estimator) ──> measure         (it reads the first blocks of `sample` as well)

A sample task may need measure tasks of other streams: a scale of its guidance can be a measured one.
encode is for training on latents; extract then takes the reference of those images in the same pass.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nag.noise_shift import NoiseShift
from orchestrator import identity
from orchestrator.errors import BadInput
from orchestrator.identity import digest
from orchestrator.plan.build import TaskBuilder
from orchestrator.plan.model import Instance, Plan, PlannedCell, Scored, find_cell
from orchestrator.plan.reported import Reported, reported
from orchestrator.spec.model import networks_of
from orchestrator.spec.parameters import is_seed
from orchestrator.spec.reference_file import Published
from orchestrator.spec.score_section import fed, of_training, reads_pixels, refusal, trained_on

if TYPE_CHECKING:
    from orchestrator.spec.model import Cell, Measure, Sweep
    from orchestrator.spec.user_code import Code


def only_cell(sweep: Sweep, prefix: str, count: int | None) -> Sweep:
    """The sweep with one cell, optionally with another number of samples."""
    whole = plan(sweep)
    chosen = find_cell(whole, prefix)
    cell = next(planned.cell for planned in whole.cells if planned.digest == chosen.digest)
    if count is not None:
        try:
            cell = replace(cell, sample=replace(cell.sample, count=count))
        except ValueError as error:
            raise BadInput(f"--count {count}: {str(error).splitlines()[-1]}") from error
    return replace(sweep, cells=(cell,))


def suffix(sweep: Sweep, extractor: Any) -> str:
    """Metrics of the first extractor are unsuffixed, others carry its name."""
    assert sweep.score is not None
    return "" if extractor == sweep.score.features[0] else f"_{identity.name_of(extractor)}"


def plan(sweep: Sweep, arms: frozenset[str] | None = None, hashes: bool = True) -> Plan:
    """The tasks of a sweep, or of some of its arms. hashes: False reads no checkpoint; one that was never read
    is then a network that no store has.
    """
    builder = TaskBuilder(hashes, sweep)
    wanted = [cell for cell in sweep.cells if arms is None or cell.arm in arms]
    for cell in wanted:  # first, so that a reference knows whether its images are encoded too
        builder.network(cell.network)
    cells = tuple(_cell(builder, sweep, cell) for cell in wanted)
    floors: dict[str, tuple[Scored, ...]] = {}
    for cell in {id(cell.network): cell for cell in reversed(wanted)}.values():  # one cell of each network
        for extractor in sweep.score.features if sweep.score else ():
            reference, scored = _floor(builder, sweep, cell, extractor)
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
        whole=len(wanted) == len(sweep.cells),
        varying=_varying(sweep),
        instances=_instances(builder, sweep, cells),
        places={each.content: each.place for each in builder.outside.values() if not each.copied},
        code={digest: _where(sweep, code) for digest, code in sweep.code.items()},
        outside=builder.outside,
    )


def _varying(sweep: Sweep) -> dict[str, bool]:
    """Guidance first, seeds last; of the whole sweep, so that names stay the same if only a part is planned."""
    values: dict[str, set[str]] = {}
    for cell in sweep.cells:
        for key, value in cell.params.items():
            values.setdefault(key, set()).add(str(value))
    everywhere = {key: all(key in cell.params for cell in sweep.cells) for key in values}
    keys = sorted(values, key=lambda key: (is_seed(key), not sweep.is_guidance(key)))
    return {key: everywhere[key] for key in keys if len(values[key]) > 1 or not everywhere[key]}


def _instances(builder: TaskBuilder, sweep: Sweep, cells: Iterable[PlannedCell]) -> dict[str, Instance]:
    """Every network of the cells and of the measurement, and what each was made from."""
    scored = (one.task for planned in cells for one in planned.scores)
    estimates = any("estimator" in builder.tasks[task].params for task in scored)
    made: dict[str, Instance] = {}
    for network in networks_of((planned.cell for planned in cells), sweep.estimator if estimates else None):
        made.setdefault(builder.network(network), Instance(network.name, network.axes))
    return made


def _where(sweep: Sweep, code: Code) -> dict[str, str]:
    """Where the YAML looks for the user's own files; those outside its folder get paths in a folder `code`."""
    places = {}
    for path in code.files:
        place = Path(os.path.relpath(code.shown(path), Path(sweep.path).parent)).as_posix()
        places[path] = f"code/{path}" if place.startswith("..") else place
    return places


def _cell(builder: TaskBuilder, sweep: Sweep, cell: Cell) -> PlannedCell:
    network = builder.network(cell.network)
    references = {name: builder.network(other) for name, other in cell.references.items()}
    blocks = -(-cell.sample.count // cell.sample.block)
    stream = builder.add(
        "sample",
        {
            "network": network,
            "guidance": [_guidance(builder, cell, g) for g in cell.guidance],
            **({"compose": cell.compose} if cell.compose != "sum" and _composed(cell) else {}),
            "sampler": builder.identity(cell.sampler),
            "labels": cell.sample.labels,
            "seed": cell.sample.seed,
            "training": list(cell.network.seeds),
            "block": cell.sample.block,
            "precision": identity.changed_fields(sweep.precision),
            "stores": cell.network.stores,
        },
        (network, *(references[name] for name in sorted(references))),
        blocks,
    )
    extracts, scores = [], []
    for extractor in sweep.score.features if sweep.score else ():
        scoring = _scoring(builder, sweep, cell, extractor)
        decode = builder.tasks[stream].params["stores"] == "latents" and scoring.decode
        params = {**scoring.opened, "stream": stream, **({"decode": decode} if decode else {})}
        extract = builder.add("extract", params, (stream, *scoring.needs), blocks)
        extracts.append(extract)
        what = {"features": extract, "count": cell.sample.count, "block": cell.sample.block}
        scores += _scores(builder, sweep, scoring, what, (extract,))
    scores += [
        _measured(builder, sweep, measure, cell, stream)
        for measure in sweep.measures
        if cell.sampler.steps is not None or not isinstance(measure, NoiseShift)  # it observes no adaptive solver
    ]
    key = digest({"stream": stream, "count": cell.sample.count})
    return PlannedCell(
        arm=cell.arm,
        params=cell.params,
        digest=key,
        stream=stream,
        count=cell.sample.count,
        extracts=tuple(extracts),
        scores=tuple(scores),
        cell=cell,
    )


def _composed(cell: Cell) -> bool:
    """Whether the cell has guidance that nests, and guidance to nest it in."""
    return len({guidance.nests for guidance in cell.guidance}) == 2


def _guidance(builder: TaskBuilder, cell: Cell, guidance: Any) -> dict[str, Any]:
    """A guidance's identity, with the digest of its reference network in place of the name."""
    own = builder.identity(guidance)
    if guidance.reference is None:
        return own
    return {**own, "fields": {**own["fields"], "reference": builder.network(cell.references[guidance.reference])}}


def _measured(builder: TaskBuilder, sweep: Sweep, measure: Measure, cell: Cell, stream: str) -> Scored:
    params: dict[str, Any] = {
        "measure": {"name": identity.name_of(measure), "version": type(measure).VERSION},
        "stream": stream,
        "count": min(measure.count, cell.sample.count),
        "block": cell.sample.block,
    }
    inputs: tuple[str, ...] = (stream,)
    if isinstance(measure, NoiseShift):
        assert sweep.estimator is not None
        estimator = builder.network(sweep.estimator)
        data, needs = builder.states(cell.network)
        params |= {"levels": measure.levels, "estimator": estimator, "data": data}
        inputs += (estimator, *needs)
    return Scored(_reported(builder, measure, None, ""), builder.add("measure", params, inputs))


@dataclass(frozen=True)
class Scoring:
    """What an extractor's scores of a cell share."""

    extractor: Any
    opened: dict[str, Any]
    reference: str  # the task
    trained: str  # the same of the network's training images, for metrics that need them
    splits: bool  # whether the reference is of a data set, which may have held-out images
    decode: dict[str, Any] | None

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.opened["weights"],) if self.opened["weights"] else ()


def _scoring(builder: TaskBuilder, sweep: Sweep, cell: Cell, extractor: Any) -> Scoring:
    """The Scoring of a network and an extractor, made once: a sweep may have 100,000 cells."""
    key = (id(cell.network), id(extractor))
    scoring = builder.scorings.get(key) or _new_scoring(builder, sweep, cell, extractor)
    return builder.scorings.setdefault(key, scoring)


def _new_scoring(builder: TaskBuilder, sweep: Sweep, cell: Cell, extractor: Any) -> Scoring:
    score = sweep.score
    assert score is not None
    images = trained_on(score, cell.network.data)
    opened = builder.extractor(extractor, images)
    file, of_its_own = score.reference, [m for m in score.metrics if of_training(m) and images is not None]
    if isinstance(file, Published):
        statistics = builder.published(file)
        _check_file(builder, file, extractor, [metric for metric in score.metrics if metric not in of_its_own])
        held = {"statistics": statistics, "moments": sorted(file.usable(extractor))}
        reference = builder.reference(opened, held, score.rows)
    else:
        reference = builder.reference(opened, {"data": builder.images(file or cell.network.data)}, score.rows)
    trained = reference
    if any(fed(metric, extractor) for metric in of_its_own):
        trained = builder.reference(opened, {"data": builder.images(images)}, score.rows)
    vae = score.decode or cell.network.autoencoder
    decode = builder.identity(vae) if vae is not None and reads_pixels(extractor) else None
    return Scoring(extractor, opened, reference, trained, not isinstance(file, Published), decode)


def _check_file(builder: TaskBuilder, file: Published, extractor: Any, metrics: Iterable[Any]) -> None:
    """Check the file again: one at a URL was not here when the sweep was read."""
    for metric in metrics if builder.hashes else ():
        if fed(metric, extractor) and (reason := refusal(file, extractor, metric)):
            raise BadInput(f"score.reference: {identity.name_of(metric)!r}: {reason}.")


def _floor(builder: TaskBuilder, sweep: Sweep, cell: Cell, extractor: Any) -> tuple[str, tuple[Scored, ...]]:
    scoring = _scoring(builder, sweep, cell, extractor)
    if not scoring.splits:
        return scoring.reference, ()
    return scoring.reference, tuple(_scores(builder, sweep, scoring, {"features": None}, ()))


def _scores(
    builder: TaskBuilder, sweep: Sweep, scoring: Scoring, what: dict[str, Any], inputs: tuple[str, ...]
) -> list[Scored]:
    """The score tasks of an extractor's metrics; for a cell, also of distances to held-out images."""
    assert sweep.score is not None
    metrics = [metric for metric in sweep.score.metrics if fed(metric, scoring.extractor)]
    if scoring.splits and what["features"] is not None:
        metrics += [twin for metric in metrics if (twin := _held_out(metric)) and twin not in metrics]
    scores = []
    for metric in metrics:
        reference = scoring.trained if of_training(metric) else scoring.reference
        if what["features"] is None and reference != scoring.reference:
            continue  # here the reference's held-out images are scored
        params = {**what, "metric": builder.identity(metric), "reference": reference}
        task = builder.add("score", params, (*inputs, reference))
        scores.append(Scored(_reported(builder, metric, scoring.extractor, suffix(sweep, scoring.extractor)), task))
    return scores


def _held_out(metric: Any) -> Any:
    """The same distance to held-out images; None for a metric without one."""
    return _twin(metric) if metric.against == "train" else None


def _reported(builder: TaskBuilder, metric: Any, extractor: Any, suffix: str) -> Reported:
    key = (id(metric), id(extractor), suffix)
    return builder.reported.get(key) or builder.reported.setdefault(key, reported(metric, extractor, suffix))


@functools.cache
def _twin(metric: Any) -> Any:
    """One object for all cells, so that its identity is computed once."""
    return replace(metric, against="held_out")
