"""What a worker asks of a node, what nodes there are, and whether the one can be had from the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GB = 1 << 30
TYPE = "accelerator_type:"  # Ray's name of a resource that says what GPUs a node has
OWN = ("node:", "object_store_memory", TYPE)  # resources that Ray makes up itself


@dataclass(frozen=True)
class Request:
    """What a worker holds while it lives; of a training by several processes, what each of them holds. `memory` in
    bytes; 0: nothing is set aside for it.
    """

    gpus: float = 0
    cpus: float = 1
    memory: int = 0
    gpu_type: str = ""
    custom: tuple[tuple[str, float], ...] = ()
    processes: int = 1
    avoid: tuple[str, ...] = ()  # hosts, where others will do; of processes that are placed together

    def options(self) -> dict[str, Any]:
        """As `.options()` of an actor wants it."""
        found: dict[str, Any] = {"num_gpus": self.gpus, "num_cpus": self.cpus, "resources": dict(self.custom)}
        found |= {"memory": self.memory} if self.memory else {}
        return found | ({"accelerator_type": self.gpu_type} if self.gpu_type else {})

    def bundle(self) -> dict[str, float]:
        """The same, as a placement group wants it, which must not be for nothing."""
        found = {"GPU": self.gpus, "CPU": self.cpus, "memory": self.memory, **dict(self.custom)}
        found |= {f"{TYPE}{self.gpu_type}": 0.001} if self.gpu_type else {}  # as much as Ray asks for an actor
        return {name: amount for name, amount in found.items() if amount} or {"CPU": 0.001}

    def fits(self, resources: Mapping[str, float]) -> int:
        """How many such processes a node can hold that runs nothing else."""
        if self.gpu_type and f"{TYPE}{self.gpu_type}" not in resources:
            return 0
        asked = {"GPU": self.gpus, "CPU": self.cpus, "memory": self.memory, **dict(self.custom)}
        asked = {name: amount for name, amount in asked.items() if amount}
        return min((math.floor(resources.get(name, 0) / amount + 1e-9) for name, amount in asked.items()), default=1)

    def __str__(self) -> str:
        parts = [f"{self.gpus:g} GPU {self.gpu_type}".strip()] if self.gpus else []
        parts += [f"{self.cpus:g} CPU"] if self.cpus else []
        parts += [f"{self.memory / GB:g} GB"] if self.memory else []
        return ", ".join(parts + [f"{amount:g} {name}" for name, amount in self.custom]) or "nothing"


@dataclass(frozen=True)
class Node:
    id: str
    host: str
    resources: Mapping[str, float]

    def __str__(self) -> str:
        types = [name.removeprefix(TYPE) for name in self.resources if name.startswith(TYPE)]
        parts = [f"{self.resources.get('CPU', 0):g} CPU"]
        parts += [" ".join([f"{self.resources['GPU']:g} GPU", *types])] if self.resources.get("GPU") else []
        parts += [f"{self.resources.get('memory', 0) / GB:.1f} GB"]
        known = ("CPU", "GPU", "memory")
        parts += [f"{v:g} {k}" for k, v in self.resources.items() if k not in known and not k.startswith(OWN)]
        return ", ".join(parts)


def nodes() -> list[Node]:
    """The nodes that are alive."""
    import ray

    return [Node(n["NodeID"], n["NodeManagerHostname"], n["Resources"]) for n in ray.nodes() if n["Alive"]]


def capacity(request: Request, found: Sequence[Node]) -> int:
    """How many such workers there could be at once. Processes of one may be on several nodes."""
    return sum(request.fits(node.resources) for node in found) // request.processes


def away(request: Request, found: Sequence[Node]) -> list[str]:
    """The nodes that it is to keep off, as far as the others can hold it."""
    others = [node for node in found if node.host not in request.avoid]
    return [node.id for node in found if node not in others] if capacity(request, others) else []


def listing(found: Sequence[Node]) -> str:
    """What a cluster has, in one line: equal nodes are counted."""
    counts: dict[str, int] = {}
    for node in sorted(found, key=str, reverse=True):
        counts[str(node)] = counts.get(str(node), 0) + 1
    return "; ".join(f"{count} node{'s' if count > 1 else ''} of {words}" for words, count in counts.items()) or "none"
