"""Decide what is queued now, and what is held back until a speed is measured, or for room in the queue or GPU hours.
Pure functions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from orchestrator.backends.slurm.arrays import Array
from orchestrator.backends.slurm.jobs import ArrayJob
from orchestrator.execution.protocol import Work

ROOM, SPEED, HOURS = "room in the queue", "a measured speed", "GPU hours (--max-gpu-hours)"
CALIBRATED_FROM = 4  # bundles per array task that may run: from this many on, a speed is worth measuring first


def hold_for_calibration(
    work: Sequence[Work], cost_class: Callable[[Work], str | None], throttle: int
) -> dict[int, str]:
    """If many bundles share an unmeasured speed, hold back all but one of them, and what waits for them: a wrong
    guess would make all array tasks too long or too short.

    cost_class: bundles of one class are equally fast; None if their speed is measured. Returns handle -> why it waits.
    """
    classes: dict[str, list[Work]] = defaultdict(list)
    for each in work:
        if (key := cost_class(each)) is not None:
            classes[key].append(each)
    held: dict[int, str] = {}
    for alike in classes.values():
        if len(alike) > CALIBRATED_FROM * throttle:
            held |= dict.fromkeys((each.handle for each in alike[1:]), SPEED)
    for each in work:  # each comes after those that it waits for
        if each.handle not in held and (blocking := each.after & held.keys()):
            held[each.handle] = held[min(blocking)]
    return held


def apply_limits(arrays: Iterable[Array], room: int | None, gpu_s: float | None) -> tuple[list[Array], dict[str, str]]:
    """The arrays that may be queued: those for which the queue has room and there are GPU seconds (None: no limit), and
    whose inputs are queued too; of an array that is too large, the array tasks that fit. For the others, and the one
    of which a part is left: name -> what it waits for.
    """
    kept: list[Array] = []
    left: dict[str, str] = {}
    for array in arrays:
        waits = {name.partition("/")[0] for name in array.after} & left.keys()
        if waits:
            left[array.name] = left[min(waits)]
        elif room is not None and len(array.tasks) > room:
            left[array.name] = ROOM
            if room > 0 and (gpu_s is None or gpu_seconds(array) <= gpu_s):
                share = array.seconds * room / len(array.tasks)
                kept.append(replace(array, tasks=array.tasks[:room], seconds=share))
                gpu_s = None if gpu_s is None else gpu_s - gpu_seconds(kept[-1])
                room = 0
        elif gpu_s is not None and 0 < gpu_seconds(array) > gpu_s:
            left[array.name] = HOURS
        else:
            room = None if room is None else room - len(array.tasks)
            gpu_s = None if gpu_s is None else gpu_s - gpu_seconds(array)
            kept.append(array)
    return kept, left


def gpu_seconds(array: Array) -> float:
    """Estimated GPU seconds of an array."""
    return array.gpu_seconds


def committed_gpu_seconds(jobs: Iterable[ArrayJob]) -> float:
    """Estimated GPU seconds of the array tasks in the queue."""
    return sum(gpu_seconds(job.array) * len(job.open) / len(job.array.tasks) for job in jobs)
