"""The state of a sweep's queue, for `nagbench status`: what waits and why, what runs, and what has failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from typing import Any

from orchestrator.backends.site_kind import Queued
from orchestrator.backends.slurm.commands import Commands, QueryFailed
from orchestrator.backends.slurm.continuation import ended_words, newest_wave
from orchestrator.backends.slurm.jobs import ArrayJobs, EndedArrayTask
from orchestrator.backends.slurm.presence import doubled
from orchestrator.backends.slurm.reasons import waiting_lines
from orchestrator.backends.slurm.room import waiting_words
from orchestrator.backends.slurm.waves import clusters_of
from orchestrator.store.layout import block_name, record_name
from orchestrator.store.store import Store


def queue_states(store: Store, sweep: str, commands: Commands | None = None) -> Queued:
    """What is queued: by kind of task, how many array tasks are in which state, or have failed and no engine knows yet;
    why they wait; and what stands in the way of the rest. Calls squeue once and sacct at most once; writes nothing.
    """
    jobs = ArrayJobs(store, sweep, commands or Commands(clusters=clusters_of(store, sweep)), writes=False)
    opened, continued = jobs.read(), newest_wave(store, sweep)
    if not opened and continued is None:
        return Queued()
    try:
        ended = jobs.ended()
    except QueryFailed as error:
        return Queued(unknown=str(error)) if opened else Queued()
    states: dict[str, Counter[str]] = {job.array.kind: Counter() for job in jobs.known.values()}
    queued: set[Any] = set()  # steps
    rows = []
    for job in jobs.known.values():
        for index in job.open:
            row = jobs.rows.get(job.array_task_id(index))
            if row is None or row.over:
                states[job.array.kind]["not shown by squeue"] += 1
                continue
            states[job.array.kind][row.state.lower()] += 1
            queued |= {step for bundle in job.array.tasks[index].bundles for step in bundle.steps}
            rows.append((job.array.kind, row))
    for each in ended:
        states[each.job.array.kind]["failed"] += _failed(jobs, each, queued)
    notes = jobs.of_others()
    shown = {kind: {state: number for state, number in counts.items() if number} for kind, counts in states.items()}
    notes += [*waiting_lines(rows), waiting_words(store, sweep, jobs.waiting)]
    if twice := doubled(store, sweep):
        notes.append(f"{twice} array tasks ran twice, since Slurm did not show them; the first results stay")
    stopped = ended_words(store, continued, jobs) if continued else ""
    return Queued(
        {kind: counts for kind, counts in shown.items() if counts}, notes=tuple(filter(None, notes)), stopped=stopped
    )


def _failed(jobs: ArrayJobs, ended: EndedArrayTask, queued: Container[Any]) -> bool:
    """Whether an array task has failed and left steps undone that are not queued again."""
    if jobs.cancelled_at(ended.job, ended.index) is not None:
        return False
    bundles = ended.job.array.tasks[ended.index].bundles
    failed = [end["bundle"] for end in ended.mark.get("bundles", ()) if end["outcome"] not in ("skipped", "held")]
    blamed = [bundles[number] for number in failed if 0 <= number < len(bundles)] or (bundles if ended.cause else ())
    left = [step for bundle in blamed for step in bundle.steps if step not in queued]
    return any(not jobs.store.exists(name) for step in left for name in _names(ended.job.array.kind, *step))


def _names(kind: str, digest: str, blocks: tuple[int, ...] | None) -> list[str]:
    """The files that a step publishes."""
    return [record_name(kind, digest)] if blocks is None else [block_name(digest, number) for number in blocks]
