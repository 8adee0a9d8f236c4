"""Forecast of a sweep at a Slurm site, from measured speeds: arrays, array tasks, GPU hours, time."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.backends.slurm.arrays import Array, arrays
from orchestrator.backends.slurm.backend import BLOCKS_A_BUNDLE
from orchestrator.backends.slurm.measured_use import Key, from_records, key_of, site_lines
from orchestrator.backends.slurm.requests import Requests
from orchestrator.backends.slurm.settings import SlurmSettings
from orchestrator.execution.bundles import bundles
from orchestrator.execution.card_speeds import of_site
from orchestrator.execution.durations import SUSTAINED, Speeds
from orchestrator.execution.protocol import Bundle, Work
from orchestrator.plan.choices import Choices
from orchestrator.plan.model import Plan, StoredPlan
from orchestrator.plan.network_sizes import network_of
from orchestrator.plan.progress import Done, missing
from orchestrator.store.store import Store

START_S = 12.0  # of an array task: Slurm, Python, torch, loading its network
ARRAY_TASKS_AT_MOST = 1001  # of an array: Slurm's default MaxArraySize, as the cluster is not asked


GUESS = "a guess at an A100"


@dataclass(frozen=True)
class Forecast:
    arrays: tuple[Array, ...]
    guessed: tuple[str, ...]  # kinds of task whose speed is a guess
    gpu_hours: float
    makespan_s: float
    measured_on: tuple[str, ...] = ()  # the devices behind the speeds that were measured
    guessed_by: str = GUESS  # what guesses at networks rest on
    fits: tuple[str, ...] = ()  # lines of the site file that fit what was measured
    faster: str = ""  # a precision of the sweep that is faster on the site's card

    @property
    def array_tasks(self) -> int:
        return sum(len(array.tasks) for array in self.arrays)


def forecast(plan: Plan, store: Store, site: SlurmSettings) -> Forecast:
    """Pack what is missing as it would be queued, and simulate it with the site's throttle. A race counts with all that
    it may take; its rungs follow each other in truth, which takes longer.
    """
    done = Done(store)
    card = of_site(site.gres, site.constraint)
    requests = Requests(site, plan)
    operations = card.of(plan.sweep.precision) if card else None
    speeds = Speeds(plan, store, done, requests.processes, operations or SUSTAINED)
    todo = missing(Choices(plan, store).expected(done), done)

    def size(plan: StoredPlan, stream: str, blocks: int) -> int:
        return min(BLOCKS_A_BUNDLE, blocks, speeds.blocks_in(site.target_minutes, stream))

    work: list[Work] = []
    makers: dict[str, set[int]] = {}
    for handle, waiting in enumerate(bundles(plan, "", todo, todo, size, {}), 1):
        work.append(Work(handle, waiting.bundle, frozenset(m for need in waiting.needs for m in makers.get(need, ()))))
        for digest, _ in waiting.bundle.steps:
            makers.setdefault(digest, set()).add(handle)

    def seconds(bundle: Bundle) -> float:
        return speeds.steps_s(bundle.steps)

    packed = arrays(work, site, seconds, str, {}, ARRAY_TASKS_AT_MOST, requests.of)
    lasting = {
        array.name: [START_S + sum(map(seconds, task.bundles)) / array.lanes for task in array.tasks]
        for array in packed
    }
    gpu_s = sum(array.resources.gpus * array.resources.nodes * sum(lasting[array.name]) for array in packed)
    kinds = {plan.tasks[digest].kind for digest in todo if not speeds.measured(digest)}
    measured_on, by = tuple(sorted(speeds.measured_on)), card.words() if card and operations else GUESS
    fits = _fitting(plan, store, site, {array.name: max(lasting[array.name]) for array in packed}, packed, kinds)
    time_s = makespan(packed, lasting)
    faster = card.faster(plan.sweep.precision) if card else ""
    return Forecast(tuple(packed), tuple(sorted(kinds)), gpu_s / 3600, time_s, measured_on, by, tuple(fits), faster)


def _fitting(
    plan: Plan,
    store: Store,
    site: SlurmSettings,
    longest: Mapping[str, float],
    packed: Sequence[Array],
    guessed: Container[str],
) -> list[str]:
    """Lines of a site file for the stages and networks whose use was measured, as far as they change it. longest:
    seconds of the longest array task of each array.
    """
    proposed: dict[Key, dict[str, int]] = {}
    if not packed:
        return []
    sizes = {name: size for name, size in (network_of(plan, digest) for digest in plan.instances)}
    for (stage, network), measured in from_records(plan, store).items():
        alike = [array for array in packed if key_of(plan, _first(array)) == (stage, network)]
        if alike and not any(array.kind in guessed for array in alike):
            measured = replace(measured, minutes=max(longest[array.name] for array in alike) / 60)
        now = site.resources(stage, network, sizes.get(network))
        if now.gpus and measured.gpu_gb is None:  # a process that uses a GPU takes more memory of the machine
            measured = replace(measured, host_gb=None)
        keys = measured.proposed(site.target_minutes if stage == "sample" else None)
        if changed := {key: value for key, value in keys.items() if value != getattr(now, key)}:
            proposed[stage, network] = changed
    return site_lines(proposed)


def _first(array: Array) -> str:
    return array.tasks[0].bundles[0].steps[0][0]


def makespan(arrays: Sequence[Array], lasting: Mapping[str, Sequence[float]], gpus: int | None = None) -> float:
    """Simulate the queue: seconds until all arrays are done, if every array task starts as soon as it may, in order.

    lasting: seconds of each array task, by array. An array runs at most `throttle` array tasks at once, all arrays
    together use at most `gpus` GPUs, and what waits for an array starts after its last array task. Raises ValueError
    if an array task needs more GPUs than there are.
    """
    now, free = 0.0, math.inf if gpus is None else gpus
    begun, active, left = Counter[str](), Counter[str](), {array.name: len(array.tasks) for array in arrays}
    over: set[str] = set()  # `array` and `array/index`
    needs = {array.name: array.resources.gpus * array.resources.nodes for array in arrays}
    running: list[tuple[float, str, int]] = []  # when it ends, array, index
    waiting = list(arrays)
    while waiting or running:
        for array in waiting:
            name = array.name
            while begun[name] < len(array.tasks) and active[name] < array.throttle and needs[name] <= free:
                if not over.issuperset(array.after):
                    break
                heapq.heappush(running, (now + lasting[name][begun[name]], name, begun[name]))
                begun[name], active[name], free = begun[name] + 1, active[name] + 1, free - needs[name]
        waiting = [array for array in waiting if begun[array.name] < len(array.tasks)]
        if not running:
            raise ValueError(f"{waiting[0].kind}: an array task needs more than {gpus} GPUs")
        now, name, index = heapq.heappop(running)
        active[name], left[name], free = active[name] - 1, left[name] - 1, free + needs[name]
        over |= {f"{name}/{index}"} if left[name] else {f"{name}/{index}", name}
    return now
