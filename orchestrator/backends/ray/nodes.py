"""The resources that a worker requests, the nodes of the cluster, and how many such workers fit on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GB = 1 << 30
TYPE = "accelerator_type:"  # prefix of Ray's resource for the GPU type of a node
OWN = ("node:", "object_store_memory", TYPE)  # resources that Ray itself adds


@dataclass(frozen=True)
class Request:
    """The resources that a worker holds while it lives; in a training by several processes, those of each process.
    memory: in bytes; 0 reserves none.
    """

    gpus: float = 0
    cpus: float = 1
    memory: int = 0
    gpu_type: str = ""
    custom: tuple[tuple[str, float], ...] = ()
    processes: int = 1
    avoid: tuple[str, ...] = ()  # hosts to keep off if others can hold it; only with several processes

    def options(self) -> dict[str, Any]:
        """For `.options()` of an actor."""
        options: dict[str, Any] = {"num_gpus": self.gpus, "num_cpus": self.cpus, "resources": dict(self.custom)}
        options |= {"memory": self.memory} if self.memory else {}
        return options | ({"accelerator_type": self.gpu_type} if self.gpu_type else {})

    def bundle(self) -> dict[str, float]:
        """For a placement group, which must request something."""
        gpu_type = {f"{TYPE}{self.gpu_type}": 0.001} if self.gpu_type else {}  # as much as Ray requests for an actor
        return {**self._amounts(), **gpu_type} or {"CPU": 0.001}

    def fits(self, resources: Mapping[str, float]) -> int:
        """How many such processes an idle node with these resources can hold."""
        if self.gpu_type and f"{TYPE}{self.gpu_type}" not in resources:
            return 0
        amounts = self._amounts().items()
        return min((math.floor(resources.get(name, 0) / amount + 1e-9) for name, amount in amounts), default=1)

    def _amounts(self) -> dict[str, float]:
        amounts = {"GPU": self.gpus, "CPU": self.cpus, "memory": self.memory, **dict(self.custom)}
        return {name: amount for name, amount in amounts.items() if amount}

    def __str__(self) -> str:
        parts = [f"{self.gpus:g} GPU {self.gpu_type}".strip()] if self.gpus else []
        parts += [f"{self.cpus:g} CPU"] if self.cpus else []
        parts += [f"{self.memory / GB:g} GB"] if self.memory else []
        return ", ".join(parts + [f"{amount:g} {name}" for name, amount in self.custom]) or "nothing"


@dataclass(frozen=True)
class RayNode:
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


def capacity(request: Request, nodes: Sequence[RayNode]) -> int:
    """How many workers of a request the nodes can hold. The processes of one may be on several nodes."""
    return sum(request.fits(node.resources) for node in nodes) // request.processes


def nodes_to_avoid(request: Request, nodes: Sequence[RayNode]) -> list[str]:
    """The ids of the nodes to keep off; none if the others cannot hold the request."""
    others = [node for node in nodes if node.host not in request.avoid]
    return [node.id for node in nodes if node not in others] if capacity(request, others) else []


def describe_nodes(nodes: Sequence[RayNode]) -> str:
    """The nodes of a cluster in one line, equal ones counted."""
    counts: dict[str, int] = {}
    for node in sorted(nodes, key=str, reverse=True):
        counts[str(node)] = counts.get(str(node), 0) + 1
    return "; ".join(f"{count} node{'s' if count > 1 else ''} of {words}" for words, count in counts.items()) or "none"
