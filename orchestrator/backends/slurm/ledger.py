"""GPU hours that a sweep has used, and cancelling it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from orchestrator.backends.slurm.commands import Commands, QueryFailed
from orchestrator.backends.slurm.jobs import ArrayJobs, queue_lock
from orchestrator.backends.slurm.waves import (
    INSTEAD,
    RECONCILE,
    Wave,
    close_wave,
    clusters_of,
    gpu_seconds,
    job_name_prefix,
    read_stop,
    record_stop,
    waves,
)
from orchestrator.errors import CorruptFile
from orchestrator.store.store import Store

WAIT_S = 120.0  # for cancelled jobs to end: Slurm gives a process KillWait seconds


def gpu_hours(store: Store, sweep: str) -> float:
    """GPU hours of all array tasks of a sweep so far, including those that run or were killed."""
    return sum(gpu_seconds(store, wave) for wave in waves(store, sweep, closed=True)) / 3600


def close_finished_waves(store: Store, sweep: str) -> None:
    """Close the waves that have nothing left in the queue. Call when nothing is left to queue."""
    if waves(store, sweep):
        with queue_lock(store), contextlib.suppress(QueryFailed):
            jobs = ArrayJobs(store, sweep, Commands(clusters=clusters_of(store, sweep)))
            jobs.settle()
            jobs.ended()
            jobs.close_waves()


def cancel_jobs(jobs: ArrayJobs, owner: str, only: frozenset[str] | None, wait_s: float = WAIT_S) -> tuple[int, bool]:
    """Cancel what is queued and running for a sweep, or for these tasks only. Returns how many jobs and array tasks
    were cancelled, and whether all of them have ended. What unfinished waves of other sweeps need goes on.
    """
    store, commands = jobs.store, jobs.commands
    with queue_lock(store):
        jobs.settle()
        jobs.ended()
        rows = {row.id: row for row in jobs.rows.values() if not row.over}
        ids, whole = _stop(jobs, only)
        if only is None:
            name = job_name_prefix(store, owner, jobs.sweep)
            ids |= {r.id for r in rows.values() if r.name.startswith(name) and r.name.endswith((RECONCILE, INSTEAD))}
        commands.cancel(ids)  # also those that squeue does not show now
    until = time.monotonic() + wait_s
    while {row.id for row in commands.queue() if not row.over} & ids:
        if time.monotonic() > until:
            return len(ids), False
        time.sleep(1.0)
    for wave in whole:
        close_wave(store, wave)
    return len(ids), True


def _stop(jobs: ArrayJobs, only: frozenset[str] | None) -> tuple[set[str], list[Wave]]:
    """Record what is cancelled. Returns ids of the array tasks that do nothing else, and waves that are now empty."""
    needed = _needed_elsewhere(jobs.store, jobs.sweep)
    ids: set[str] = set()
    whole = []
    for wave in jobs.waves.values():
        open_tasks = [(job, e) for job in jobs.known.values() if job.wave is wave for e in job.open]
        does = [job.digests(e) for job, e in open_tasks]
        every = set().union(*does)
        chosen = (every if only is None else every & only) - needed
        if chosen == every:
            whole.append(wave)
        if chosen:
            record_stop(jobs.store, wave, None if chosen == every else chosen, whole=only is None)
        ids |= {job.array_task_id(e) for (job, e), done in zip(open_tasks, does, strict=True) if done <= chosen}
    return ids, whole


def _needed_elsewhere(store: Store, sweep: str) -> set[str]:
    """Tasks in the newest plans of other sweeps with waves that are not cancelled."""
    tasks: set[str] = set()
    for other in store.list("waves"):
        stops = [read_stop(store, wave) for wave in waves(store, other)] if other != sweep else []
        if any(stop is None or not stop.whole for stop in stops):
            tasks |= set(_newest_plan(store, other).get("tasks", ()))
    return tasks


def _newest_plan(store: Store, sweep: str) -> dict[str, Any]:
    names: Iterator[str] = reversed(store.list(f"sweeps/{sweep}"))
    for name in names:
        with contextlib.suppress(CorruptFile):
            plan = store.read_record(f"sweeps/{sweep}/{name}", repair=False)["plan"]
            return store.read_record(f"plans/{plan}.json", repair=False)
    return {}
