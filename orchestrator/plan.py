"""From a sweep to its tasks: a pure function. Equal tasks are one, whatever arms or sweeps ask for them.

train ──> sample ──> extract ──> score      (one score task for each cell, extractor and metric)
train (of an extractor) ──┴──> reference ──┘
train (of an estimator) ──> measure         (it reads the first blocks of `sample` as well)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from nag.guidance.mixing import along_noise
from orchestrator import identity
from orchestrator.errors import BadInput
from orchestrator.identity import Outside, content, digest
from orchestrator.store import Store
from orchestrator.sweep import Cell, Network, Sweep
from orchestrator.tasks import BLOCK_KINDS, KINDS, Task


@dataclass(frozen=True)
class Scored:
    """One metric of a cell: the names under which its values are reported, and the task that makes them."""

    metric: Any
    suffix: str  # "" for the first extractor, else "_" and its name
    task: str


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
    outside: Mapping[str, Outside] = field(
        default_factory=dict
    )  # by content, what tasks read from outside of the store

    @cached_property
    def goals(self) -> frozenset[str]:
        """What the sweep is for: its scores, or its samples where it scores nothing."""
        scores = {scored.task for planned in self.cells for scored in planned.scores}
        floors = {scored.task for _, floor in self.floors for scored in floor}
        return frozenset(scores | floors or {planned.stream for planned in self.cells})

    def document(self) -> dict[str, Any]:
        """The plan as the store keeps it: what those who do its tasks must know, and the sweep as it was written."""
        return {
            "sweep": self.sweep.name,
            "text": self.sweep.text,
            "tasks": {digest: task.definition() for digest, task in self.tasks.items()},
            "blocks": dict(self.blocks),
            "goals": sorted(self.goals),
            "places": {found.content: found.place for found in self.outside.values() if not found.copied},
        }


def find_cell(plan: Plan, prefix: str) -> PlannedCell:
    """The cell whose digest starts so. Raises BadInput, naming the cells there are, if that is none or several."""
    found = {planned.digest: planned for planned in plan.cells if planned.digest.startswith(prefix)}
    if len(found) == 1:
        return next(iter(found.values()))
    known = [f"{p.digest[:12]} ({p.cell.arm})" for p in (found.values() or plan.cells)]
    shown = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
    problem = f"{len(found)} cells begin with {prefix!r}" if found else f"no cell begins with {prefix!r}"
    raise BadInput(f"{problem}. {'They are' if found else 'Known'}: {shown}.")


def only_cell(sweep: Sweep, prefix: str, count: int | None) -> Sweep:
    """The sweep with one cell, perhaps of fewer or more samples."""
    cell = find_cell(plan(sweep), prefix).cell
    if count is not None:
        cell = replace(cell, sample=replace(cell.sample, count=count))
    return replace(sweep, cells=(cell,))


class Builder:
    """Adds tasks, merging equal ones. Methods are frozen and shared, so identities are computed once each."""

    def __init__(self, hashes: bool = True) -> None:
        self.hashes = hashes
        self.tasks: dict[str, Task] = {}
        self.blocks: dict[str, int] = {}
        self.outside: dict[str, Outside] = {}
        self._identities: dict[int, dict[str, Any]] = {}
        self._networks: dict[int, str] = {}

    def add(
        self, kind: str, params: Mapping[str, Any], inputs: tuple[str, ...] = (), blocks: int = 0, source: str = ""
    ) -> str:
        task = Task(kind, params, inputs, source)
        key = task.digest
        self.tasks.setdefault(key, task)
        if kind in BLOCK_KINDS:
            self.blocks[key] = max(blocks, self.blocks.get(key, 0))
        return key

    def identity(self, instance: Any) -> dict[str, Any]:
        if id(instance) not in self._identities:
            self._identities[id(instance)] = identity.method(instance, compute=self.hashes)
            found = identity.outside(instance, compute=self.hashes)
            self.outside |= {outside.content: outside for outside in found.values()}
        return self._identities[id(instance)]

    def network(self, network: Network) -> str:
        """The digest of the task that makes the network: trains it, or takes it into the store from its file."""
        if id(network) not in self._networks:
            self._networks[id(network)] = self._loaded(network) if network.checkpoint else self._trained(network)
        return self._networks[id(network)]

    def _loaded(self, network: Network) -> str:
        assert network.checkpoint is not None
        params: dict[str, Any] = {"checkpoint": content(network.checkpoint, compute=self.hashes)}
        params |= {key: getattr(network, key) for key in ("family", "heads") if getattr(network, key) is not None}
        return self.add("train", params, source=network.checkpoint)

    def _trained(self, network: Network) -> str:
        params: dict[str, Any] = {"data": self.identity(network.data), "train": training_identity(network.train)}
        if network.init is not None:  # what the network is, its parent says
            parent = self.network(network.init)
            return self.add("train", {**params, "init": parent}, (parent,))
        model, interpolant = self.identity(network.model), self.identity(network.interpolant)
        return self.add("train", {**params, "model": model, "interpolant": interpolant, "predicts": network.predicts})

    def extractor(self, extractor: Any, data: Any) -> dict[str, Any]:
        """The params that name an open extractor: its identity and the digest of its training, if it is trained
        here.
        """
        weights = None
        if extractor.trained:
            weights = self.add("train", {"extractor": self.identity(extractor), "data": self.identity(data)})
        return {"extractor": self.identity(extractor), "weights": weights}


def training_identity(training: Any) -> dict[str, Any]:
    return {"version": type(training).VERSION, "fields": identity.changed_fields(training)}


def suffix(sweep: Sweep, extractor: Any) -> str:
    """Metrics of the first extractor are unsuffixed, others carry its name."""
    assert sweep.score is not None
    return "" if extractor == sweep.score.features[0] else f"_{identity.name_of(extractor)}"


def plan(sweep: Sweep, arms: frozenset[str] | None = None, hashes: bool = True) -> Plan:
    """The tasks of a sweep, or of some of its arms. Without `hashes` no checkpoint is read: one that was never read
    before is then a network that no store has.
    """
    builder = Builder(hashes)
    cells = tuple(_cell(builder, sweep, cell) for cell in sweep.cells if arms is None or cell.arm in arms)
    floors: dict[str, tuple[Scored, ...]] = {}
    for planned in cells:
        for extractor in sweep.score.features if sweep.score else ():
            reference, scored = _floor(builder, sweep, planned.cell, extractor)
            floors[reference] = scored
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
            "block": cell.sample.block,
            "precision": identity.changed_fields(sweep.precision),
            "stores": cell.network.data.stores if cell.network.data else "latents",
        },
        (network, *(references[name] for name in sorted(references))),
        blocks,
    )
    extracts, scores = [], []
    for extractor in sweep.score.features if sweep.score else ():
        opened = builder.extractor(extractor, cell.network.data)
        needs = (opened["weights"],) if opened["weights"] else ()
        extract = builder.add("extract", {**opened, "stream": stream}, (stream, *needs), blocks)
        extracts.append(extract)
        reference = _reference(builder, opened, cell.network.data, needs)
        what = {"features": extract, "count": cell.sample.count, "block": cell.sample.block}
        scores += _scores(builder, sweep, extractor, what, reference, (extract, reference))
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
    params = {
        "measure": {"name": identity.name_of(sweep.measure), "version": type(sweep.measure).VERSION},
        "levels": sweep.measure.levels,
        "stream": stream,
        "estimator": estimator,
        "data": builder.identity(cell.network.data),
        "count": min(sweep.measure.count, cell.sample.count),
        "block": cell.sample.block,
    }
    return Scored(sweep.measure, "", builder.add("measure", params, (stream, estimator)))


def _reference(builder: Builder, opened: dict[str, Any], data: Any, needs: tuple[str, ...]) -> str:
    return builder.add("reference", {**opened, "data": builder.identity(data)}, needs)


def _floor(builder: Builder, sweep: Sweep, cell: Cell, extractor: Any) -> tuple[str, tuple[Scored, ...]]:
    opened = builder.extractor(extractor, cell.network.data)
    reference = _reference(builder, opened, cell.network.data, (opened["weights"],) if opened["weights"] else ())
    return reference, tuple(_scores(builder, sweep, extractor, {"features": None}, reference, (reference,)))


def _scores(
    builder: Builder, sweep: Sweep, extractor: Any, what: dict[str, Any], reference: str, inputs: tuple[str, ...]
) -> list[Scored]:
    assert sweep.score is not None
    provided = {*extractor.outputs, "labels"}
    return [
        Scored(
            metric,
            suffix(sweep, extractor),
            builder.add("score", {**what, "metric": builder.identity(metric), "reference": reference}, inputs),
        )
        for metric in sweep.score.metrics
        if metric.needs <= provided
    ]


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

    def complete(self, plan: Plan, digest: str) -> bool:
        task = plan.tasks[digest]
        if task.kind in BLOCK_KINDS:
            return self.blocks(digest) >= set(range(plan.blocks[digest]))
        return self.small_done(task)


def missing(plan: Plan, done: Done) -> dict[str, list[int] | None]:
    """What is still to do, from the goals backwards: digest -> block numbers (None for a small task).

    Behind a finished task nothing is looked at: a score that is there needs no features any more.
    """
    wanted: dict[str, set[int]] = {}
    todo: dict[str, list[int] | None] = {}
    for key in reversed(plan.tasks):
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
            needs = set(range(-(-task.params["count"] // task.params["block"]))) if "count" in task.params else set()
        for source in task.inputs:
            wanted.setdefault(source, set()).update(needs if plan.tasks[source].kind in BLOCK_KINDS else ())
    return {key: todo[key] for key in plan.tasks if key in todo}
