"""What a sweep has used of GPUs, from the marks of its elements; what is queued for it, and ending that."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.backends.slurm.commands import Commands, QueryFailed
from orchestrator.backends.slurm.jobs import Job, Jobs
from orchestrator.backends.slurm.waves import Wave, marks, waves
from orchestrator.errors import CorruptFile
from orchestrator.store import Store

WAIT_S = 120.0  # for what is being ended: Slurm gives a process KillWait seconds


def gpu_hours(store: Store, sweep: str) -> float:
    """GPU hours of all elements of a sweep, over its whole life, those included that run or were killed."""
    total = 0.0
    for wave in waves(store, sweep, closed=True):
        starts, ends = marks(store, wave, "starts"), marks(store, wave, "ends")
        for key, name in starts.items():
            with contextlib.suppress(CorruptFile):
                start = store.read_record(name, repair=False)
                if start["gpus"]:
                    end = (
                        store.read_record(ends[key], repair=False)["time"] if key in ends else _killed(store, wave, key)
                    )
                    total += start["gpus"] * max(0.0, end - start["started"])
    return total / 3600


def _killed(store: Store, wave: Wave, key: tuple[int, int, int]) -> float:
    """When an element that left no mark of its end was last there: when it began again, or its wave was closed."""
    place, element, restart = key
    for name, time_of in (
        (wave.mark("starts", place, element, restart + 1), "started"),
        (f"{wave.folder}/closed.json", "time"),
    ):
        if store.exists(name):
            return float(store.read_record(name, repair=False)[time_of])
    return time.time()


def queue_states(store: Store, sweep: str) -> tuple[dict[str, dict[str, int]], str | None]:
    """By kind of task, how many elements of the sweep are in which state of Slurm; and why that is not known, where Slurm
    does not say. One call of squeue, and nothing is written.
    """
    if not waves(store, sweep):
        return {}, None
    jobs = Jobs(store, sweep, Path(), Commands(), lambda text: None)
    jobs.read()
    try:
        states = {row.id: row.state.lower() for row in jobs.commands.queue() if not row.over}
    except QueryFailed as error:
        return {}, str(error)
    found: dict[str, Counter[str]] = {}
    for job in jobs.known.values():
        counts = Counter(states[name] for element in job.open if (name := job.element_id(element)) in states)
        found.setdefault(job.array.kind, Counter()).update(counts)
    return {kind: dict(counts) for kind, counts in found.items() if counts}, None


def end(jobs: Jobs, only: frozenset[str] | None, wait_s: float = WAIT_S) -> tuple[int, bool]:
    """Cancel what is queued and running for a sweep, or what is for these tasks only; how many elements that are, and
    whether they are gone. What another sweep's unfinished waves rely on is left. The store resumes.
    """
    store, commands = jobs.store, jobs.commands
    jobs.read()
    needed = _needed_elsewhere(store, jobs.sweep)
    ids: list[str] = []
    for wave in {job.wave.number: job.wave for job in jobs.known.values()}.values():
        of = [job for job in jobs.known.values() if job.wave.number == wave.number]
        chosen = {digest for job in of for digest in _digests(job)}
        chosen = (chosen if only is None else chosen & only) - needed
        whole = only is None and not needed
        store.create_record(
            f"{wave.folder}/stop.json", {"only": None if whole else sorted(chosen), "time": round(time.time(), 3)}
        )
        for job in of:
            ids += [job.element_id(e) for e in sorted(job.open) if job.id and _digests(job, e) <= chosen]
        if only is None:
            ids += _reconcilers(commands, wave)
    commands.cancel(ids)
    until = time.monotonic() + wait_s
    while left := {row.id for row in commands.queue() if not row.over} & set(ids):
        if time.monotonic() > until:
            break
        time.sleep(1.0)
    return len(ids), not left


def _reconcilers(commands: Commands, wave: Wave) -> list[str]:
    name = f"{wave.record['stem']}.reconcile"
    return [row.id for row in commands.queue() if row.name == name and not row.over]


def _digests(job: Job, element: int | None = None) -> set[str]:
    elements = job.array.elements if element is None else [job.array.elements[element]]
    return {digest for each in elements for bundle in each.bundles for digest, _ in bundle.steps}


def _needed_elsewhere(store: Store, sweep: str) -> set[str]:
    """Tasks that the newest plans of other sweeps with open waves have as well."""
    found: set[str] = set()
    for other in store.list("waves"):
        if other != sweep and waves(store, other):
            found |= set(_newest_plan(store, other).get("tasks", ()))
    return found


def _newest_plan(store: Store, sweep: str) -> dict[str, Any]:
    names: Iterator[str] = reversed(store.list(f"sweeps/{sweep}"))
    for name in names:
        with contextlib.suppress(CorruptFile):
            plan = store.read_record(f"sweeps/{sweep}/{name}", repair=False)["plan"]
            return store.read_record(f"plans/{plan}.json", repair=False)
    return {}
