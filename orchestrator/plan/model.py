"""Plan: the tasks of a sweep, and which of them each cell needs. A stored plan is what the store keeps of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from orchestrator.errors import BadInput, unknown
from orchestrator.spec.model import networks_of
from orchestrator.spec.parameters import Params

if TYPE_CHECKING:
    from orchestrator.identity import Outside
    from orchestrator.plan.reported import Reported
    from orchestrator.spec.model import Cell, Network, StoredSweep, Sweep
    from orchestrator.tasks.task import Task

LISTED = 20  # cells that a message names


@dataclass(frozen=True)
class Scored:
    """One metric of a cell, and the task that computes it."""

    metric: Reported
    task: str

    @property
    def suffix(self) -> str:
        """The suffix that reports add to the names of its values."""
        return self.metric.suffix

    @property
    def extractor(self) -> str:
        return self.metric.extractor


@dataclass(frozen=True, kw_only=True)
class StoredCell:
    """A cell: its arm and parameters, and the tasks that sample and score it. count: samples."""

    arm: str
    params: Params
    digest: str
    stream: str
    count: int
    extracts: tuple[str, ...]
    scores: tuple[Scored, ...]


@dataclass(frozen=True, kw_only=True)
class PlannedCell(StoredCell):
    cell: Cell


@dataclass(frozen=True)
class Instance:
    """A network of the sweep: its name, and its value on each of its axes."""

    name: str
    axes: Params


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A candidate of a choice, and how it compares with the leader on the samples of the choice, at `count` samples.

    value: its mean over training seeds of the metric, None if not scored yet; difference, low, high: from the leader,
    paired and without the bias in N, above 0 is worse; None for the leader, or before it is scored. values: such means
    of other metrics at the first rung, where all candidates have equally many samples.
    """

    params: Params  # the tuned parameters
    place: tuple[int, ...]  # on each tuned axis
    count: int = 0
    value: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)


class Budget(NamedTuple):
    """What a choice costs at most: candidates that are tried, their samples, and network evaluations of those."""

    candidates: int
    samples: int
    evaluations: float


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How the tuned values of an arm are chosen, for one combination of the factors outside arms. score: what the race
    compares, `fid` or `fid on 158 random directions at a time`; first_score: what it compared at the first rung.
    samples: how many were drawn for it; exhaustive: how many every combination at the full count would take.
    """

    arm: str
    params: Params  # of its cells, without tuned values and seeds
    metric: str
    score: str
    trials: tuple[Trial, ...]  # those scored or running; in the order of their places
    leader: Trial | None
    chosen: Trial | None  # None while the race goes on
    left: int  # candidates still in the race
    samples: int
    exhaustive: int
    evaluations: float  # network evaluations of those samples
    allowed: Budget
    first_score: str = ""
    reason: str | None = None  # why it failed


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One combination of an arm's tuned values. streams, extracts: of each training seed (and extractor), with the
    samples of the choice. cells: its cells with the samples of the comparison, wanted only if it is chosen.
    """

    place: tuple[int, ...]  # on each tuned axis
    params: Params  # the tuned ones
    streams: tuple[str, ...]
    extracts: tuple[str, ...]
    cells: tuple[StoredCell, ...]


@dataclass(frozen=True, kw_only=True)
class Race:
    """The choice of an arm's tuned values, for one combination of the factors outside arms. steps: its `select` tasks,
    as many as it may take; each reads the record of the one before it.
    """

    arm: str
    params: Params  # of its cells, without tuned values and seeds
    metric: str  # a reported name
    axes: tuple[tuple[int, bool], ...]  # of each tuned axis: its size, and whether it is a range
    count: int  # samples of each candidate at most
    block: int
    limit: int | None  # candidates at most
    candidates: tuple[Candidate, ...]
    steps: tuple[str, ...]  # none for a race that follows another
    follows: int | None = None  # the place of another race in the plan: what is chosen there is chosen here

    @cached_property
    def by_place(self) -> dict[tuple[int, ...], Candidate]:
        return {candidate.place: candidate for candidate in self.candidates}


@dataclass(frozen=True, kw_only=True)
class StoredPlan:
    """All that is needed to run a sweep, show its progress and report it, without its YAML."""

    sweep: StoredSweep
    tasks: Mapping[str, Task]  # by digest, inputs before what needs them
    blocks: Mapping[str, int]  # how many blocks of each sample and extract task are wanted
    goals: frozenset[str]  # the tasks that the sweep is for: its scores, or its samples if it scores nothing
    cells: tuple[StoredCell, ...]
    floors: tuple[tuple[str, tuple[Scored, ...]], ...]  # per reference task: the held-out images scored like a cell
    whole: bool  # whether these are all cells of the sweep
    varying: Mapping[str, bool]  # parameters that tell the sweep's cells apart -> whether each cell has them
    instances: Mapping[str, Instance]  # the networks, by the task that makes them
    places: Mapping[str, str]  # by content, the places of the data sets that tasks read
    code: Mapping[str, Mapping[str, str]]  # by digest, the user's own files: path -> where the YAML looks for it
    races: tuple[Race, ...] = ()
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by content of a data set, its classes' names

    @property
    def arms(self) -> dict[str, set[str]]:
        """The streams of each arm."""
        streams: dict[str, set[str]] = defaultdict(set)
        for cell in self.cells:
            streams[cell.arm].add(cell.stream)
        return dict(streams)

    @cached_property
    def metrics(self) -> tuple[Reported, ...]:
        """The metrics of all cells, in the order of the sweep."""
        each = {id(scored.metric): scored.metric for cell in self.every_cell for scored in cell.scores}
        return tuple(each.values())

    @cached_property
    def every_cell(self) -> tuple[StoredCell, ...]:
        """The cells, and those of all candidates that are not chosen yet, or were not."""
        others = (cell for race in self.races for candidate in race.candidates for cell in candidate.cells)
        return tuple({id(cell): cell for cell in (*self.cells, *others)}.values())


@dataclass(frozen=True, kw_only=True)
class Plan(StoredPlan):
    """A plan that was made from a sweep file."""

    sweep: Sweep
    cells: tuple[PlannedCell, ...]
    # by content and whether it is copied, what tasks read from outside the store
    outside: Mapping[tuple[str, bool], Outside] = field(default_factory=dict)

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        """Those of the cells and of the measurement, with what each was made from, all once."""
        candidates = (cell for race in self.races for candidate in race.candidates for cell in candidate.cells)
        cells = [*self.cells, *(cell for cell in candidates if isinstance(cell, PlannedCell))]
        return networks_of((planned.cell for planned in cells), self.sweep.estimator)


C = TypeVar("C", bound=StoredCell)


def in_order(sweep: StoredSweep, cells: Iterable[C]) -> tuple[C, ...]:
    """Cells in the order of their arms."""
    place = {arm.name: number for number, arm in enumerate(sweep.arms)}
    return tuple(sorted(cells, key=lambda cell: place[cell.arm]))


def only_arms(plan: StoredPlan, arms: Iterable[str]) -> StoredPlan:
    """The plan with the cells of some arms. Raises BadInput for an arm that it does not have."""
    known = [arm.name for arm in plan.sweep.arms]
    for arm in arms:
        if arm not in known:
            raise BadInput(f"--arm: {unknown('arm', arm, known)}")
    cells = tuple(cell for cell in plan.cells if cell.arm in {*arms})
    whole = plan.whole and {*arms} >= {cell.arm for cell in plan.every_cell}
    return replace(plan, cells=cells, races=of_arms(plan.races, {*arms}), whole=whole)


def of_arms(races: tuple[Race, ...], arms: Collection[str]) -> tuple[Race, ...]:
    """The races of some arms. One that theirs follow stays, without cells."""
    followed = {race.follows for race in races if race.arm in arms}
    kept = {
        place: race
        if race.arm in arms
        else replace(race, candidates=tuple(replace(candidate, cells=()) for candidate in race.candidates))
        for place, race in enumerate(races)
        if race.arm in arms or place in followed
    }
    numbers = {place: number for number, place in enumerate(kept)}
    return tuple(
        replace(race, follows=None if race.follows is None else numbers[race.follows]) for race in kept.values()
    )


def find_cell(plan: StoredPlan, prefix: str) -> StoredCell:
    """The cell whose digest starts with `prefix`. Raises BadInput, listing cells, if none or several do."""
    cells = {cell.digest: cell for cell in plan.every_cell}
    matching = {digest: cell for digest, cell in cells.items() if digest.startswith(prefix.lower())}
    if len(matching) == 1:
        return next(iter(matching.values()))
    known = list((matching or cells).values())
    listed = ", ".join(f"{cell.digest[:12]} ({cell_words(plan, cell)})" for cell in known[:LISTED])
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    problem = f"{len(matching)} cells begin with {prefix!r}" if matching else f"no cell begins with {prefix!r}"
    raise BadInput(f"{problem}. {'They are' if matching else 'Known'}: {listed}{more}.")


def cell_words(plan: StoredPlan, cell: StoredCell) -> str:
    """The arm, and the parameters in which cells of the sweep differ."""
    return " ".join([cell.arm, *(f"{key}={cell.params[key]}" for key in plan.varying if key in cell.params)])


def needs_only(plan: StoredPlan, arms: list[str] | None, cell: str | None) -> frozenset[str]:
    """The tasks that only these arms, or this cell, need. Raises BadInput for an unknown arm or cell."""
    known = {planned.arm for planned in plan.every_cell}
    for arm in arms or ():
        if arm not in known:
            raise BadInput(f"--arm: {unknown('arm', arm, known)}")
    chosen = find_cell(plan, cell).digest if cell else None
    theirs, others = set[str](), set[str]()
    for planned in plan.every_cell:
        wanted = planned.arm in (arms or ()) or planned.digest == chosen
        (theirs if wanted else others).update(behind(plan, planned))
    for race in plan.races:
        (theirs if race.arm in (arms or ()) else others).update(behind_tasks(plan, race.steps))
    return frozenset(theirs - others)


def behind(plan: StoredPlan, cell: StoredCell) -> set[str]:
    """Every task that a cell needs."""
    return behind_tasks(plan, (cell.stream, *cell.extracts, *(scored.task for scored in cell.scores)))


def behind_tasks(plan: StoredPlan, digests: Iterable[str]) -> set[str]:
    """These tasks, and every task that they need."""
    needed: set[str] = set()
    pending = list(digests)
    while pending:
        digest = pending.pop()
        if digest not in needed:
            needed.add(digest)
            pending += plan.tasks[digest].inputs
    return needed
