"""A plan in the store. Its name is the checksum of its content, so whoever can trust the name can trust the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from orchestrator.errors import CorruptFile
from orchestrator.identity import canonical, checksum
from orchestrator.store.layout import plan_name
from orchestrator.store.store import Store
from orchestrator.tasks.task import KINDS, Task


@dataclass(frozen=True)
class StoredTasks:
    """The work in a stored plan. Its cells, and how they are reported, are read by plan.stored_plan."""

    name: str  # the checksum
    sweep: str
    text: str
    keep: str
    tasks: Mapping[str, Task]  # inputs before what needs them
    blocks: Mapping[str, int]
    goals: frozenset[str]
    places: Mapping[str, str]
    document: Mapping[str, Any]


def read(store: Store, name: str) -> StoredTasks:
    """The plan with this checksum. Raises MissingFile, or CorruptFile for a plan of another name, of wrong shape, or
    whose tasks wait for each other in a circle.
    """
    document = store.read_record(plan_name(name), repair=False)
    if checksum(canonical(document).encode()) != name:
        raise CorruptFile(f"{plan_name(name)} is another plan: its content does not match its name")
    try:
        tasks = {digest: _task(definition) for digest, definition in document["tasks"].items()}
        order = TopologicalSorter({digest: set(task.inputs) & tasks.keys() for digest, task in tasks.items()})
        plan = StoredTasks(
            name=name,
            sweep=document["sweep"],
            text=document["text"],
            keep=document.get("keep", "samples"),
            tasks={digest: tasks[digest] for digest in order.static_order()},
            blocks=document["blocks"],
            goals=frozenset(document["goals"]),
            places=document.get("places", {}),
            document=document,
        )
        _check(plan)
    except (KeyError, TypeError, ValueError, AttributeError, CycleError) as error:
        raise CorruptFile(f"{plan_name(name)} is not a plan ({type(error).__name__}: {error})") from error
    return plan


def _task(definition: Any) -> Task:
    kind, params, inputs = definition["kind"], definition["params"], tuple(definition["inputs"])
    if kind not in KINDS or not isinstance(params, dict) or not all(isinstance(source, str) for source in inputs):
        raise ValueError("a task of unknown kind, or without params")
    return Task(kind, params, inputs)


def _check(plan: StoredTasks) -> None:
    if not all(isinstance(number, int) and number >= 0 for number in plan.blocks.values()):
        raise ValueError("a number of blocks is not a whole number")
    for digest in (*plan.blocks, *plan.goals):
        if digest not in plan.tasks:
            raise ValueError(f"it has no task {digest}")
    if not all(isinstance(text, str) for text in (plan.sweep, plan.text, plan.keep, *plan.places.values())):
        raise ValueError("a name, a path or the YAML is not text")
