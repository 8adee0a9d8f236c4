"""Choices: which candidates of a race are still in it, and the plan that follows from the choices made so far.

The state of a race is in the records of its `select` tasks, the first writer of each wins, and all else follows from
them. So the same command continues a race that was killed, and two engines on one sweep agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from orchestrator.errors import CorruptFile
from orchestrator.plan.model import Budget, Candidate, Choice, Race, StoredPlan, Trial, in_order
from orchestrator.plan.progress import Done
from orchestrator.store.store import Store
from orchestrator.tasks import attempts
from orchestrator.tasks.task import Task

if TYPE_CHECKING:
    from nag.search import Place

Records = list[Mapping[str, Any]]


@dataclass(frozen=True)
class State:
    """How far a race is. step, candidates, count: the next `select` task, who takes part, and at how many samples;
    chosen: the place that won, None while the race goes on. records: of the steps so far.
    """

    records: Records
    step: str | None
    candidates: tuple[Place, ...]
    count: int
    chosen: Place | None


P = TypeVar("P", bound=StoredPlan)


@dataclass
class Choices(Generic[P]):
    """The choices of a plan. Records are read once: they never change. repair: set damaged ones aside."""

    plan: P
    store: Store
    repair: bool = False
    known: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # by digest of a select task
    calls: dict[str, float] = field(default_factory=dict)  # network evaluations of a sample, by digest of its stream

    def current(self, done: Done) -> P:
        """The plan with the cells and tasks that the choices so far call for."""
        if not self.plan.races:
            return self.plan
        states = [self.state(race, done) for race in self.plan.races]
        return self._following(states, self._blocks(states))

    def expected(self, done: Done) -> P:
        """The plan as if every race that goes on took all that its budget allows, and chose its middle candidate: for
        estimates of cost.
        """
        if not self.plan.races:
            return self.plan
        states, blocks = list[State](), dict[str, int]()
        for race in self.plan.races:
            state = self.state(race, done)
            middle = race.candidates[len(race.candidates) // 2].place
            if state.chosen is None and race.follows is None:
                budget = self._budget(race)
                places = tuple(candidate.place for candidate in race.candidates[: budget.candidates])
                each = -(-budget.samples // (race.block * len(race.candidates[0].streams) * len(places)))
                for place in places:
                    blocks |= dict.fromkeys((*race.by_place[place].streams, *race.by_place[place].extracts), each)
                state = replace(state, candidates=places)
            states.append(replace(state, chosen=state.chosen or middle))
        return self._following(states, blocks)

    def _following(self, states: Sequence[State], blocks: Mapping[str, int]) -> P:
        """The plan that follows from the states of its races. blocks: of the streams of those that go on."""
        chosen = [
            cell
            for race, state in zip(self.plan.races, states, strict=True)
            if state.chosen is not None
            for cell in race.by_place[state.chosen].cells
        ]
        steps = {
            state.step: _restricted(self.plan.tasks[state.step], race, state)
            for race, state in zip(self.plan.races, states, strict=True)
            if state.step is not None
        }
        for race, state in zip(self.plan.races, states, strict=True):  # what earlier steps read is no longer needed
            past = race.steps[: len(state.records)] if state.step is not None else ()
            steps |= {step: replace(self.plan.tasks[step], inputs=()) for step in past}
        goals = {scored.task for cell in chosen for scored in cell.scores} or {cell.stream for cell in chosen}
        goals |= self.plan.goals | {state.step for state in states if state.step is not None}
        tasks = self._behind(goals | {cell.stream for cell in chosen}, steps)
        return replace(
            self.plan,
            cells=in_order(self.plan.sweep, [*self.plan.cells, *chosen]),
            tasks=tasks,
            blocks={digest: number for digest, number in self.plan.blocks.items() if digest in tasks} | {**blocks},
            goals=frozenset(goals),
        )

    def told(self, done: Done) -> tuple[Choice, ...]:
        """Every choice as a report tells it; arms that follow another one choose nothing themselves."""
        return tuple(self._choice(race, self.state(race, done)) for race in self.plan.races if race.follows is None)

    def next_step(self, choice: Choice, done: Done) -> str | None:
        """The `select` task that a choice waits for."""
        race = next(race for race in self.plan.races if (race.arm, race.params) == (choice.arm, choice.params))
        return self.state(race, done).step

    def state(self, race: Race, done: Done) -> State:
        """Raises CorruptFile for a record that is not of this race."""
        if race.follows is not None:
            followed = self.state(self.plan.races[race.follows], done)
            return State([], None, (), race.block, followed.chosen)
        from nag.search import Axis, first_places, rungs

        axes = [Axis(*axis) for axis in race.axes]
        candidates, count = first_places(axes, race.limit), rungs(race.count, race.block)[0]
        records: Records = []
        for step in race.steps:
            if step not in done.small["select"] or (record := self._record(step)) is None:
                return State(records, step, self._finite(race, candidates, done), count, None)
            records.append(record)
            try:
                if record["chosen"] is not None:
                    chosen = _place(race, record["chosen"])
                    return State(records, None, (), count, chosen)
                candidates = tuple(_place(race, place) for place in record["next"]["candidates"])
                count = int(record["next"]["count"])
                if not candidates or not 0 < count <= race.count:
                    raise ValueError("no candidates, or a count that the race does not have")
            except (KeyError, TypeError, ValueError) as error:
                name = self.plan.tasks[step].record_name
                raise CorruptFile(f"{name} is not a step of the race of arm {race.arm}: {error}; remove it") from error
        raise CorruptFile(f"the race of arm {race.arm} has no more steps, and nothing is chosen")

    def _finite(self, race: Race, places: tuple[Place, ...], done: Done) -> tuple[Place, ...]:
        """The candidates whose samples are finite, as far as they were tried; all, if none is."""
        left = tuple(
            place
            for place in places
            if not attempts.not_finite(
                self.store, done.attempted.intersection(needs(self.plan.tasks, race.by_place[place]))
            )
        )
        return left or places

    def _record(self, step: str) -> Mapping[str, Any] | None:
        if step not in self.known:
            try:
                self.known[step] = self.store.read_record(self.plan.tasks[step].record_name, repair=self.repair)
            except CorruptFile:  # the next run makes it again
                return None
        return self.known[step]

    def _behind(self, goals: set[str], steps: Mapping[str, Task]) -> dict[str, Task]:
        """The tasks that the goals need, inputs before what needs them."""
        needed: set[str] = set()
        pending = list(goals)
        while pending:
            digest = pending.pop()
            if digest not in needed:
                needed.add(digest)
                pending += (steps.get(digest) or self.plan.tasks[digest]).inputs
        return {digest: steps.get(digest, task) for digest, task in self.plan.tasks.items() if digest in needed}

    def _blocks(self, states: list[State]) -> dict[str, int]:
        """How many blocks the races that go on want now."""
        blocks: dict[str, int] = {}
        for race, state in zip(self.plan.races, states, strict=True):
            wanted = -(-state.count // race.block)
            for place in state.candidates:
                candidate = race.by_place[place]
                for digest in (*candidate.streams, *candidate.extracts):
                    blocks[digest] = max(wanted, blocks.get(digest, 0))
        return blocks

    def _choice(self, race: Race, state: State) -> Choice:
        trials = _trials(race, state)
        last = state.records[-1] if state.records else None
        leader = tuple(last["leader"]) if last else None
        by_place = {trial.place: trial for trial in trials}
        full = sum(len(candidate.streams) for candidate in race.candidates) * race.count
        drawn = [(trial.count, race.by_place[trial.place]) for trial in trials]
        return Choice(
            arm=race.arm,
            params=race.params,
            metric=race.metric,
            score=last["score"] if last else race.metric,
            trials=tuple(trials),
            leader=by_place.get(leader) if leader else None,
            chosen=by_place.get(state.chosen) if state.chosen else None,
            left=1 if state.chosen is not None else len(state.candidates),
            samples=sum(count * len(candidate.streams) for count, candidate in drawn),
            exhaustive=full,
            evaluations=sum(count * self._evaluations(candidate) for count, candidate in drawn),
            allowed=self._budget(race),
            first_score=state.records[0]["score"] if state.records else "",
        )

    def _budget(self, race: Race) -> Budget:
        """If every rung keeps as many candidates as it can."""
        from nag.search import Axis, cost_at_most, rungs

        tried, drawn = cost_at_most([Axis(*axis) for axis in race.axes], rungs(race.count, race.block), race.limit)
        seeds = len(race.candidates[0].streams)
        each = [self._evaluations(candidate) for candidate in race.candidates]
        return Budget(tried, drawn * seeds, drawn * sum(each) / len(each))

    def _evaluations(self, candidate: Candidate) -> float:
        """Network evaluations of one sample of each of its streams."""
        from orchestrator.tasks.sample import planned_calls

        for stream in candidate.streams:
            if stream not in self.calls:
                self.calls[stream] = planned_calls(self.plan.tasks[stream])
        return sum(self.calls[stream] for stream in candidate.streams)


def needs(tasks: Mapping[str, Task], candidate: Candidate) -> list[str]:
    """The tasks of a candidate that may meet values that are not finite."""
    networks = [str(tasks[stream].params["network"]) for stream in candidate.streams]
    return [*networks, *candidate.streams, *candidate.extracts]


def _trials(race: Race, state: State) -> list[Trial]:
    """The candidates that are scored, as in the last step that had them, or that take part in the next one."""
    scored: dict[Place, Mapping[str, Any]] = {}
    others: dict[Place, Mapping[str, float]] = {}  # at the first rung, which all have
    for record in state.records:
        for row in record["scored"]:
            scored[tuple(row["place"])] = {**row, "count": record["count"]}
            others.setdefault(tuple(row["place"]), row.get("others", {}))
    trials = []
    for candidate in race.candidates:
        if row := scored.get(candidate.place):
            values = {key: row[key] for key in ("count", "value", "difference", "low", "high")}
            other = others[candidate.place]
            trials.append(Trial(params=candidate.params, place=candidate.place, values=other, **values))
        elif candidate.place in state.candidates:
            trials.append(Trial(params=candidate.params, place=candidate.place))
    return trials


def _place(race: Race, place: Any) -> Place:
    given = tuple(place)
    if given not in race.by_place:
        raise ValueError(f"it has no candidate {given}")
    return given


def _restricted(task: Task, race: Race, state: State) -> Task:
    """A step with the inputs that it needs: the digest of a task does not depend on them."""
    others = {extract for candidate in race.candidates for extract in candidate.extracts}
    wanted = {extract for place in state.candidates for extract in race.by_place[place].extracts}
    return replace(task, inputs=tuple(digest for digest in task.inputs if digest not in others or digest in wanted))
