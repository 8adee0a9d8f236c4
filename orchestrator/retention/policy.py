"""What of a store is still wanted: what a sweep's `keep` lets go once its cells are scored, and what `gc` finds that no
sweep refers to.

A sweep is in the store with the plans that it was run with. The newest one counts, with older ones of the same text (a
part of the sweep may have been run by itself). Nothing here needs the YAML files.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from orchestrator.errors import BadInput, CorruptFile
from orchestrator.plan.progress import Done, missing
from orchestrator.store import folders
from orchestrator.tasks import stored
from orchestrator.tasks.task import kind_of

if TYPE_CHECKING:
    from orchestrator.plan.model import StoredPlan
    from orchestrator.store.store import Store
    from orchestrator.tasks.task import Task

UNFINISHED = re.compile(folders.TEMPORARY)
FOLDERS = {"assets", "attempts", "blocks", "code", "files", "leases", "plans", "quarantine", "records", "sweeps"}


@dataclass(frozen=True)
class Recorded:
    """A plan as the store has it, or one at hand that looks the same."""

    sweep: str
    name: str  # in the store
    keep: str
    tasks: Mapping[str, Task]
    blocks: Mapping[str, int]
    goals: frozenset[str]

    @cached_property
    def users(self) -> dict[str, set[str]]:
        """By sample and extract task: the scores and measurements that read its blocks, or blocks made of them; the
        references that are made of what an extract task took while images were encoded.
        """
        found: dict[str, set[str]] = {}
        for digest in reversed(list(self.tasks)):
            task = self.tasks[digest]
            last = kind_of(task.kind).scores_cells or task.kind == "reference"
            readers = {digest} if last else found.get(digest, set())
            for source in task.inputs:
                if source in self.tasks and self.tasks[source].makes_blocks:
                    found.setdefault(source, set()).update(readers)
        return found

    def wants(self, digest: str, done: Done) -> bool:
        """Whether blocks of a sample or extract task, or the arrays of a score, are to stay for this plan."""
        task = self.tasks.get(digest)
        if task is None or self.keep == "samples":
            return task is not None
        if kind_of(task.kind).scores_cells:
            return self.keep != "scores" or digest not in done.small[task.kind]
        if not task.makes_blocks or (self.keep == "features" and task.kind == "extract"):
            return True
        users = self.users.get(digest)
        return not users or not all(user in done.small[self.tasks[user].kind] for user in users)


def recorded(plan: StoredPlan) -> Recorded:
    return Recorded(plan.sweep.name, "", plan.sweep.keep, plan.tasks, plan.blocks, plan.goals)


@dataclass
class Plans:
    """The plans of a store that count. What was read once is not read again."""

    store: Store
    known: dict[str, tuple[Recorded, str]] = field(default_factory=dict)  # by name, with the sweep's text

    def live(self, lenient: bool = False) -> list[Recorded]:
        """Raises BadInput where the newest plan of a sweep cannot be read: then nobody knows what it wants. lenient:
        pass it over; for who deletes nothing.
        """
        found: dict[str, Recorded] = {}
        for sweep in self.store.list("sweeps", strict=not lenient):
            entries = self.store.list(f"sweeps/{sweep}", strict=not lenient)[::-1]
            if not entries:
                continue
            try:
                newest, text = self._read(sweep, entries[0])
            except CorruptFile as error:
                if lenient:
                    self.store.pass_over(f"sweeps/{sweep}/{entries[0]}", f"names a plan that cannot be used: {error}")
                    continue
                raise BadInput(
                    f"the newest plan of sweep {sweep} in store {self.store.url} is damaged, so nobody knows what it "
                    f"wants to keep: run that sweep again first ({error})"
                ) from error
            found[newest.name] = newest
            for entry in entries[1:]:
                with contextlib.suppress(CorruptFile):
                    plan, other = self._read(sweep, entry)
                    found |= {plan.name: plan} if other == text else {}
        return list(found.values())

    def _read(self, sweep: str, entry: str) -> tuple[Recorded, str]:
        name = self.store.read_record(f"sweeps/{sweep}/{entry}", repair=False)["plan"]
        if name not in self.known:
            held = stored.read(self.store, name)
            self.known[name] = Recorded(held.sweep, name, held.keep, held.tasks, held.blocks, held.goals), held.text
        return self.known[name]


class Tidier:
    """Removes from the store what a plan's `keep` lets go, as soon as the scores that need it are there.

    What another sweep of the store wants stays. Two engines may tidy at once: at worst one of them makes a block again
    that the other has scored and removed, and removes it at its end.
    """

    def __init__(self, plan: StoredPlan, store: Store) -> None:
        self.store, self.mine, self.plans = store, recorded(plan), Plans(store)
        self.sources: dict[str, set[str]] = {}  # by score: the block tasks that it needs
        for digest, users in self.mine.users.items():
            for user in users:
                self.sources.setdefault(user, set()).add(digest)
        self.left: dict[str, set[str]] = {}  # by block task: the scores that still need it
        if self.mine.keep != "samples":
            done = Done(store)
            for digest, users in self.mine.users.items():
                self.left[digest] = {u for u in users if u not in done.small[plan.tasks[u].kind]}

    def finished(self, digest: str) -> int:
        """A task is done: remove what it was the last to need. Returns how many files went."""
        if self.mine.keep == "samples" or digest not in self.sources:
            return 0
        for source in self.sources[digest]:
            self.left[source].discard(digest)
        over = {source for source in self.sources[digest] if not self.left[source]}
        return self._remove({*over, *(user for source in over for user in self.mine.users[source])}) if over else 0

    def rest(self) -> int:
        """Remove all that may go, also what earlier runs have left. Returns how many files went."""
        return 0 if self.mine.keep == "samples" else self._remove({*self.mine.users, *self.sources})

    def _remove(self, digests: Iterable[str]) -> int:
        done = Done(self.store)
        try:
            holders = [self.mine, *self.plans.live()]
        except BadInput:
            return 0
        count = 0
        for digest in digests:
            if any(holder.wants(digest, done) for holder in holders):
                continue
            folder = folder_of(self.mine.tasks[digest])
            count += sum(self.store.delete(f"{folder}/{name}") for name in self.store.list(folder))
        return count


def folder_of(task: Task) -> str:
    """Where the store has what a task makes."""
    return f"{'blocks' if task.makes_blocks else 'files'}/{task.digest}"


def again(plan: StoredPlan, done: Done) -> int:
    """Cells that have scores, but must be sampled again for what is still missing of them."""
    todo = missing(plan, done)
    return sum(
        planned.stream in todo and any(done.small_done(plan.tasks[scored.task]) for scored in planned.scores)
        for planned in plan.cells
    )
