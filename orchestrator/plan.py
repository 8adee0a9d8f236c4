"""From a sweep to its tasks: a pure function. Equal tasks are one, whatever arms or sweeps ask for them.

encode ──> train ──> sample ──> extract ──> score      (one score task for each cell, extractor and metric)
           train (of an extractor) ──┴──> reference ──┘
           train (of an estimator) ──> measure         (it reads the first blocks of `sample` as well)

encode is of what is trained on latents; the reference of those images is then taken in the same pass, by extract.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

from nag.guidance.mixing import along_noise
from orchestrator import identity
from orchestrator.builder import Builder
from orchestrator.errors import BadInput, unknown
from orchestrator.identity import Outside, canonical, checksum, digest
from orchestrator.published import Published
from orchestrator.scorers import fed, of_training, reads_pixels, refusal, trained_on
from orchestrator.store import Store
from orchestrator.sweep import Cell, Network, Sweep
from orchestrator.tasks import BLOCK_KINDS, KINDS, Task


@dataclass(frozen=True)
class Scored:
    """One metric of a cell: the names under which its values are reported, and the task that makes them."""

    metric: Any
    suffix: str  # "" for the first extractor, else "_" and its name
    task: str
    extractor: str = ""  # its name; "" for a measurement


@dataclass(frozen=True)
class PlannedCell:
    cell: Cell
    digest: str
    stream: str
    blocks: int
    extracts: tuple[str, ...]
    scores: tuple[Scored, ...]


@dataclass(frozen=True)
class Plan:
    sweep: Sweep
    tasks: dict[str, Task]  # by digest, inputs before what needs them
    blocks: Mapping[str, int]  # how many blocks of each sample and extract task are wanted
    cells: tuple[PlannedCell, ...]
    floors: tuple[tuple[str, tuple[Scored, ...]], ...]  # per reference task: the held-out images scored like a cell
    # by content and whether it is copied, what tasks read from outside of the store
    outside: Mapping[tuple[str, bool], Outside] = field(default_factory=dict)

    @cached_property
    def goals(self) -> frozenset[str]:
        """What the sweep is for: its scores, or its samples where it scores nothing."""
        scores = {scored.task for planned in self.cells for scored in planned.scores}
        floors = {scored.task for _, floor in self.floors for scored in floor}
        return frozenset(scores | floors or {planned.stream for planned in self.cells})

    @property
    def arms(self) -> dict[str, set[str]]:
        """The streams of each arm."""
        found: dict[str, set[str]] = {}
        for planned in self.cells:
            found.setdefault(planned.cell.arm, set()).add(planned.stream)
        return found

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        """Those of the cells and of the measurement, with what each was made from, all once. A plan that was read from
        a store has none: its tasks say it all.
        """
        roots = [n for planned in self.cells for n in (planned.cell.network, *planned.cell.references.values()) if n]
        roots += [self.sweep.estimator] if self.sweep.estimator else []
        return tuple({id(n): n for root in roots for n in root.line}.values())

    def document(self) -> dict[str, Any]:
        """The plan as the store keeps it: what those who do its tasks must know, and the sweep as it was written."""
        return {
            "sweep": self.sweep.name,
            "text": self.sweep.text,
            "keep": self.sweep.keep,
            "tasks": {digest: task.definition() for digest, task in self.tasks.items()},
            "blocks": dict(self.blocks),
            "goals": sorted(self.goals),
            "arms": {arm: sorted(found) for arm, found in self.arms.items()},
            "places": {found.content: found.place for found in self.outside.values() if not found.copied},
        }


def plan_checksum(plan: Plan) -> str:
    """The name of a plan in stores: its content decides it."""
    return checksum(canonical(plan.document()).encode())


def find_cell(plan: Plan, prefix: str) -> PlannedCell:
    """The cell whose digest starts so. Raises BadInput, naming the cells there are, if that is none or several."""
    found = {planned.digest: planned for planned in plan.cells if planned.digest.startswith(prefix)}
    if len(found) == 1:
        return next(iter(found.values()))
    known = [f"{p.digest[:12]} ({p.cell.arm})" for p in (found.values() or plan.cells)]
    shown = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
    problem = f"{len(found)} cells begin with {prefix!r}" if found else f"no cell begins with {prefix!r}"
    raise BadInput(f"{problem}. {'They are' if found else 'Known'}: {shown}.")


def needs_only(plan: Plan, arms: list[str] | None, cell: str | None) -> frozenset[str]:
    """The tasks that some arms, or a cell, need and nothing else of the plan does. Raises BadInput for unknown ones."""
    known = {planned.cell.arm for planned in plan.cells}
    for arm in arms or ():
        if arm not in known:
            raise BadInput(f"--arm: {unknown('arm', arm, known)}")
    chosen = find_cell(plan, cell).digest if cell else None
    theirs, others = set[str](), set[str]()
    for planned in plan.cells:
        wanted = planned.cell.arm in (arms or ()) or planned.digest == chosen
        (theirs if wanted else others).update(behind(plan, planned))
    return frozenset(theirs - others)


def behind(plan: Plan, planned: PlannedCell) -> set[str]:
    """Every task that a cell needs."""
    found: set[str] = set()
    pending = [planned.stream, *planned.extracts, *(scored.task for scored in planned.scores)]
    while pending:
        digest = pending.pop()
        if digest not in found:
            found.add(digest)
            pending += plan.tasks[digest].inputs
    return found


def only_cell(sweep: Sweep, prefix: str, count: int | None) -> Sweep:
    """The sweep with one cell, perhaps of fewer or more samples."""
    cell = find_cell(plan(sweep), prefix).cell
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
    """The tasks of a sweep, or of some of its arms. Without `hashes` no checkpoint is read: one that was never read
    before is then a network that no store has.
    """
    builder = Builder(hashes)
    wanted = [cell for cell in sweep.cells if arms is None or cell.arm in arms]
    for cell in wanted:  # first, so that a reference knows whether its images are encoded too
        builder.network(cell.network)
    cells = tuple(_cell(builder, sweep, cell) for cell in wanted)
    floors: dict[str, tuple[Scored, ...]] = {}
    for cell in {id(cell.network): cell for cell in reversed(wanted)}.values():  # one of each network
        for extractor in sweep.score.features if sweep.score else ():
            reference, scored = _floor(builder, sweep, cell, extractor)
            floors[reference] = scored
    builder.check_size(sweep.path)
    return Plan(sweep, builder.tasks, builder.blocks, cells, tuple(floors.items()), builder.outside)


def _cell(builder: Builder, sweep: Sweep, cell: Cell) -> PlannedCell:
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
        made = {**scoring.opened, "stream": stream, **({"decode": decode} if decode else {})}
        extract = builder.add("extract", made, (stream, *scoring.needs), blocks)
        extracts.append(extract)
        what = {"features": extract, "count": cell.sample.count, "block": cell.sample.block}
        scores += _scores(builder, sweep, scoring, what, (extract,))
    if sweep.measure is not None and hasattr(cell.sampler, "steps"):  # an adaptive solver is not observed
        scores.append(_measured(builder, sweep, cell, stream))
    key = digest({"stream": stream, "count": cell.sample.count})
    return PlannedCell(cell, key, stream, blocks, tuple(extracts), tuple(scores))


def _composed(cell: Cell) -> bool:
    """Whether there is guidance along the noise condition and another to put it into."""
    return len({along_noise(guidance.terms()) for guidance in cell.guidance}) == 2


def _guidance(builder: Builder, cell: Cell, guidance: Any) -> dict[str, Any]:
    """A guidance's identity, with the digest of its reference network in place of the name."""
    found = builder.identity(guidance)
    if getattr(guidance, "reference", None) is None:
        return found
    return {**found, "fields": {**found["fields"], "reference": builder.network(cell.references[guidance.reference])}}


def _measured(builder: Builder, sweep: Sweep, cell: Cell, stream: str) -> Scored:
    assert sweep.measure is not None
    assert sweep.estimator is not None
    estimator = builder.network(sweep.estimator)
    data, needs = builder.states(cell.network)
    params = {
        "measure": {"name": identity.name_of(sweep.measure), "version": type(sweep.measure).VERSION},
        "levels": sweep.measure.levels,
        "stream": stream,
        "estimator": estimator,
        "data": data,
        "count": min(sweep.measure.count, cell.sample.count),
        "block": cell.sample.block,
    }
    return Scored(sweep.measure, "", builder.add("measure", params, (stream, estimator, *needs)))


@dataclass(frozen=True)
class Scoring:
    """What an extractor's scores of a cell share."""

    extractor: Any
    opened: dict[str, Any]
    reference: str  # the task
    trained: str  # that of the images which the network was trained on, for metrics that ask for them
    splits: bool  # whether the reference is of a data set, which may have held-out images
    decode: dict[str, Any] | None

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.opened["weights"],) if self.opened["weights"] else ()


def _scoring(builder: Builder, sweep: Sweep, cell: Cell, extractor: Any) -> Scoring:
    """Made once for each network and extractor: a sweep may have 100,000 cells."""
    key = (id(cell.network), id(extractor))
    found = builder.scorings.get(key) or _new_scoring(builder, sweep, cell, extractor)
    return builder.scorings.setdefault(key, found)


def _new_scoring(builder: Builder, sweep: Sweep, cell: Cell, extractor: Any) -> Scoring:
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


def _check_file(builder: Builder, file: Published, extractor: Any, metrics: Iterable[Any]) -> None:
    """Once more: a file at a URL was not here when the sweep was read."""
    for metric in metrics if builder.hashes else ():
        if fed(metric, extractor) and (reason := refusal(file, extractor, metric)):
            raise BadInput(f"score.reference: {identity.name_of(metric)!r}: {reason}.")


def _floor(builder: Builder, sweep: Sweep, cell: Cell, extractor: Any) -> tuple[str, tuple[Scored, ...]]:
    scoring = _scoring(builder, sweep, cell, extractor)
    if not scoring.splits:
        return scoring.reference, ()
    return scoring.reference, tuple(_scores(builder, sweep, scoring, {"features": None}, ()))


def _scores(
    builder: Builder, sweep: Sweep, scoring: Scoring, what: dict[str, Any], inputs: tuple[str, ...]
) -> list[Scored]:
    """The score tasks of an extractor's metrics; of a cell also those of distances to the held-out images."""
    assert sweep.score is not None
    metrics = [metric for metric in sweep.score.metrics if fed(metric, scoring.extractor)]
    if scoring.splits and what["features"] is not None:
        metrics += [twin for metric in metrics if (twin := _held_out(metric)) and twin not in metrics]
    found = []
    for metric in metrics:
        reference = scoring.trained if of_training(metric) else scoring.reference
        if what["features"] is None and reference != scoring.reference:
            continue  # it is the reference's held-out images that are scored here
        params = {**what, "metric": builder.identity(metric), "reference": reference}
        extractor = identity.name_of(scoring.extractor)
        task = builder.add("score", params, (*inputs, reference))
        found.append(Scored(metric, suffix(sweep, scoring.extractor), task, extractor))
    return found


def _held_out(metric: Any) -> Any:
    """The same distance to images that were not trained on; None for a metric that has no such thing."""
    return _twin(metric) if getattr(metric, "against", "") == "train" else None


@functools.cache
def _twin(metric: Any) -> Any:
    """One object for all cells: identities are computed once for each."""
    return replace(metric, against="held_out")


class Done:
    """What a store holds already: digests of finished small tasks by kind, numbers of finished blocks by digest."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.small: dict[str, set[str]] = {
            kind: {name.removesuffix(".json") for name in store.list(f"records/{kind}")}
            for kind in KINDS
            if kind not in BLOCK_KINDS
        }
        self._blocks: dict[str, set[int]] = {}

    def look(self, digests: Iterable[str]) -> None:
        """Ask for the blocks of all these at once, where it is the asking that takes time."""
        keys = list(digests)
        for key, names in zip(
            keys, self.store.at_once(self.store.list, [f"blocks/{key}" for key in keys]), strict=True
        ):
            self._blocks[key] = {int(name.partition(".")[0]) for name in names}

    def blocks(self, digest: str) -> set[int]:
        if digest not in self._blocks:
            names = self.store.list(f"blocks/{digest}")
            self._blocks[digest] = {int(name.partition(".")[0]) for name in names}
        return self._blocks[digest]

    @cached_property
    def attempted(self) -> frozenset[str]:
        """Digests of the tasks at which an attempt failed."""
        return frozenset(self.store.list("attempts"))

    def small_done(self, task: Task) -> bool:
        return task.digest in self.small[task.kind]

    def complete(self, plan: Graph, digest: str) -> bool:
        task = plan.tasks[digest]
        if task.kind in BLOCK_KINDS:
            return self.blocks(digest) >= set(range(plan.blocks[digest]))
        return self.small_done(task)


class Graph(Protocol):
    """What of a plan says what is to do; a plan that the store has looks the same."""

    @property
    def tasks(self) -> Mapping[str, Task]: ...
    @property
    def blocks(self) -> Mapping[str, int]: ...
    @property
    def goals(self) -> frozenset[str]: ...


def missing(plan: Graph, done: Done) -> dict[str, list[int] | None]:
    """What is still to do, from the goals backwards: digest -> block numbers (None for a small task).

    Behind a finished task nothing is looked at: a score that is there needs no features any more.
    """
    wanted: dict[str, set[int]] = {}
    todo: dict[str, list[int] | None] = {}
    if not done.store.local and not all(done.complete(plan, goal) for goal in plan.goals):
        done.look(key for key, task in plan.tasks.items() if task.kind in BLOCK_KINDS)
    for key in reversed(list(plan.tasks)):
        task = plan.tasks[key]
        if task.kind in BLOCK_KINDS:
            asked = set(range(plan.blocks[key])) if key in plan.goals else wanted.get(key, set())
            absent = sorted(asked - done.blocks(key)) if asked else []
            if not absent:
                continue
            todo[key] = absent
            needs: set[int] = set(absent)
        else:
            if (key not in wanted and key not in plan.goals) or done.small_done(task):
                continue
            todo[key] = None
            needs = set(range(-(-task.params["count"] // task.params["block"]))) if "block" in task.params else set()
        for source in task.inputs:
            whole = plan.tasks[source].kind == "encode" or task.kind == "reference"
            reads = set(range(plan.blocks[source])) if whole and source in plan.blocks else needs
            wanted.setdefault(source, set()).update(reads if plan.tasks[source].kind in BLOCK_KINDS else ())
    return {key: todo[key] for key in plan.tasks if key in todo}
