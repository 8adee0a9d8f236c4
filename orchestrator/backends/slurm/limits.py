"""What of a wave is queued at once, and what waits outside of the queue: for a measured speed, for room in the queue,
for GPU hours. Pure functions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from orchestrator.backends.slurm.arrays import Array
from orchestrator.backends.slurm.jobs import ArrayJob
from orchestrator.execution.protocol import Work

ROOM, SPEED, HOURS = "room in the queue (max_submit)", "a measured speed", "GPU hours (--max-gpu-hours)"
CALIBRATED_FROM = 4  # bundles of one unmeasured speed, for each array task that may run: so many are worth measuring it


def hold_for_calibration(work: Sequence[Work], sort: Callable[[Work], str | None], throttle: int) -> dict[int, str]:
    """What is not queued yet because very much depends on a speed that nobody has measured: all but one bundle of it,
    and what waits for them. A guess would make all array tasks too long or too short.

    sort: of an unmeasured bundle, what bundles of equal speed share. Returns handle -> what it waits for.
    """
    sorts: dict[str, list[Work]] = defaultdict(list)
    for each in work:
        if (key := sort(each)) is not None:
            sorts[key].append(each)
    later: dict[int, str] = {}
    for alike in sorts.values():
        if len(alike) > CALIBRATED_FROM * throttle:
            later |= dict.fromkeys((each.handle for each in alike[1:]), SPEED)
    for each in work:  # each stands behind those that it waits for
        if each.handle not in later and (behind := each.after & later.keys()):
            later[each.handle] = later[min(behind)]
    return later


def apply_limits(found: Iterable[Array], room: int | None, gpu_s: float | None) -> tuple[list[Array], dict[str, str]]:
    """The arrays for which there is room in the queue and there are GPU seconds (None: any number of either), and whose
    inputs are queued too; and for the names of the others, what they wait for.
    """
    kept: list[Array] = []
    left: dict[str, str] = {}
    for array in found:
        waits = {name.partition("/")[0] for name in array.after} & left.keys()
        if waits:
            left[array.name] = left[min(waits)]
        elif room is not None and len(array.tasks) > room:
            left[array.name] = ROOM
        elif gpu_s is not None and 0 < gpu_seconds(array) > gpu_s:
            left[array.name] = HOURS
        else:
            room = None if room is None else room - len(array.tasks)
            gpu_s = None if gpu_s is None else gpu_s - gpu_seconds(array)
            kept.append(array)
    return kept, left


def gpu_seconds(array: Array) -> float:
    """Seconds of GPUs that an array is expected to use."""
    return array.seconds * array.resources.gpus * array.resources.nodes


def committed_gpu_seconds(jobs: Iterable[ArrayJob]) -> float:
    """Seconds of GPUs that the array tasks in the queue are expected to use."""
    return sum(gpu_seconds(job.array) * len(job.open) / len(job.array.tasks) for job in jobs)
