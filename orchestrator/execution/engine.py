"""Engine: queues the missing work of a plan as bundles, and retries what fails. The records in the store are all of its
state, so running a sweep again resumes, extends or repairs it, and two engines on one sweep are safe.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from orchestrator.errors import BadInput, CorruptFile, EnvironmentProblem, MissingFile, TransientError
from orchestrator.execution.bundles import bundles, step_units, units, without
from orchestrator.execution.failure_notes import FailureNotes
from orchestrator.execution.protocol import Backend, Bundle, End, Progress, Step, Work
from orchestrator.execution.reported import Reported
from orchestrator.execution.retries import Decision, decide, hopeless
from orchestrator.plan.availability import refuse
from orchestrator.plan.choices import Choices
from orchestrator.plan.model import Plan, StoredPlan
from orchestrator.plan.progress import Done, missing
from orchestrator.plan.stored_plan import document, plan_checksum
from orchestrator.retention.policy import Tidier
from orchestrator.store.layout import file_name, plan_name
from orchestrator.store.store import Store
from orchestrator.tasks import assets, attempts, code, stored
from orchestrator.tasks.task import ORIGINAL, kind_of, makes_blocks

REPAIRS_AT_MOST = 20  # damaged files in one run; with more, the storage is at fault
HELD_WAIT_S = 2.0
TAKEN_S = 0.5  # bundles that end within this time share one search for missing work


class Observer(Protocol):
    """Watches a run. Amounts are in the units of their kind of task."""

    def stages(self, total: dict[str, float]) -> None: ...
    def progress(self, kind: str, done: float) -> None: ...
    def finished(self, kind: str, digest: str) -> None: ...
    def loss(self, digest: str, value: float) -> None: ...
    def note(self, text: str) -> None: ...


def run(
    plan: StoredPlan, store: Store, backend: Callable[[], Backend], observer: Observer, since: float | None = None
) -> dict[str, str]:
    """Do all missing work. Returns digest -> reason for each task that failed; tasks that need one were not tried.

    since: only attempts from this time on count (seconds since the epoch); by default those of this run. Raises
    EnvironmentProblem if the store cannot be written; what is published by then stays.
    """
    work = _Execution(plan, store, backend, observer, since)
    try:
        while work.submit() or work.in_flight:
            work.wait()
        work.tidier.rest()
        return work.missed
    finally:
        work.close()


def advance(
    plan: StoredPlan, store: Store, backend: Callable[[], Backend], observer: Observer, since: float | None = None
) -> tuple[int, dict[str, str]]:
    """Handle what has ended, queue missing work, and return without waiting: how many bundles are queued or running,
    and what failed.
    """
    work = _Execution(plan, store, backend, observer, since)
    try:
        work.submit()
        while work.reported.hidden:
            work.reported.pause(0.0)
            work.submit()
        work.tidier.rest()
        return len(work.in_flight), work.missed
    finally:
        work.close()


@dataclass
class _Execution:
    plan: StoredPlan
    store: Store
    make: Callable[[], Backend]
    observer: Observer
    since: float | None
    in_flight: dict[int, Bundle] = field(default_factory=dict)  # handle -> what is queued or running
    failed: dict[str, str] = field(default_factory=dict)
    held: dict[str, float] = field(default_factory=dict)  # by another engine: digest -> when to look again
    reported: Reported = field(default_factory=Reported)
    steps_done: dict[int, int] = field(default_factory=lambda: defaultdict(int))  # published steps of a bundle
    done: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # by kind
    partial: dict[str, float] = field(default_factory=dict)
    announced: dict[str, float] = field(default_factory=dict)
    last_handle: int = 0
    repairs: int = 0
    name: str = ""
    backend: Backend | None = None

    def __post_init__(self) -> None:
        self.since = time.time() if self.since is None else self.since
        self.store.open()
        self.whole, self.choices = self.plan, Choices(self.plan, self.store, repair=True)
        self.notes = FailureNotes(self.observer.note)
        self.name = keep_plan(self.whole, self.store)
        self.tidier = Tidier(self.whole, self.store)
        self.plan = self.choices.current(Done(self.store))
        self._check_goals()

    @property
    def missed(self) -> dict[str, str]:
        """What failed and is still wanted: a candidate that fails is out of its race."""
        return {digest: reason for digest, reason in self.failed.items() if digest in self.plan.tasks}

    def _missing(self) -> dict[str, list[int] | None]:
        """The work that the choices made so far leave to do."""
        done = Done(self.store)
        self.plan = self.choices.current(done)
        return missing(self.plan, done)

    def close(self) -> None:
        self.notes.rest()
        if self.backend is not None:
            self.backend.close()

    def submit(self) -> bool:
        """Queue missing work that is not in flight and not given up. False if there will be nothing more to queue."""
        todo = self._missing()
        if not todo:
            self.reported.hidden.clear()
            return False
        if self.backend is None:
            self.backend = self.make()
            for bundle in self.backend.adopt():
                self.last_handle += 1
                self.in_flight[self.last_handle] = bundle
            if self.in_flight:
                self._announce()
                self.wait(0)  # handles what has ended meanwhile
                todo = self._missing()
        decisions = self._decisions(todo)
        held = {digest for digest, until in self.held.items() if digest in todo and until > time.monotonic()}
        hidden = self.reported.look(todo, self.backend.visible_after_s)
        reachable = self._reachable(todo, {*self.failed, *held, *hidden})
        new = without(reachable, list(self.in_flight.values()))
        if new:
            for name in take_in(self.plan, self.store, new):
                self.observer.note(f"{self.store.path(name)} was not what this sweep put there; it was set aside")
            self._queue(new, reachable, decisions)
        return bool(new or held or hidden)

    def _queue(self, new: dict[str, Any], unfinished: Mapping[str, Any], decisions: Mapping[str, Decision]) -> None:
        assert self.backend is not None
        makers: dict[str, set[int]] = defaultdict(set)  # digest -> handles of the bundles that make it
        for handle, bundle in self.in_flight.items():
            for digest, _ in bundle.steps:
                makers[digest].add(handle)
        work = []
        for pending in bundles(self.plan, self.name, new, unfinished, self.backend.size, decisions):
            self.last_handle += 1
            after = frozenset(maker for need in pending.needs for maker in makers[need])
            work.append(Work(self.last_handle, pending.bundle, after))
            self.in_flight[self.last_handle] = pending.bundle
            for digest, _ in pending.bundle.steps:
                makers[digest].add(self.last_handle)
        self._announce()
        self.backend.submit(work)

    def wait(self, timeout_s: float | None = None) -> None:
        """Handle events until all bundles have ended, or until `submit` must look again: one did not end as done, or it
        made a choice.
        """
        look_at = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        if not self.in_flight:
            self.reported.pause(HELD_WAIT_S / 4)
            return
        while self.in_flight:
            assert self.backend is not None
            for event in self.backend.poll(0 if timeout_s == 0 else TAKEN_S):
                if isinstance(event, End):
                    if not self._ended(event):
                        look_at = min(look_at, time.monotonic() + TAKEN_S)
                elif self._progressed(event):
                    look_at = min(look_at, time.monotonic() + TAKEN_S)
            if time.monotonic() >= look_at:
                return

    def _progressed(self, event: Progress | Step) -> bool:
        """Handle progress; True if it was a choice, after which other work may be wanted."""
        kind = self.whole.tasks[event.digest].kind if event.digest in self.whole.tasks else ""
        if not kind:
            return False  # of another sweep's bundle, which this one waits for
        if isinstance(event, Step):
            self.steps_done[event.handle] += 1
            self.partial.pop(event.digest, None)
            self.done[kind] += step_units(self.whole, event.digest, event.blocks)
            if event.blocks is None:
                self.observer.finished(kind, event.digest)
                self.tidier.finished(event.digest)
        elif not makes_blocks(kind):
            self.partial[event.digest] = event.done / max(1, event.of)
            if event.loss is not None:
                self.observer.loss(event.digest, event.loss)
        running = sum(share for digest, share in self.partial.items() if self.whole.tasks[digest].kind == kind)
        self.observer.progress(kind, self.done[kind] + running)
        return isinstance(event, Step) and kind_of(kind).reads_all

    def _announce(self) -> None:
        total: dict[str, float] = defaultdict(float, self.done)
        for handle, bundle in self.in_flight.items():
            left = Bundle(bundle.steps[self.steps_done[handle] :])
            for kind, number in units(self.whole, left).items():
                total[kind] += number
        if total != self.announced:
            self.announced = dict(total)
            self.observer.stages(self.announced)
            for kind, number in self.done.items():
                self.observer.progress(kind, number)

    def _ended(self, end: End) -> bool:
        """Handle the end of a bundle; True if it is done."""
        bundle = self.in_flight.pop(end.handle)
        kind = self.whole.tasks[end.digest].kind if end.digest in self.whole.tasks else "task"
        self.partial.pop(end.digest, None)
        if end.outcome == "environment":
            raise TransientError(end.reason)
        if end.outcome == "corrupt":
            self.observer.note(end.reason)
            self.repairs += 1
            self.reported.times.clear()  # what is set aside is made again
            keep_plan(self.whole, self.store)  # it may be the plan that is damaged
            if self.repairs > REPAIRS_AT_MOST:
                raise EnvironmentProblem(f"store {self.store.url} keeps damaging files; the last one: {end.reason}")
        if end.outcome == "held":
            if end.digest not in self.held:
                self.observer.note(f"{kind} {end.digest[:12]} is being done by another run; waiting for it")
            self.held[end.digest] = time.monotonic() + HELD_WAIT_S
        if end.outcome == "failed":
            self._record_failure(end, bundle, kind)
        if end.outcome == "done" and self.backend is not None and self.backend.visible_after_s:
            self.reported.add(bundle)
        return end.outcome == "done"

    def _record_failure(self, end: End, bundle: Bundle, kind: str) -> None:
        blocks = [number for digest, several in bundle.steps if digest == end.digest for number in several or ()]
        attempt = {
            "kind": kind,
            "cause": end.cause or "died",
            "reason": end.reason,
            "traceback": end.traceback,
            "log": str(self.store.logs / f"{end.digest}.log"),
            "time": round(time.time(), 3),
            "micro_batch": bundle.micro_batch,
            "doublings": bundle.doublings,
            "at": attempts.position(self.store, kind, end.digest, blocks),
            **(end.details or {}),
        }
        attempts.keep(self.store, end.digest, end.name or f"{time.time_ns():020d}-{os.getpid()}", attempt)
        decision = decide(attempts.read(self.store, end.digest, self.since or 0))
        if decision.give_up:
            self.failed[end.digest] = decision.give_up
            by_hand = f"; by hand: {attempt['again']}" if "again" in attempt else ""
            self.notes.failed(kind, end.digest, decision.give_up, f"log: {attempt['log']}{by_hand}")
            self._stop_arms()
        else:
            smaller = f" with {decision.micro_batch:,} at once" if attempt["cause"] == "device_memory" else ""
            self.observer.note(f"{kind} {end.digest[:12]}: {end.reason}; trying again{smaller}")

    def _decisions(self, todo: Iterable[str]) -> dict[str, Decision]:
        """How to retry the tasks that have failed. Puts those that are given up into `failed`."""
        decisions = {}
        attempted = Done(self.store).attempted
        for digest in todo:
            if digest in attempted and digest not in self.failed:
                decision = decide(attempts.read(self.store, digest, self.since or 0))
                if decision.give_up:
                    self.failed[digest] = decision.give_up
                decisions[digest] = decision
        self._stop_arms()
        return decisions

    def _stop_arms(self) -> None:
        """Skip the rest of an arm of which several cells failed alike."""
        failed: dict[str, str] = {}  # by stream
        for planned in self.plan.cells if self.failed else ():
            for digest in (planned.stream, *planned.extracts, *(scored.task for scored in planned.scores)):
                if digest in self.failed and not self.failed[digest].startswith(NOT_TRIED):
                    failed.setdefault(planned.stream, self.failed[digest])
        for arm, (count, rest) in hopeless(self.plan.arms, failed).items():
            if left := rest - self.failed.keys():
                self.observer.note(f"arm {arm}: {count} cells failed alike, so the other {len(left)} are skipped")
                self.failed |= dict.fromkeys(left, f"{NOT_TRIED}: {count} cells of arm {arm} failed alike")

    def _check_goals(self) -> None:
        """Read the records of the goals, which no task reads, so that damaged ones are set aside and made again."""
        done = Done(self.store)

        def problem(name: str) -> str:
            try:
                self.store.read_record(name)
            except CorruptFile as error:
                return str(error)
            return ""

        tasks = [self.plan.tasks[digest] for digest in self.plan.goals]
        names = [task.record_name for task in tasks if not task.makes_blocks and done.small_done(task)]
        for text in filter(None, self.store.at_once(problem, names)):
            self.observer.note(text)

    def _reachable(self, todo: Mapping[str, list[int] | None], stopped: set[str]) -> dict[str, list[int] | None]:
        """`todo` without the stopped tasks and those that need them."""
        left: dict[str, list[int] | None] = {}
        for digest, blocks in todo.items():  # inputs come first
            if digest in stopped or stopped.intersection(self.plan.tasks[digest].inputs):
                stopped.add(digest)
            else:
                left[digest] = blocks
        return left


NOT_TRIED = "not tried"


def keep_plan(plan: StoredPlan, store: Store) -> str:
    """Write the plan into the store and make it the newest of its sweep. Returns its name."""
    name = plan_checksum(plan)
    try:
        stored.read(store, name)
    except MissingFile:
        store.create_record(plan_name(name), document(plan))
    except CorruptFile:  # another file is in its place
        store.remove(plan_name(name))
        store.create_record(plan_name(name), document(plan))
    folder = f"sweeps/{plan.sweep.name}"
    while True:
        names = store.list(folder)
        with contextlib.suppress(CorruptFile):
            if names and store.read_record(f"{folder}/{names[-1]}", repair=False)["plan"] == name:
                return name
        number = int(names[-1].partition(".")[0]) + 1 if names else 1
        record = {"plan": name, "time": round(time.time(), 3)}
        record |= {"file": os.path.abspath(plan.sweep.path)} if isinstance(plan, Plan) else {}
        record |= {"overrides": list(plan.sweep.overrides)} if plan.sweep.overrides else {}
        if store.create_record(f"{folder}/{number:06d}.json", record):
            return name  # a listing may lag behind


def take_in(plan: StoredPlan, store: Store, todo: Iterable[str]) -> list[str]:
    """Copy the user's files that tasks read into the store. So workers and later runs need no path of this machine, and
    queued work does not change with those files. Returns the files of the store that had other content and were set
    aside. Raises BadInput for a missing file, or one in the cache of weights whose content does not match its name.
    """
    from nag.pretrained import check_cached

    if not isinstance(plan, Plan):  # a stored plan: whoever stored it has copied them
        return []
    refuse(plan)
    others = [name for each in plan.sweep.code.values() for name in code.keep(store, each)]
    for digest in todo:
        task = plan.tasks[digest]
        if task.source and not store.exists(file_name(digest, ORIGINAL)):
            store.create(file_name(digest, ORIGINAL), Path(task.source).read_bytes())
    for file in plan.outside.values():
        content = file.content
        if not file.copied or assets.is_there(store, content):
            continue
        place = Path(file.place)
        try:
            check_cached(place)
        except ValueError as error:
            raise BadInput(f"{error}") from error
        others += assets.keep(store, content, place)
    return others


def failures(plan: StoredPlan, done: Done, digests: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The last attempt at each task that was given up, of these tasks and those that they need."""
    last: dict[str, dict[str, Any]] = {}
    pending, seen = list(digests) if done.attempted else [], set[str]()
    while pending:
        digest = pending.pop()
        if digest in seen or done.complete(plan, digest):
            continue
        seen.add(digest)
        pending += plan.tasks[digest].inputs
        tried = attempts.read(done.store, digest) if digest in done.attempted else []
        if tried and decide(tried).give_up:
            last[digest] = tried[-1]
    return last
