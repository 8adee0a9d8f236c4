"""A plan as the store has it. Its name is the checksum of its content, so whoever was told the name can trust it."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from typing import Any

from orchestrator.errors import CorruptFile
from orchestrator.identity import canonical, checksum
from orchestrator.store.layout import plan_name
from orchestrator.store.store import Store
from orchestrator.tasks.task import KINDS, Task


def read(store: Store, name: str) -> dict[str, Any]:
    """The document of a plan, its tasks as Task, inputs before what needs them. Raises MissingFile, or CorruptFile for
    a plan of another name, of wrong shape, or whose tasks wait for each other in a circle.
    """
    found = store.read_record(plan_name(name), repair=False)
    if checksum(canonical(found).encode()) != name:
        raise CorruptFile(f"{plan_name(name)} is another plan: its content does not have that name")
    try:
        made = {digest: _task(definition) for digest, definition in found["tasks"].items()}
        order = TopologicalSorter({digest: set(task.inputs) & made.keys() for digest, task in made.items()})
        tasks = {digest: made[digest] for digest in order.static_order()}
        _check(found, tasks)
    except (KeyError, TypeError, ValueError, AttributeError, CycleError) as error:
        raise CorruptFile(f"{plan_name(name)} is not a plan ({type(error).__name__}: {error})") from error
    return {**found, "tasks": tasks}


def _task(definition: Any) -> Task:
    kind, params, inputs = definition["kind"], definition["params"], tuple(definition["inputs"])
    if kind not in KINDS or not isinstance(params, dict) or not all(isinstance(source, str) for source in inputs):
        raise ValueError("a task of unknown kind, or without params")
    return Task(kind, params, inputs)


def _check(found: dict[str, Any], tasks: dict[str, Task]) -> None:
    if not all(isinstance(number, int) and number >= 0 for number in found["blocks"].values()):
        raise ValueError("a number of blocks is not a whole number")
    arms = found.get("arms", {}).values()
    for digest in (*found["blocks"], *found["goals"], *(stream for streams in arms for stream in streams)):
        if digest not in tasks:
            raise ValueError(f"it has no task {digest}")
    if not all(isinstance(place, str) for place in found.get("places", {}).values()):
        raise ValueError("a place is not text")
