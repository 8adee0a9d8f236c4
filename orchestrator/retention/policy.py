"""Retention: what a sweep's `keep` deletes once its cells are scored, and the plans by which `gc` knows what to keep.

The store has every plan that a sweep was run with. The newest one counts, and older ones of the same text (a part of
the sweep may have been run by itself). Nothing here needs the YAML files.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from orchestrator.errors import BadInput, CorruptFile, MissingFile
from orchestrator.plan.progress import Done, missing
from orchestrator.store import folders
from orchestrator.tasks import stored
from orchestrator.tasks.task import kind_of

if TYPE_CHECKING:
    from orchestrator.plan.model import StoredCell, StoredPlan
    from orchestrator.store.store import Store
    from orchestrator.tasks.task import Task

UNFINISHED = re.compile(folders.TEMPORARY)
FOLDERS = {"assets", "attempts", "blocks", "code", "files", "leases", "plans", "quarantine", "records", "sweeps"}


@dataclass(frozen=True)
class Needs:
    """What a plan with this `keep` and these tasks still needs of the store."""

    keep: str
    tasks: Mapping[str, Task]
    choosing: dict[str, bool] = field(default_factory=dict, compare=False)  # `select` task -> whether it chose

    @cached_property
    def users(self) -> dict[str, set[str]]:
        """Sample or extract task -> the scores, measurements and steps of races that read its blocks, or blocks made of
        them, and the references made of what an extract task took while images were encoded.
        """
        by_source: dict[str, set[str]] = {}
        for digest in reversed(list(self.tasks)):
            task = self.tasks[digest]
            last = kind_of(task.kind).scores_cells or task.kind == "reference"
            readers = {digest} if last else by_source.get(digest, set())
            for source in task.inputs:
                if source in self.tasks and self.tasks[source].makes_blocks:
                    by_source.setdefault(source, set()).update(readers)
        return by_source

    def has(self, digest: str, done: Done) -> bool:
        """Whether the plan still needs the blocks of a sample or extract task, or the arrays of a score."""
        task = self.tasks.get(digest)
        if task is None or self.keep == "samples":
            return task is not None
        if kind_of(task.kind).scores_cells:
            return self.keep != "scores" or digest not in done.small[task.kind]
        if not task.makes_blocks or (self.keep == "features" and task.kind == "extract"):
            return True
        users = self.users.get(digest)
        return not users or not all(self.is_over(user, done) for user in users)

    @cached_property
    def steps(self) -> dict[str, tuple[str, ...]]:
        """`select` task -> all steps of its race, in their order."""
        races: dict[str, list[str]] = {}
        for digest, task in self.tasks.items():
            if task.kind == "select":
                races.setdefault(task.params.get("race", digest), []).append(digest)
        return {step: tuple(steps) for steps in races.values() for step in steps}

    def is_over(self, user: str, done: Done) -> bool:
        """Whether one of `users` reads nothing any more. A race may read the blocks of every candidate until it has
        chosen; the steps that it did not need are never done.
        """
        if user not in self.steps:
            return user in done.small[self.tasks[user].kind]
        for step in self.steps[user]:
            if step not in done.small["select"]:
                return False
            if self._chooses(step, done):
                return True
        return False

    def _chooses(self, step: str, done: Done) -> bool:
        if step not in self.choosing:
            try:
                record = done.store.read_record(self.tasks[step].record_name, repair=False)
            except (CorruptFile, MissingFile):  # the race makes it again
                return False
            self.choosing[step] = record.get("chosen") is not None
        return self.choosing[step]


@dataclass
class Plans:
    """The plans of a store that count. Each is read only once."""

    store: Store
    known: dict[str, stored.StoredTasks] = field(default_factory=dict)  # by name

    def live(self, lenient: bool = False) -> list[stored.StoredTasks]:
        """Raises BadInput if the newest plan of a sweep cannot be read, since what it needs is then unknown. lenient:
        skip it instead; only for callers that delete nothing.
        """
        plans: dict[str, stored.StoredTasks] = {}
        for sweep in self.store.list("sweeps", strict=not lenient):
            entries = self.store.list(f"sweeps/{sweep}", strict=not lenient)[::-1]
            if not entries:
                continue
            try:
                newest = self._read(sweep, entries[0])
            except CorruptFile as error:
                if lenient:
                    self.store.pass_over(f"sweeps/{sweep}/{entries[0]}", f"names a plan that cannot be used: {error}")
                    continue
                raise BadInput(
                    f"the newest plan of sweep {sweep} in store {self.store.url} is damaged, so it is unknown what it "
                    f"wants to keep: run that sweep again first ({error})"
                ) from error
            plans[newest.name] = newest
            for entry in entries[1:]:
                with contextlib.suppress(CorruptFile):
                    plan = self._read(sweep, entry)
                    plans |= {plan.name: plan} if plan.text == newest.text else {}
        return list(plans.values())

    def _read(self, sweep: str, entry: str) -> stored.StoredTasks:
        name = self.store.read_record(f"sweeps/{sweep}/{entry}", repair=False)["plan"]
        if name not in self.known:
            self.known[name] = stored.read(self.store, name)
        return self.known[name]


class Tidier:
    """Removes from the store what a plan's `keep` does not keep, as soon as the scores that need it are done.

    What another sweep of the store needs stays. Two engines may tidy at once: at worst one makes a block again that
    the other has scored and removed, and removes it when it ends.
    """

    def __init__(self, plan: StoredPlan, store: Store) -> None:
        self.store, self.mine, self.plans = store, Needs(plan.sweep.keep, plan.tasks), Plans(store)
        self.others: dict[str, Needs] = {}  # by the name of the plan
        self.sources: dict[str, set[str]] = {}  # by score: the block tasks that it needs
        for digest, users in self.mine.users.items():
            for user in users:
                self.sources.setdefault(user, set()).add(digest)
        self.left: dict[str, set[str]] = {}  # by block task: the scores that still need it
        if self.mine.keep != "samples":
            done = Done(store)
            for digest, users in self.mine.users.items():
                self.left[digest] = {user for user in users if not self.mine.is_over(user, done)}

    def finished(self, digest: str) -> int:
        """Call when a task is done: remove what only it, or the race that it ends, still needed. Returns how many files
        were removed.
        """
        if self.mine.keep == "samples" or digest not in self.sources:
            return 0
        ended = set(self.mine.steps.get(digest, (digest,)))
        if digest in self.mine.steps and not self.mine.is_over(digest, Done(self.store)):
            return 0
        sources = set().union(*(self.sources.get(user, ()) for user in ended))
        for source in sources:
            self.left[source] -= ended
        over = {source for source in sources if not self.left[source]}
        return self._remove({*over, *(user for source in over for user in self.mine.users[source])}) if over else 0

    def rest(self) -> int:
        """Remove all that may go, including what earlier runs left. Returns how many files were removed."""
        return 0 if self.mine.keep == "samples" else self._remove({*self.mine.users, *self.sources})

    def _remove(self, digests: Iterable[str]) -> int:
        done = Done(self.store)
        try:
            live = self.plans.live()
        except BadInput:
            return 0
        others = [self.others.setdefault(plan.name, Needs(plan.keep, plan.tasks)) for plan in live]
        count = 0
        for digest in digests:
            if any(needs.has(digest, done) for needs in (self.mine, *others)):
                continue
            folder = folder_of(self.mine.tasks[digest])
            count += sum(self.store.delete(f"{folder}/{name}") for name in self.store.list(folder))
        return count


def folder_of(task: Task) -> str:
    """The folder of the store for the blocks or files of a task."""
    return f"{'blocks' if task.makes_blocks else 'files'}/{task.digest}"


def cells_to_resample(plan: StoredPlan, done: Done) -> int:
    """How many cells with scores must be sampled again for scores that they still lack: only blocks that were there
    count, not those that a higher count adds.
    """
    once = {cell.digest: _blocks_scored(plan, done, cell) for cell in plan.cells}
    todo = missing(plan, done) if any(once.values()) else {}
    return sum(min(todo.get(cell.stream) or [once[cell.digest]]) < once[cell.digest] for cell in plan.cells)


def _blocks_scored(plan: StoredPlan, done: Done, cell: StoredCell) -> int:
    """How many blocks of a cell, from the first, its finished scores were computed from."""
    tasks = [plan.tasks[score.task] for score in cell.scores]
    sizes = [task.params for task in tasks if "block" in task.params and done.small_done(task)]
    return max((-(-params["count"] // params["block"]) for params in sizes), default=0)
