"""A plan as the store has it. Its name is the checksum of its content, so whoever was told the name can trust it."""

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
    """What a stored plan says of the work. Of its cells, and of how they are reported, plan.stored_plan reads."""

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
    """The plan of that checksum. Raises MissingFile, or CorruptFile for a plan of another name, of wrong shape, or
    whose tasks wait for each other in a circle.
    """
    found = store.read_record(plan_name(name), repair=False)
    if checksum(canonical(found).encode()) != name:
        raise CorruptFile(f"{plan_name(name)} is another plan: its content does not have that name")
    try:
        made = {digest: _task(definition) for digest, definition in found["tasks"].items()}
        order = TopologicalSorter({digest: set(task.inputs) & made.keys() for digest, task in made.items()})
        held = StoredTasks(
            name=name,
            sweep=found["sweep"],
            text=found["text"],
            keep=found.get("keep", "samples"),
            tasks={digest: made[digest] for digest in order.static_order()},
            blocks=found["blocks"],
            goals=frozenset(found["goals"]),
            places=found.get("places", {}),
            document=found,
        )
        _check(held)
    except (KeyError, TypeError, ValueError, AttributeError, CycleError) as error:
        raise CorruptFile(f"{plan_name(name)} is not a plan ({type(error).__name__}: {error})") from error
    return held


def _task(definition: Any) -> Task:
    kind, params, inputs = definition["kind"], definition["params"], tuple(definition["inputs"])
    if kind not in KINDS or not isinstance(params, dict) or not all(isinstance(source, str) for source in inputs):
        raise ValueError("a task of unknown kind, or without params")
    return Task(kind, params, inputs)


def _check(held: StoredTasks) -> None:
    if not all(isinstance(number, int) and number >= 0 for number in held.blocks.values()):
        raise ValueError("a number of blocks is not a whole number")
    for digest in (*held.blocks, *held.goals):
        if digest not in held.tasks:
            raise ValueError(f"it has no task {digest}")
    if not all(isinstance(text, str) for text in (held.sweep, held.text, held.keep, *held.places.values())):
        raise ValueError("a name, a place or the YAML is not text")
