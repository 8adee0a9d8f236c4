"""What a sweep has used of GPUs, from the marks of its array tasks; what is queued for it, and ending that."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Container, Iterator
from typing import Any

from orchestrator.backends.slurm.commands import Commands, QueryFailed
from orchestrator.backends.slurm.jobs import Jobs, Over, alone
from orchestrator.backends.slurm.waves import INSTEAD, RECONCILE, Wave, close, gpu_seconds, stem, stop, stopped, waves
from orchestrator.errors import CorruptFile
from orchestrator.store.layout import block_name, record_name
from orchestrator.store.store import Store

WAIT_S = 120.0  # for what is being ended: Slurm gives a process KillWait seconds


def gpu_hours(store: Store, sweep: str) -> float:
    """GPU hours of all array tasks of a sweep, over its whole life, those included that run or were killed."""
    return sum(gpu_seconds(store, wave) for wave in waves(store, sweep, closed=True)) / 3600


def queue_states(
    store: Store, sweep: str, commands: Commands | None = None
) -> tuple[dict[str, dict[str, int]], str | None]:
    """By kind of task, how many array tasks of the sweep are in which state, or have failed since an engine looked;
    and why that is not known, where Slurm does not say. One call of squeue, at most one of sacct; writes nothing.
    """
    jobs = Jobs(store, sweep, commands or Commands(), writes=False)
    if not jobs.read():
        return {}, None
    try:
        over = jobs.over()
    except QueryFailed as error:
        return {}, str(error)
    found: dict[str, Counter[str]] = {job.array.kind: Counter() for job in jobs.known.values()}
    again: set[Any] = set()  # steps that are in the queue
    for job in jobs.known.values():
        for index in job.open:
            if (row := jobs.rows.get(job.array_task_id(index))) is not None and not row.over:
                found[job.array.kind][row.state.lower()] += 1
                again |= {step for bundle in job.array.tasks[index].bundles for step in bundle.steps}
    for each in over:
        found[each.job.array.kind]["failed"] += _failed(jobs, each, again)
    shown = {kind: {state: number for state, number in counts.items() if number} for kind, counts in found.items()}
    return {kind: counts for kind, counts in shown.items() if counts}, None


def _failed(jobs: Jobs, over: Over, again: Container[Any]) -> bool:
    """Whether an array task that is over has failed, and what it has not done is not in the queue again."""
    if jobs.ended(over.job, over.index) is not None:
        return False
    bundles = over.job.array.tasks[over.index].bundles
    bad = [end["bundle"] for end in over.mark.get("bundles", ()) if end["outcome"] not in ("skipped", "held")]
    blamed = [bundles[number] for number in bad if 0 <= number < len(bundles)] or (bundles if over.cause else ())
    left = [step for bundle in blamed for step in bundle.steps if step not in again]
    return any(not jobs.store.exists(name) for step in left for name in _names(over.job.array.kind, *step))


def _names(kind: str, digest: str, blocks: tuple[int, ...] | None) -> list[str]:
    """What a step publishes."""
    return [record_name(kind, digest)] if blocks is None else [block_name(digest, number) for number in blocks]


def tidy(store: Store, sweep: str) -> None:
    """Close the waves of which nothing is in the queue any more: for when nothing is left to queue."""
    if waves(store, sweep):
        with alone(store), contextlib.suppress(QueryFailed):
            jobs = Jobs(store, sweep, Commands())
            jobs.settle()
            jobs.over()
            jobs.close_waves()


def end(jobs: Jobs, owner: str, only: frozenset[str] | None, wait_s: float = WAIT_S) -> tuple[int, bool]:
    """Cancel what is queued and running for a sweep, or for these tasks only. Returns how many jobs and array tasks
    were cancelled, and whether all of them have ended. What unfinished waves of other sweeps need goes on.
    """
    store, commands = jobs.store, jobs.commands
    with alone(store):
        jobs.settle()
        rows = {row.id: row for row in commands.queue() if not row.over}
        ids, whole = _stop(jobs, only)
        if only is None:
            name = stem(store, owner, jobs.sweep)
            ids |= {r.id for r in rows.values() if r.name.startswith(name) and r.name.endswith((RECONCILE, INSTEAD))}
        ids &= rows.keys()
        commands.cancel(ids)
    until = time.monotonic() + wait_s
    while {row.id for row in commands.queue() if not row.over} & ids:
        if time.monotonic() > until:
            return len(ids), False
        time.sleep(1.0)
    for wave in whole:
        close(store, wave)
    return len(ids), True


def _stop(jobs: Jobs, only: frozenset[str] | None) -> tuple[set[str], list[Wave]]:
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
            stop(jobs.store, wave, None if chosen == every else chosen, whole=only is None)
        ids |= {job.array_task_id(e) for (job, e), done in zip(open_tasks, does, strict=True) if done <= chosen}
    return ids, whole


def _needed_elsewhere(store: Store, sweep: str) -> set[str]:
    """Tasks that the newest plans of other sweeps have as well, if these have waves that nobody has ended."""
    found: set[str] = set()
    for other in store.list("waves"):
        stops = [stopped(store, wave) for wave in waves(store, other)] if other != sweep else []
        if any(stop is None or not stop.whole for stop in stops):
            found |= set(_newest_plan(store, other).get("tasks", ()))
    return found


def _newest_plan(store: Store, sweep: str) -> dict[str, Any]:
    names: Iterator[str] = reversed(store.list(f"sweeps/{sweep}"))
    for name in names:
        with contextlib.suppress(CorruptFile):
            plan = store.read_record(f"sweeps/{sweep}/{name}", repair=False)["plan"]
            return store.read_record(f"plans/{plan}.json", repair=False)
    return {}
