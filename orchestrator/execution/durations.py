"""How long tasks will take, from the records of finished ones: to size bundles and to forecast the cost of a sweep.

The time of a task without a record of its cost class is a guess (see `measured`). Seconds are of one worker on one
device, or of a training on all of its devices.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import Any

from nag.models.sizes import SIZES
from orchestrator.errors import CorruptFile
from orchestrator.identity import canonical
from orchestrator.plan.model import Plan, StoredPlan
from orchestrator.plan.progress import Done
from orchestrator.spec.model import Network
from orchestrator.store.layout import block_name
from orchestrator.store.store import Store
from orchestrator.tasks.task import Task, kind_of

MEASURED_AT_MOST = 3  # tasks or blocks of each cost class
SUSTAINED = 2.4e13  # operations a second on an A100, a multiply-add as two; a guess: 100 evaluations a second of XL/2
EVALUATION_S = 1e-4  # of one sample, at least


@dataclass
class Speeds:
    """Estimates for a plan's tasks. Tasks of a cost class take equally long per unit of cost (orchestrator/tasks)."""

    plan: StoredPlan
    store: Store
    done: Done
    trained_on: Callable[[str], int] = lambda digest: 1  # devices that train a network together
    sustained: float = SUSTAINED  # operations a second, for guesses
    measured_on: set[str] = field(default_factory=set)  # models of device of the records that are used
    rates: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # cost class -> seconds a unit

    def __post_init__(self) -> None:
        for digest, task in self.plan.tasks.items():
            rates = self.rates[self.cost_class(task)]
            if len(rates) >= MEASURED_AT_MOST:
                continue
            record = self._record(digest, task)
            if record is not None and (units := kind_of(task.kind).cost_units(task, self, record)):
                rates.append(record["seconds"] * record.get("processes", 1) / units)
                kind = record.get("kind_of_device") or record.get("sampled", {}).get("kind_of_device") or {}
                self.measured_on |= {str(kind["model"])} if "model" in kind else set()

    @property
    def tasks(self) -> Mapping[str, Task]:
        return self.plan.tasks

    def task_s(self, digest: str) -> float:
        """Seconds of a small task, or of one block."""
        task = self.plan.tasks[digest]
        kind, rates = kind_of(task.kind), self.rates.get(self.cost_class(task))
        seconds = median(rates) * kind.cost_units(task, self, None) if rates else kind.guess_s(task, self)
        return seconds / self.trained_on(digest) if task.trains == "network" else seconds

    def blocks_in(self, minutes: float, stream: str) -> int:
        """How many blocks of a stream, with all of their features, fit into so many minutes; at least one."""
        return max(1, int(minutes * 60 / max(sum(map(self.task_s, (stream, *self._extracts[stream]))), 1e-3)))

    @cached_property
    def _extracts(self) -> dict[str, list[str]]:
        """The extract tasks of each stream."""
        extracts: dict[str, list[str]] = defaultdict(list)
        for digest, task in self.plan.tasks.items():
            if task.makes_blocks and task.stream != digest:
                extracts[task.stream].append(digest)
        return extracts

    def measured(self, digest: str) -> bool:
        """Whether the time of a task comes from records and is not a guess."""
        return bool(self.rates.get(self.cost_class(self.plan.tasks[digest])))

    def steps_s(self, steps: Iterable[tuple[str, tuple[int, ...] | None]]) -> float:
        return sum(
            self.task_s(digest) * (1 if blocks is None else len(blocks))
            for digest, blocks in steps
            if digest in self.plan.tasks
        )

    def cost_class(self, task: Task) -> str:
        return canonical([task.kind, kind_of(task.kind).cost_class(task, self)])

    def evaluation_s(self, network: str) -> float:
        return evaluation_s(self._networks.get(network), self.sustained)

    @cached_property
    def _networks(self) -> dict[str, Network]:
        """The networks of the cells and those that they were fine-tuned from, by the digests of their tasks; empty
        for a plan that was read from a store.
        """
        networks: dict[str, Network] = {}
        if not isinstance(self.plan, Plan):
            return networks
        for planned in self.plan.cells:
            cell = planned.cell
            inputs = [each for each in self.plan.tasks[planned.stream].inputs if self.plan.tasks[each].kind == "train"]
            of_cell = [cell.network, *(cell.references[name] for name in sorted(cell.references))]
            for digest, network in zip(inputs, of_cell, strict=True):
                for each in network.lineage:
                    networks[digest] = each
                    digest = self.plan.tasks[digest].params.get("init", "")
        return networks

    def _record(self, digest: str, task: Task) -> dict[str, Any] | None:
        with contextlib.suppress(CorruptFile, FileNotFoundError):
            if not task.makes_blocks:
                return self.store.read_record(task.record_name, repair=False) if self.done.small_done(task) else None
            if blocks := self.done.blocks(digest):
                return self.store.read_arrays(block_name(digest, min(blocks)))[1]
        return None


def evaluation_s(network: Network | None, sustained: float = SUSTAINED) -> float:
    """A guess at the seconds of one evaluation of a transformer for one sample; of XL/2 if nothing is known."""
    model = network.model if network else None
    known = {key: getattr(model, key, size) for key, size in SIZES["XL/2"].items()}
    _, height, width = (network.shape if network else None) or (4, 32, 32)
    tokens = height * width / known["patch"] ** 2
    work = known["depth"] * tokens * (24 * known["hidden"] ** 2 + 4 * tokens * known["hidden"])
    return max(EVALUATION_S, work / sustained)
