"""GPU hours that a sweep has used, and cancelling it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

from orchestrator.backends.slurm.commands import Commands, QueryFailed
from orchestrator.backends.slurm.jobs import ArrayJobs, queue_lock
from orchestrator.backends.slurm.owner import is_mine
from orchestrator.backends.slurm.waves import (
    INSTEAD,
    RECONCILE,
    Wave,
    close_wave,
    clusters_of,
    gpu_seconds,
    job_name_prefix,
    next_jobs,
    read_stop,
    record_stop,
    waves,
)
from orchestrator.errors import CorruptFile, TransientError
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


def cancel_jobs(
    jobs: ArrayJobs, owner: str, only: frozenset[str] | None, file: str = "", wait_s: float = WAIT_S
) -> tuple[int, bool]:
    """Cancel this user's jobs of a sweep, or only those of some tasks. Returns how many jobs and array tasks were
    cancelled, and whether all of them have ended. Tasks that unfinished waves of other sweeps need go on.

    only: the tasks; None means all. file: the sweep file; what was queued from another file with the same sweep name
    stays. If the store cannot be written, jobs are cancelled, but this is not recorded.
    """
    store, commands = jobs.store, jobs.commands
    with _locked(jobs):
        jobs.settle()
        jobs.ended()
        rows = {row.id: row for row in jobs.rows.values() if not row.over}
        chosen = _chosen(jobs, file)
        ids, whole = _stop(jobs, chosen, only)
        if only is None:
            name, after = job_name_prefix(store, owner, jobs.sweep), _continuing(jobs, file)
            named = {r.id for r in rows.values() if r.name.startswith(name) and r.name.endswith((RECONCILE, INSTEAD))}
            ids |= after & rows.keys()
            ids |= set() if any(from_another(wave, file) for wave in jobs.waves.values()) else named
        commands.cancel(ids)  # also those that squeue does not show now
    until = time.monotonic() + wait_s
    while {row.id for row in commands.queue() if not row.over} & ids:
        if time.monotonic() > until:
            return len(ids), False
        time.sleep(1.0)
    for wave in whole if jobs.writes else ():
        close_wave(store, wave)
    return len(ids), True


@contextlib.contextmanager
def _locked(jobs: ArrayJobs) -> Iterator[None]:
    """Keep engines from queueing. If the store cannot be written, nothing is recorded from now on."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(queue_lock(jobs.store, jobs.note))
        except TransientError as error:
            jobs.writes = False
            jobs.note(f"{error}. Jobs are cancelled all the same, but this cannot be recorded.")
        yield


def _chosen(jobs: ArrayJobs, file: str) -> list[Wave]:
    """The waves that `cancel` may stop. Notes what stays in the queue, and whose it is."""
    chosen = []
    for wave in jobs.waves.values():
        left = sum(len(job.open) for job in jobs.known.values() if job.wave is wave)
        whose = ""
        if not is_mine(wave.record):
            whose = f"were queued by {wave.record.get('owner')}, who alone can cancel them"
        elif from_another(wave, file):
            whose = f"were queued from {wave.record['file']}: cancel that one, or the sweep by its name"
        elif jobs.is_elsewhere(wave):
            whose = f"are on cluster {wave.record['cluster']}: they end before their next step, or cancel them there"
        if whose and left:
            jobs.note(f"{left} array tasks {whose}")
        if is_mine(wave.record) and not from_another(wave, file):
            chosen.append(wave)
    return chosen


def from_another(wave: Wave, file: str) -> bool:
    """Whether a wave was queued from another file, which still exists."""
    known = str(wave.record.get("file", ""))
    return bool(file and known) and os.path.realpath(known) != os.path.realpath(file) and os.path.exists(known)


def _continuing(jobs: ArrayJobs, file: str) -> set[str]:
    """The ids of this user's jobs on this cluster that continue a sweep."""
    mine = [w for w in waves(jobs.store, jobs.sweep, closed=True) if is_mine(w.record) and not from_another(w, file)]
    return set().union(*(next_jobs(jobs.store, wave) for wave in mine if not jobs.is_elsewhere(wave)))


def _stop(jobs: ArrayJobs, chosen: Iterable[Wave], only: frozenset[str] | None) -> tuple[set[str], list[Wave]]:
    """Record what is cancelled. Returns the ids of array tasks that do nothing else, and waves that are now empty."""
    needed = _needed_elsewhere(jobs.store, jobs.sweep)
    ids: set[str] = set()
    whole = []
    for wave in chosen:
        open_tasks = [(job, e) for job in jobs.known.values() if job.wave is wave for e in job.open]
        does = [job.digests(e) for job, e in open_tasks]
        every = set().union(*does)
        stopped = (every if only is None else every & only) - needed
        if stopped == every and not jobs.is_elsewhere(wave):
            whole.append(wave)
        if stopped and jobs.writes:
            record_stop(jobs.store, wave, None if stopped == every else stopped, whole=only is None)
        if not jobs.is_elsewhere(wave):
            ids |= {job.array_task_id(e) for (job, e), done in zip(open_tasks, does, strict=True) if done <= stopped}
    return ids, whole


def _needed_elsewhere(store: Store, sweep: str) -> set[str]:
    """Tasks in the newest plans of other sweeps that have waves which are not cancelled."""
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
