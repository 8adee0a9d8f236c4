"""How long tasks take, from the records of what was done: for bundles of a good length, and for what a sweep will cost.

What was never measured is guessed; `measured` tells the two apart. Seconds are those of one worker on one device, or of
a training on all of its devices.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import Any

from nag.models.sizes import SIZES
from nag.training import Training
from orchestrator.errors import CorruptFile
from orchestrator.identity import canonical
from orchestrator.plan.model import Plan
from orchestrator.plan.progress import Done
from orchestrator.spec.model import Network
from orchestrator.store.layout import block_name
from orchestrator.store.store import Store
from orchestrator.tasks.task import BLOCK_KINDS, Task

SAMPLED = 3  # blocks of each sort that are looked at
GUESS_S = {"encode": 25.0, "train": 120.0, "reference": 300.0, "extract": 25.0, "score": 20.0}  # of a task, or a block
SUSTAINED = 2.4e13  # multiplications and additions a second, a guess for one A100: 100 evaluations a second of XL/2
EVALUATION_S = 1e-4  # of one sample, at least
BACKWARD = 3  # what a training step costs in evaluations of its images


@dataclass
class Speeds:
    """Estimates for the tasks of a plan. A sort is what tasks of equal cost share: an architecture, a metric."""

    plan: Plan
    store: Store
    done: Done
    trained_on: int = 1  # devices that train one network together
    known: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # sort -> seconds a unit

    def __post_init__(self) -> None:
        for digest, task in self.plan.tasks.items():
            sort = self.sort(task)
            if len(self.known[sort]) >= SAMPLED:
                continue
            record = self._record(digest, task)
            if record is not None and (units := self._units(task, record)):
                self.known[sort].append(record["seconds"] * record.get("processes", 1) / units)

    def task_s(self, digest: str) -> float:
        """Seconds of a small task, or of one block."""
        task = self.plan.tasks[digest]
        rates = self.known.get(self.sort(task))
        seconds = median(rates) * self._units(task) if rates else self._guess(task)
        return seconds / self.trained_on if "train" in task.params else seconds

    def blocks_in(self, minutes: float, stream: str) -> int:
        """How many blocks of a stream, with all features of them, are done in so many minutes; one at least."""
        return max(1, int(minutes * 60 / max(sum(map(self.task_s, (stream, *self._extracts[stream]))), 1e-3)))

    @cached_property
    def _extracts(self) -> dict[str, list[str]]:
        """Of each stream, the tasks that make features of it."""
        found: dict[str, list[str]] = defaultdict(list)
        for digest, task in self.plan.tasks.items():
            if task.kind == "extract":
                found[task.params["stream"]].append(digest)
        return found

    def measured(self, digest: str) -> bool:
        return bool(self.known.get(self.sort(self.plan.tasks[digest])))

    def steps_s(self, steps: Iterable[tuple[str, tuple[int, ...] | None]]) -> float:
        return sum(
            self.task_s(digest) * (1 if blocks is None else len(blocks))
            for digest, blocks in steps
            if digest in self.plan.tasks
        )

    def sort(self, task: Task) -> str:
        params: Mapping[str, Any] = task.params
        if task.kind == "train":
            return canonical(["train", {k: v for k, v in params.items() if k not in ("train", "init")}])
        if task.kind == "sample":
            return canonical(["sample", self._architecture(params["network"]), params["precision"], params["stores"]])
        if task.kind == "extract":
            return canonical(["extract", params["extractor"], self.sort(self.plan.tasks[params["stream"]])])
        if task.kind == "score":
            return canonical(["score", params["metric"], params.get("count")])
        return canonical([task.kind, {k: v for k, v in params.items() if k not in ("stream", "estimator", "weights")}])

    def _guess(self, task: Task) -> float:
        params = task.params
        if task.kind == "sample":
            return self._units(task) * evaluation_s(self._networks.get(params["network"]))
        if task.kind == "train" and "train" in params:
            batch = params["train"]["fields"].get("batch", Training(steps=1).batch)
            return self._units(task) * batch * BACKWARD * evaluation_s(self._networks.get(task.digest))
        if task.kind == "measure":
            return -(-params["count"] // params["block"]) * self.task_s(params["stream"])
        return GUESS_S[task.kind]

    @cached_property
    def _networks(self) -> dict[str, Network]:
        """By the digest of what makes them, the networks of the cells and those that they come from."""
        found: dict[str, Network] = {}
        for planned in self.plan.cells:
            cell, made = planned.cell, self.plan.tasks[planned.stream].inputs
            networks = [cell.network, *(cell.references[name] for name in sorted(cell.references))]
            for digest, network in zip(made, networks, strict=True):
                for each in network.lineage:
                    found[digest] = each
                    digest = self.plan.tasks[digest].params.get("init", "")
        return found

    def _architecture(self, network: str) -> Any:
        params = self.plan.tasks[network].params
        if "init" in params:
            return self._architecture(params["init"])
        return params.get("checkpoint") or params.get("model")

    def _units(self, task: Task, record: Mapping[str, Any] | None = None) -> float:
        """What the cost grows with: training steps, network calls of a block, samples."""
        params = task.params
        if task.kind == "train":
            steps = params.get("train", {}).get("fields", {}).get("steps", 1)
            return float(steps - (record or {}).get("resumed_at", 0))
        if task.kind == "sample":
            calls = record["network_calls"] if record else self._calls(task)
            return float(params["block"] * calls)
        if task.kind == "encode":
            return float(record["count"] if record else params["block"])
        if task.kind == "extract":
            return float(self.plan.tasks[params["stream"]].params["block"])
        return 1.0

    def _calls(self, task: Task) -> float:
        """Network calls of a sample, as planned: those of the sampler, for each term that is evaluated."""
        from nag.registry import find

        sampler = task.params["sampler"]
        evaluations = 1.0 + len(task.params["guidance"])
        if "source" in sampler:
            return 100.0 * evaluations
        try:
            return (find("samplers", sampler["name"])(**sampler["fields"]).network_calls() or 100.0) * evaluations
        except TypeError:  # of the user's own
            return 100.0 * evaluations

    def _record(self, digest: str, task: Task) -> dict[str, Any] | None:
        with contextlib.suppress(CorruptFile, FileNotFoundError):
            if task.kind not in BLOCK_KINDS:
                return self.store.read_record(task.record_name, repair=False) if self.done.small_done(task) else None
            if blocks := self.done.blocks(digest):
                return self.store.read_arrays(block_name(digest, min(blocks)))[1]
        return None


def evaluation_s(network: Network | None) -> float:
    """A guess at the seconds of one evaluation of a transformer for one sample; XL/2 where nothing is known."""
    model = network.model if network else None
    known = {key: getattr(model, key, size) for key, size in SIZES["XL/2"].items()}
    _, height, width = (network.shape if network else None) or (4, 32, 32)
    tokens = height * width / known["patch"] ** 2
    work = known["depth"] * tokens * (24 * known["hidden"] ** 2 + 4 * tokens * known["hidden"])
    return max(EVALUATION_S, work / SUSTAINED)
