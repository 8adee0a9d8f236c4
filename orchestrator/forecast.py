"""What a sweep will take at a Slurm site: arrays, elements, GPU hours and how long, from measured speeds."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.backends import Bundle, Work
from orchestrator.backends.slurm import BLOCKS_A_BUNDLE
from orchestrator.backends.slurm.arrays import Array, arrays
from orchestrator.bundles import bundles
from orchestrator.plan import Done, Plan, missing
from orchestrator.site import Slurm
from orchestrator.speeds import Speeds
from orchestrator.store import Store

START_S = 12.0  # of an element: Slurm, Python, torch, loading its network
ELEMENTS_AT_MOST = 1001  # of an array, where Slurm is not asked


@dataclass(frozen=True)
class Forecast:
    arrays: tuple[Array, ...]
    guessed: tuple[str, ...]  # kinds of task of which a speed is a guess
    gpu_hours: float
    makespan_s: float

    @property
    def elements(self) -> int:
        return sum(len(array.elements) for array in self.arrays)


def forecast(plan: Plan, store: Store, site: Slurm) -> Forecast:
    """What is still to do, packed as it would be queued, and simulated with the site's throttle."""
    done = Done(store)
    speeds = Speeds(plan, store, done)
    todo = missing(plan, done)

    def size(plan: Plan, stream: str, blocks: int) -> int:
        return max(1, min(BLOCKS_A_BUNDLE, int(site.target_minutes * 60 / max(speeds.task_s(stream), 1e-3))))

    work: list[Work] = []
    makers: dict[str, set[int]] = {}
    for handle, waiting in enumerate(bundles(plan, "", todo, todo, size, {}), 1):
        work.append(Work(handle, waiting.bundle, frozenset(m for need in waiting.needs for m in makers.get(need, ()))))
        for digest, _ in waiting.bundle.steps:
            makers.setdefault(digest, set()).add(handle)

    def seconds(bundle: Bundle) -> float:
        return speeds.steps_s(bundle.steps)

    found = arrays(work, site, seconds, str, {}, ELEMENTS_AT_MOST)
    lasting = {
        array.name: [START_S + sum(map(seconds, element.bundles)) for element in array.elements] for array in found
    }
    gpu_s = sum(array.resources.gpus * array.resources.nodes * sum(lasting[array.name]) for array in found)
    kinds = {plan.tasks[digest].kind for digest in todo if not speeds.measured(digest)}
    return Forecast(tuple(found), tuple(sorted(kinds)), gpu_s / 3600, makespan(found, lasting))


def makespan(found: Sequence[Array], lasting: Mapping[str, Sequence[float]], gpus: int | None = None) -> float:
    """Seconds until all arrays are done. lasting: seconds of each element. At most the throttle of an array runs at
    once, and at most `gpus` GPUs of all; what waits for a whole array starts after its last element.
    """
    ends: dict[str, list[float]] = {}  # array -> when each of its elements ends
    free = [0.0] * gpus if gpus is not None else None
    for array in found:  # each stands behind those that it waits for
        ready = 0.0
        for name in array.after:
            other, _, element = name.partition("/")
            ready = max(ready, ends[other][int(element)] if element else max(ends[other]))
        running: list[float] = []
        ends[array.name] = []
        needs = array.resources.gpus * array.resources.nodes
        for seconds in lasting[array.name]:
            start = max(ready, heapq.heappop(running) if len(running) >= array.throttle else 0.0)
            taken = [heapq.heappop(free) for _ in range(needs)] if free is not None else []
            start = max([start, *taken])
            heapq.heappush(running, start + seconds)
            for _ in taken:
                heapq.heappush(free or [], start + seconds)
            ends[array.name].append(start + seconds)
    return max((end for each in ends.values() for end in each), default=0.0)
