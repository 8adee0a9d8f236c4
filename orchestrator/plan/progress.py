"""What is done of a plan, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from orchestrator.tasks.task import KINDS, kind_of, makes_blocks

if TYPE_CHECKING:
    from orchestrator.store.store import Store
    from orchestrator.tasks.task import Task


class Done:
    """What a store holds already: digests of finished small tasks by kind, numbers of finished blocks by digest."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.small: Mapping[str, set[str]] = _Listed(store)
        self._blocks: dict[str, set[int]] = {}

    def list_blocks(self, digests: Iterable[str]) -> None:
        """List the blocks of all these at once, for stores where each request takes time."""
        keys = list(digests)
        for key, names in zip(
            keys, self.store.at_once(self.store.list, [f"blocks/{key}" for key in keys]), strict=True
        ):
            self._blocks[key] = {int(name.partition(".")[0]) for name in names}

    def blocks(self, digest: str) -> set[int]:
        if digest not in self._blocks:
            names = self.store.list(f"blocks/{digest}") if digest in self._with_blocks else []
            self._blocks[digest] = {int(name.partition(".")[0]) for name in names}
        return self._blocks[digest]

    @cached_property
    def _with_blocks(self) -> frozenset[str]:
        """Digests of the streams that have a folder of blocks: most of a large plan have none yet."""
        return frozenset(self.store.list("blocks"))

    @cached_property
    def attempted(self) -> frozenset[str]:
        """Digests of the tasks that have a failed attempt."""
        return frozenset(self.store.list("attempts"))

    def small_done(self, task: Task) -> bool:
        return task.digest in self.small[task.kind]

    def complete(self, plan: Graph, digest: str) -> bool:
        task = plan.tasks[digest]
        if task.makes_blocks:
            return self.blocks(digest) >= set(range(plan.blocks[digest]))
        return self.small_done(task)


class _Listed(dict[str, set[str]]):
    """Digests of finished small tasks by kind, each kind listed when it is first asked for."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store

    def __missing__(self, kind: str) -> set[str]:
        if kind not in KINDS or makes_blocks(kind):
            raise KeyError(kind)
        self[kind] = {name.removesuffix(".json") for name in self.store.list(f"records/{kind}")}
        return self[kind]


class Graph(Protocol):
    """The part of a plan needed to find missing work; a stored plan has it too."""

    @property
    def tasks(self) -> Mapping[str, Task]: ...
    @property
    def blocks(self) -> Mapping[str, int]: ...
    @property
    def goals(self) -> frozenset[str]: ...


def missing(plan: Graph, done: Done) -> dict[str, list[int] | None]:
    """What is still to do, from the goals backwards: digest -> block numbers (None for a small task).

    Inputs of a finished task are not checked: a score that is there no longer needs features.
    """
    wanted: dict[str, set[int]] = {}
    todo: dict[str, list[int] | None] = {}
    if not done.store.local and not all(done.complete(plan, goal) for goal in plan.goals):
        done.list_blocks(key for key, task in plan.tasks.items() if task.makes_blocks)
    for key in reversed(list(plan.tasks)):
        task = plan.tasks[key]
        if task.makes_blocks:
            blocks = set(range(plan.blocks[key])) if key in plan.goals else wanted.get(key, set())
            absent = sorted(blocks - done.blocks(key)) if blocks else []
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
            whole = kind_of(plan.tasks[plan.tasks[source].stream].kind).finite or kind_of(task.kind).reads_all
            reads = set(range(plan.blocks[source])) if whole and source in plan.blocks else needs
            wanted.setdefault(source, set()).update(reads if plan.tasks[source].makes_blocks else ())
    return {key: todo[key] for key in plan.tasks if key in todo}
