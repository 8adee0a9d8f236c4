"""What the tasks of a plan have used, by stage and network, from their records, and what a site should request."""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import CorruptFile
from orchestrator.plan.model import StoredPlan
from orchestrator.plan.network_sizes import network_of
from orchestrator.plan.progress import Done
from orchestrator.store.layout import block_name
from orchestrator.store.store import Store
from orchestrator.tasks.task import stage_of

READ_AT_MOST = 8  # records of each stage and network
SPARE = 1.25  # of memory and of processors, beyond what was measured
LONGER = 1.5  # of a time limit than the longest array task
LEAST_MINUTES, LEAST_GB = 10, 1
FULL = 0.9  # of a GPU's time and memory, by processes that share it
SHARE_AT_MOST = 8

Key = tuple[str, str]  # stage, name of the network


@dataclass(frozen=True)
class Measured:
    """None: not measured. host_gb, gpu_gb: the most of one process; gpu_has_gb: the memory of its GPU. gpu_busy: the
    mean share of time. cpus: the mean number of busy processors. minutes: of the longest array task.
    """

    host_gb: float | None = None
    gpu_gb: float | None = None
    gpu_has_gb: float | None = None
    gpu_busy: float | None = None
    cpus: float | None = None
    minutes: float | None = None

    def proposed(self, target_minutes: float | None) -> dict[str, int]:
        """The keys of a stage that fit. target_minutes: of array tasks; their limit must be longer."""
        keys: dict[str, int] = {}
        if self.minutes is not None:
            least = LEAST_MINUTES if target_minutes is None else max(LEAST_MINUTES, math.ceil(LONGER * target_minutes))
            keys["minutes"] = max(least, math.ceil(LONGER * self.minutes))
        if self.host_gb is not None:
            keys["memory_gb"] = max(LEAST_GB, math.ceil(SPARE * self.host_gb))
        if self.cpus is not None:
            keys["cpus"] = max(1, math.ceil(self.cpus - 0.05))
        if (share := self.per_gpu) > 1:
            keys |= {"per_gpu": share}
            keys |= {key: keys[key] * share for key in ("memory_gb", "cpus") if key in keys}
        return keys

    @property
    def per_gpu(self) -> int:
        """How many such processes keep one GPU busy and fit into its memory; 1 if that was not measured."""
        if not self.gpu_busy or not self.gpu_gb or not self.gpu_has_gb:
            return 1
        fits = min(FULL / self.gpu_busy, FULL * self.gpu_has_gb / self.gpu_gb)
        return max(1, min(SHARE_AT_MOST, math.floor(fits)))


def key_of(plan: StoredPlan, digest: str) -> Key:
    """The stage of a task, and the name of the network that it makes or samples from; "" if there is none."""
    task = plan.tasks[digest]
    network = str(plan.tasks[task.stream].params.get("network", digest)) if task.stream in plan.tasks else digest
    return stage_of(task.kind), network_of(plan, network)[0]


def from_records(plan: StoredPlan, store: Store) -> dict[Key, Measured]:
    """What finished tasks have used. Reads a few records of each stage and network."""
    done, found = Done(store), defaultdict[Key, list[Mapping[str, Any]]](list)
    for digest in plan.tasks:
        key = key_of(plan, digest)
        if len(found[key]) < READ_AT_MOST and (used := _used(plan, store, done, digest)):
            found[key].append(used)
    return {key: _together(several) for key, several in found.items() if several}


def _used(plan: StoredPlan, store: Store, done: Done, digest: str) -> Mapping[str, Any]:
    task = plan.tasks[digest]
    with contextlib.suppress(CorruptFile, FileNotFoundError):
        if not task.makes_blocks:
            record = store.read_record(task.record_name, repair=False) if done.small_done(task) else {}
        else:
            blocks = done.blocks(digest)
            record = store.read_arrays(block_name(digest, max(blocks)))[1] if blocks else {}
        return record.get("used") or {}
    return {}


def _together(several: list[Mapping[str, Any]]) -> Measured:
    def most(name: str) -> float | None:
        return max((float(each[name]) for each in several if name in each), default=None)

    busy = [float(each["gpu_busy"]) for each in several if "gpu_busy" in each]
    mean = sum(busy) / len(busy) if busy else None
    return Measured(most("host_gb"), most("gpu_gb"), most("gpu_has_gb"), mean)


def site_lines(proposed: Mapping[Key, Mapping[str, int]]) -> list[str]:
    """Proposals as lines of a site file: by network where a stage has several, else for the stage."""
    networks = defaultdict[str, dict[str, str]](dict)
    stages: dict[str, str] = {}
    for (stage, network), keys in proposed.items():
        words = "{" + ", ".join(f"{key}: {value}" for key, value in keys.items()) + "}"
        alone = sum(other == stage for other, _ in proposed) == 1
        if alone or not network:
            stages[stage] = words
        else:
            networks[network][stage] = words
    lines = ["stages:", *(f"  {stage}: {words}" for stage, words in stages.items())] if stages else []
    if networks:
        lines.append("networks:")
        for name, given in networks.items():
            lines.append(f"  {name}: {{{', '.join(f'{stage}: {words}' for stage, words in given.items())}}}")
    return lines
