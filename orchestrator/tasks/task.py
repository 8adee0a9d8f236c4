"""Task: a node of the plan, named by its digest. Kind: the properties that tasks of one kind share.

To add a kind, write a file next to this one with a `KIND`, and add its name to KINDS.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

from orchestrator.identity import digest
from orchestrator.store.layout import record_name

KINDS = ("encode", "train", "reference", "sample", "extract", "select", "measure", "score")  # in the order of the work
ORIGINAL = "original"  # a checkpoint as the user gave it


@dataclass(frozen=True)
class Task:
    """A node of the plan.

    params: all that changes the result. inputs: digests of the tasks whose output it reads, all of them in params.
    source: a file of the user's that the engine copies into the store first; params has the checksum of its content.
    """

    kind: str
    params: Mapping[str, Any]
    inputs: tuple[str, ...] = ()
    source: str = ""

    @cached_property
    def digest(self) -> str:
        return digest({"kind": self.kind, "version": kind_of(self.kind).version, "params": self.params})

    @property
    def makes_blocks(self) -> bool:
        return kind_of(self.kind).makes_blocks

    @property
    def stream(self) -> str:
        """The digest of the task whose blocks this one reads, or of this one itself."""
        return str(self.params["stream"]) if "stream" in self.params else self.digest

    @property
    def trains(self) -> Literal["network", "extractor", ""]:
        """What a train task trains: a network (a generator or an estimator) or an extractor. Empty if it only
        converts a checkpoint, and for other kinds.
        """
        if self.kind != "train":
            return ""
        return "network" if "train" in self.params else "extractor" if "extractor" in self.params else ""

    @property
    def record_name(self) -> str:
        return record_name(self.kind, self.digest)

    def definition(self) -> dict[str, Any]:
        return {"kind": self.kind, "params": dict(self.params), "inputs": list(self.inputs)}


def shards(task: Task) -> range:
    """The numbers of all blocks of an encode task, the only kind that has a last one."""
    return range(-(-task.params["count"] // task.params["block"]))


class Costs(Protocol):
    """The part of a plan that the estimate of a task may use."""

    @property
    def tasks(self) -> Mapping[str, Task]: ...

    def task_s(self, digest: str) -> float:
        """Seconds of a small task, or of one block."""

    def evaluation_s(self, network: str) -> float:
        """Seconds of one evaluation, for one sample, of the network with this digest."""


def _cost_class(task: Task, costs: Costs) -> Any:
    return {key: value for key, value in task.params.items() if key not in ("stream", "estimator", "weights")}


@dataclass(frozen=True)
class Kind:
    """The properties of a kind of task. A small task writes its files and then its record; a block task writes blocks,
    each with its record in the header. Both may be done twice: the first result stays.
    """

    version: int  # part of the digest; raise it when the task's result would change
    run: Callable[..., None]  # run(context, task), or run(context, task, number) for one block
    guess_s: Callable[[Task, Costs], float]  # seconds of a task or block if none of its cost class was measured
    makes_blocks: bool = False
    finite: bool = False  # it has a last block, and a task that reads its blocks reads all of them
    scores_cells: bool = False  # its results are a cell's; tasks with the same inputs are one bundle
    reads_all: bool = False  # it reads all blocks that the plan wants of its inputs, as the choices so far have it
    reads: Callable[..., Iterator[str]] | None = None  # (context, task): what it reads, if a record tells
    distributed: bool = False  # several processes may do one task together
    resumes: bool = False  # an interrupted task resumes from its newest checkpoint
    stage: str = ""  # of a site file, whose resources it gets; its own name by default
    unit: str = "tasks"  # of the progress bars
    column: str = ""  # of `du`, in which its files are counted
    cost_class: Callable[[Task, Costs], Any] = _cost_class  # tasks of one class take equally long per unit
    # The work in a task or block, such as network calls: as planned or, if its record is given, as it was done.
    cost_units: Callable[[Task, Costs, Mapping[str, Any] | None], float] = lambda task, costs, record: 1.0


@functools.cache
def kind_of(name: str) -> Kind:
    """The `KIND` of the file with this name. Raises KeyError for a name that is not in KINDS."""
    if name not in KINDS:
        raise KeyError(name)
    kind: Kind = importlib.import_module(f"orchestrator.tasks.{name}").KIND
    return kind


def stage_of(name: str) -> str:
    """The stage of site files for a kind of task, or for another job such as `reconcile`."""
    return (kind_of(name).stage if name in KINDS else "") or name


def makes_blocks(name: object) -> bool:
    """Whether tasks of this kind make blocks. False for what is not a kind: a record may come from another version."""
    return isinstance(name, str) and name in KINDS and kind_of(name).makes_blocks
