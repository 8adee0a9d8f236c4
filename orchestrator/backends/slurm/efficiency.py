"""What the array tasks of a sweep requested, and what they used: from their marks and records, and from sacct."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

from orchestrator.backends.slurm.arrays import Array
from orchestrator.backends.slurm.commands import Commands, QueryFailed
from orchestrator.backends.slurm.jobs import SACCT_HOURS, ArrayJob, jobs_of
from orchestrator.backends.slurm.measured_use import Key, Measured, from_records, key_of, site_lines
from orchestrator.backends.slurm.settings import Resources
from orchestrator.backends.slurm.slurm_output import UsageRow
from orchestrator.backends.slurm.waves import Wave, clusters_of, marks, read_or_empty, waves
from orchestrator.plan.model import StoredPlan
from orchestrator.store.store import Store
from orchestrator.tasks.task import stage_of


@dataclass(frozen=True)
class Use:
    """The array tasks of a stage and network. requested: by the newest of them. median_minutes: of one."""

    stage: str
    network: str
    requested: Resources
    array_tasks: int
    median_minutes: float | None
    used: Measured
    proposed: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Efficiency:
    uses: tuple[Use, ...]
    unknown: str = ""  # why sacct has told nothing

    @property
    def lines(self) -> list[str]:
        """The lines of a site file that would have been right."""
        return site_lines({(use.stage, use.network): use.proposed for use in self.uses if use.proposed})


@dataclass
class _Found:
    requested: Resources
    tasks: int = 0
    minutes: list[float] = field(default_factory=list)
    rows: list[UsageRow] = field(default_factory=list)


def efficiency(plan: StoredPlan, store: Store, commands: Commands | None = None) -> Efficiency:
    """Of all waves of a sweep, closed ones too. What neither sacct nor a record tells is None."""
    name = plan.sweep.name
    commands = commands or Commands(clusters=clusters_of(store, name, closed=True))
    found, target = dict[Key, _Found](), None
    jobs = [(wave, job) for wave in waves(store, name, closed=True) for job in jobs_of(store, wave)]
    by_id, unknown = _accounts(commands, (job for _, job in jobs))
    lasted = {wave.number: _minutes(store, wave) for wave, _ in jobs}
    for wave, job in jobs:
        key = _key(plan, job.array)
        mine = found.setdefault(key, _Found(job.array.resources))
        mine.requested = job.array.resources
        mine.tasks += len(job.array.tasks)
        mine.minutes += [each for (place, _), each in lasted[wave.number].items() if place == job.place]
        for index in range(len(job.array.tasks)):
            mine.rows += by_id.get(job.array_task_id(index), [])
        target = wave.record.get("target_minutes", target)
    told = from_records(plan, store)
    uses = [_use(key, each, told.get(key, Measured()), target) for key, each in found.items()]
    return Efficiency(tuple(uses), unknown)


def _key(plan: StoredPlan, array: Array) -> Key:
    digests = (digest for task in array.tasks for bundle in task.bundles for digest, _ in bundle.steps)
    known = next((digest for digest in digests if digest in plan.tasks), None)
    return key_of(plan, known) if known else (stage_of(array.kind), "")


def _accounts(commands: Commands, jobs: Iterable[ArrayJob]) -> tuple[dict[str, list[UsageRow]], str]:
    by_id = defaultdict[str, list[UsageRow]](list)
    try:
        for row in commands.usage((str(job.id) for job in jobs if job.id), SACCT_HOURS):
            by_id[row.id].append(row)
    except QueryFailed as error:
        return {}, str(error)
    return by_id, ""


def _minutes(store: Store, wave: Wave) -> dict[tuple[int, int], float]:
    """How long the runs of array tasks lasted that left a mark of their end; the longest run of each."""
    lasted: dict[tuple[int, int], float] = {}
    for (place, index, _), name in marks(store, wave, "ends").items():
        mark = read_or_empty(store, name)
        if "started" in mark:
            minutes = max(0.0, mark["time"] - mark["started"]) / 60
            lasted[place, index] = max(minutes, lasted.get((place, index), 0.0))
    return lasted


def _use(key: Key, found: _Found, told: Measured, target: float | None) -> Use:
    elapsed = sum(row.elapsed_s for row in found.rows if row.memory_gb is None)  # of whole jobs; steps have memory
    cpu_s = sum(row.cpu_s for row in found.rows if row.memory_gb is None)
    memory = [row.memory_gb for row in found.rows if row.memory_gb is not None]
    busy = [row.gpu_busy for row in found.rows if row.gpu_busy is not None]
    used = replace(
        told,
        host_gb=max([*memory, *([told.host_gb] if told.host_gb is not None else [])], default=None),
        gpu_busy=told.gpu_busy if told.gpu_busy is not None or not busy else sum(busy) / len(busy),
        cpus=round(cpu_s / elapsed, 2) if elapsed else None,
        minutes=max(found.minutes, default=None),
    )
    middle = median(found.minutes) if found.minutes else None
    return Use(*key, found.requested, found.tasks, middle, used, used.proposed(target if key[0] == "sample" else None))
