"""Task: a node of the plan, known by its digest."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from orchestrator.identity import digest
from orchestrator.store.layout import record_name

KINDS = ("encode", "train", "reference", "sample", "extract", "measure", "score")
BLOCK_KINDS = ("encode", "sample", "extract")
ORIGINAL = "original"  # a checkpoint as the user gave it


@functools.cache
def version(kind: str) -> int:
    return importlib.import_module(f"orchestrator.tasks.{kind}").VERSION


@dataclass(frozen=True)
class Task:
    """A node of the plan. `params` is all that changes the result; `inputs` are the digests, named in it, that it
    reads.
    """

    kind: str
    params: Mapping[str, Any]
    inputs: tuple[str, ...] = ()
    source: str = (
        ""  # a file of the user's that the engine takes into the store before the task; params has its content
    )

    @cached_property
    def digest(self) -> str:
        return digest({"kind": self.kind, "version": version(self.kind), "params": self.params})

    @property
    def record_name(self) -> str:
        return record_name(self.kind, self.digest)

    def definition(self) -> dict[str, Any]:
        return {"kind": self.kind, "params": dict(self.params), "inputs": list(self.inputs)}


def shards(task: Task) -> range:
    """The numbers of all blocks of an encode task, which alone knows how many it has."""
    return range(-(-task.params["count"] // task.params["block"]))
