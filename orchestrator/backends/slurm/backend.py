"""Run bundles as array tasks of Slurm job arrays. The store knows what is queued (waves) and what is done (records), so
this process may end at any moment, and another one, on any host, goes on from there.
"""

from __future__ import annotations

import contextlib
import random
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.backends.slurm.array_task import STOP, RunArrayTask
from orchestrator.backends.slurm.arrays import Array, arrays
from orchestrator.backends.slurm.commands import Commands, QueryFailed
from orchestrator.backends.slurm.jobs import GONE_S, ArrayJob, ArrayJobs, EndedArrayTask, queue_lock
from orchestrator.backends.slurm.ledger import gpu_hours
from orchestrator.backends.slurm.limits import (
    HOURS,
    ROOM,
    SPEED,
    apply_limits,
    committed_gpu_seconds,
    hold_for_calibration,
)
from orchestrator.backends.slurm.queueing import Refused, queue
from orchestrator.backends.slurm.rerun_command import rerun_command
from orchestrator.backends.slurm.settings import SlurmSettings
from orchestrator.backends.slurm.waves import (
    RECONCILE,
    Wave,
    close_wave,
    create_wave,
    job_name_prefix,
    read_job_id,
    read_stop,
    record_stop,
    unique_name,
    write_array,
)
from orchestrator.errors import EnvironmentProblem
from orchestrator.execution.durations import Speeds
from orchestrator.execution.protocol import Bundle, End, Event, Step, Work
from orchestrator.plan.model import Plan, StoredPlan
from orchestrator.plan.progress import Done
from orchestrator.plan.stored_plan import plan_checksum
from orchestrator.store.store import Store
from orchestrator.tasks.task import kind_of, makes_blocks

BLOCKS_A_BUNDLE = 8  # at most; an array task does several bundles
FIRST_UPDATE_S, LAST_UPDATE_S = 1.0, 30.0  # between reads of the store, growing; Slurm is asked every `poll_s`

AfterWave = Callable[[str, Sequence[str]], None]


class Overtaken(EnvironmentProblem):
    """Another engine took this one for dead and gave up what it was about to queue."""


class Slurm:
    """Job arrays on a Slurm cluster.

    note: called with messages for the user. record: kept with every wave (owner, generation, since). options: passed to
    the array tasks. after_wave(stem, jobs): queues the job that continues once these have ended. hours: the GPU hours
    that the sweep may use over its whole life; None for no limit.
    """

    def __init__(
        self,
        store: Store,
        plan: Plan,
        site: SlurmSettings,
        folder: Path,
        code: Path,
        commands: Commands,
        note: Callable[[str], None],
        record: Mapping[str, Any],
        options: Mapping[str, Any],
        after_wave: AfterWave | None = None,
        hours: float | None = None,
    ) -> None:
        self.store, self.plan, self.site, self.folder, self.code = store, plan, site, folder, code
        self.plan_name = plan_checksum(plan)
        self.commands, self.note, self.record, self.options = commands, note, record, options
        self.after_wave, self.hours = after_wave, hours
        self.stem = job_name_prefix(store, record["owner"], plan.sweep.name)
        self.jobs = ArrayJobs(store, plan.sweep.name, commands, note, others=True)
        self.speeds = Speeds(plan, store, Done(store), site.trained_on)
        self.bundles: dict[int, Bundle] = {}  # by handle; those that have not ended
        self.assigned: dict[int, set[tuple[Any, int]]] = {}  # handle -> array tasks that do it: (key of a job, index)
        self.reported: dict[int, int] = {}  # handle -> number of steps reported to the engine
        self.held_back: dict[int, str] = {}  # handle -> what it waits for, outside of the queue
        self.room = 1  # array tasks of the smallest array that waits for room
        self.had_queue = False  # whether this engine has seen anything in the queue
        self.has_successor = False  # whether this engine has queued the job that continues after its last wave
        self.updated, self.update_every, self.asked = -1e9, FIRST_UPDATE_S, -1e9

    def size(self, plan: StoredPlan, stream: str, blocks: int) -> int:
        return min(BLOCKS_A_BUNDLE, blocks, self.speeds.blocks_in(self.site.target_minutes, stream))

    def adopt(self) -> list[Bundle]:
        with queue_lock(self.store):
            self.jobs.settle()
        adopted: list[Bundle] = []
        for job in self.jobs.known.values():
            for index in sorted(job.open):
                for bundle in job.array.tasks[index].bundles:
                    # Another sweep, or this one before its file was changed, also has other tasks.
                    if steps := tuple(step for step in bundle.steps if step[0] in self.plan.tasks):
                        adopted.append(replace(bundle, steps=steps))
                        self._track(len(adopted), adopted[-1], job, index)
        return adopted

    def _track(self, handle: int, bundle: Bundle, job: ArrayJob, index: int) -> None:
        self.had_queue = True
        self.jobs.rely(job, {**self.record, "time": round(time.time(), 3), "folder": str(self.folder)})
        self.bundles[handle] = bundle
        self.reported.setdefault(handle, 0)
        self.assigned.setdefault(handle, set()).add((job.key, index))

    # Queueing.

    def submit(self, work: Sequence[Work]) -> None:
        if (self.folder / STOP).exists():
            raise EnvironmentProblem(f"{self.folder / STOP} is there, so nothing is queued. Remove it to go on.")
        with queue_lock(self.store):
            others = self.jobs.settle()  # of an engine that was faster
            self._queue([each for each in work if not self._is_queued(each, others)])
        self.updated, self.update_every = time.monotonic(), FIRST_UPDATE_S
        reasons = set(self.held_back.values())
        stuck = HOURS in reasons or (ROOM in reasons and not self.had_queue)
        if stuck and self.held_back.keys() == self.bundles.keys():
            raise EnvironmentProblem(f"nothing is queued: what is left waits for {' and '.join(sorted(reasons))}")

    def _is_queued(self, work: Work, others: Sequence[ArrayJob]) -> bool:
        """Whether another engine has queued this, or a part of it, meanwhile; if so, wait for its end."""
        wanted = set(work.bundle.steps)
        for job in others:
            for index in job.open:
                if any(wanted.intersection(bundle.steps) for bundle in job.array.tasks[index].bundles):
                    self._track(work.handle, work.bundle, job, index)
        return work.handle in self.assigned

    def _unmeasured_class(self, work: Work) -> str | None:
        """The cost class to calibrate first, if its speed is not measured and a job will continue after this wave."""
        main = work.bundle.steps[0][0]
        if self.after_wave is None or work.bundle.kind != "sample" or self.speeds.measured(main):
            return None
        return self.speeds.cost_class(self.plan.tasks[main])

    def _queue(self, work: Sequence[Work]) -> None:
        if not work:
            return
        held = hold_for_calibration(work, self._unmeasured_class, self.site.throttle)
        stem = unique_name(self.stem)
        ready = self._within_limits(self._arrays([each for each in work if each.handle not in held], stem), held)
        self.held_back |= held
        self.bundles |= {each.handle: each.bundle for each in work if each.handle in held}
        for reason in sorted(set(held.values())):
            self.note(f"{sum(each == reason for each in held.values())} bundles wait for {reason}")
        if ready:
            self._submit_arrays(ready, stem)

    def _arrays(self, work: Sequence[Work], stem: str) -> list[Array]:
        known = {
            handle: f"{job.array.name}/{index}" if kind_of(job.array.kind).distributed else job.array.name
            for handle, places in self.assigned.items()
            for key, index in places
            if (job := self.jobs.known.get(key)) is not None
        }
        most = self.commands.max_array()
        if self.site.max_submit is not None:
            most = min(most, max(1, self.site.max_submit - (self.after_wave is not None)))
        return arrays(work, self.site, self._seconds, lambda number: f"{stem}.{number}", known, most)

    def _seconds(self, bundle: Bundle) -> float:
        return self.speeds.steps_s(bundle.steps)

    def _within_limits(self, packed: Sequence[Array], held: dict[int, str]) -> list[Array]:
        """The arrays that may be queued now; the handles of the others are added to `held`."""
        room = hours = None
        if self.site.max_submit is not None:
            queued = sum(not row.over for row in self.commands.queue())
            room = self.site.max_submit - queued - (self.after_wave is not None)
        if self.hours is not None:
            used, expected = gpu_hours(self.store, self.plan.sweep.name), committed_gpu_seconds(self.jobs.mine()) / 3600
            self.note(f"GPU hours: {used:.2f} used, {expected:.2f} queued, of {self.hours:g}")
            hours = max(0.0, self.hours - used - expected) * 3600
        kept, left = apply_limits(packed, room, hours)
        for array in packed:
            if array.name in left:
                held |= {handle: left[array.name] for task in array.tasks for handle in task.handles}
        self.room = min((len(array.tasks) for array in packed if left.get(array.name) == ROOM), default=1)
        return kept

    def _submit_arrays(self, ready: Sequence[Array], stem: str) -> None:
        record = {**self.record, "time": round(time.time(), 3), "stem": stem, "arrays": len(ready)}
        wave = create_wave(self.store, self.plan.sweep.name, {**record, "folder": str(self.folder)})
        for place, array in enumerate(ready):
            write_array(self.store, wave, place, array)
        queued: list[str] = []
        try:
            for place, array in enumerate(ready):
                job = ArrayJob(wave, place, array, None, set(range(len(array.tasks))))
                job.id = self._submit_array(job)
                queued.append(job.id)
                self._record_id(job)
                self.jobs.add(job)
                for index, array_task in enumerate(array.tasks):
                    for bundle, handle in zip(array_task.bundles, array_task.handles, strict=True):
                        self._track(handle, bundle, job, index)
                self.note(f"queued {array.kind}: {len(array.tasks)} array tasks, job {job.id} ({array.name})")
            if self.after_wave:
                self.after_wave(stem, queued)
                self.has_successor = True
        except Refused:  # after any other error, what is queued is valid, and the next engine goes on from there
            self._withdraw(wave)
            raise

    def _submit_array(self, job: ArrayJob) -> str:
        array, needs = job.array, job.array.resources
        after = self.jobs.dependencies(array.after)
        together = kind_of(array.kind).distributed
        tasks = max(1, needs.gpus) if together else 1  # processes on each node, one per GPU
        options = {**self.options, "folder": str(self.folder), "command": self._command()}
        options |= {"group": together and tasks * needs.nodes > 1}
        remote = RunArrayTask(self.store.url, job.wave.sweep, job.wave.number, job.place, self.plan_name, options)
        folder, count = self.folder / array.name, len(array.tasks)
        return queue(
            self.site, folder, self.code, array.name, needs, remote, count, after, array.avoid, array.throttle, tasks
        )

    def _record_id(self, job: ArrayJob) -> None:
        """Record the id of a job, unless another engine has taken this one for dead."""
        if self.store.create_record(job.wave.job_name(job.place), {"job": job.id}):
            return
        if read_job_id(self.store, job.wave, job.place)[1] != job.id:
            self.commands.cancel([str(job.id)])
            raise Overtaken("this process was suspended for so long that another nagbench has taken over")

    def _withdraw(self, wave: Wave) -> None:
        """Cancel what is queued of a wave, and close it: nothing stays half queued."""
        with contextlib.suppress(EnvironmentProblem):
            rows = [row for row in self.commands.queue() if row.name.startswith(wave.record["stem"])]
            self.commands.cancel(row.id.partition("_")[0] for row in rows)
            record_stop(self.store, wave, None)
            close_wave(self.store, wave)
        self.jobs.forget(wave)

    # Watching.

    def poll(self, timeout_s: float) -> list[Event]:
        due = self.updated + self.update_every - time.monotonic()
        if due > timeout_s > 0:
            time.sleep(timeout_s)
            return []
        time.sleep(max(0.0, due if timeout_s else 0.0))
        ask = timeout_s == 0 or time.monotonic() - self.asked >= self.site.poll_s
        events = self._update(ask)
        if timeout_s == 0 and self.jobs.unsure:  # the caller may poll only once
            time.sleep(GONE_S)
            events += self._update(True)
        self.updated = time.monotonic()
        slower = FIRST_UPDATE_S if events else self.update_every * 1.5
        self.update_every = min(self.site.poll_s, LAST_UPDATE_S, slower)
        return events

    def _update(self, ask: bool) -> list[Event]:
        ended: Sequence[EndedArrayTask] = ()
        if ask:
            self.asked = time.monotonic() + random.uniform(0, 0.15) * self.site.poll_s
            try:
                ended = self.jobs.ended()
            except QueryFailed as error:
                self.note(f"{error}; asking again later")
        done = Done(self.store)  # read after asking Slurm, so the records of what has ended are there
        events = self._published_steps(done)
        for each in ended:
            events += self._bundle_ends(each, done)
        self.jobs.close_waves()
        if any(isinstance(event, Step) for event in events) and SPEED in self.held_back.values():
            self.speeds = Speeds(self.plan, self.store, done, self.site.trained_on)
        return events + self._released(ask)

    def _published_steps(self, done: Done) -> list[Event]:
        """Steps that were published since the last call, and the ends of bundles that are complete."""
        events: list[Event] = []
        for handle, bundle in list(self.bundles.items()):
            if handle in self.held_back:
                continue
            left = set(self._left(bundle, done))
            published = [step for step in bundle.steps if step not in left]
            events += [Step(handle, digest, blocks) for digest, blocks in published[self.reported[handle] :]]
            self.reported[handle] = max(self.reported[handle], len(published))
            if not left:
                events.append(self._forget(End(handle, "done")))
        return events

    def _left(self, bundle: Bundle, done: Done) -> list[tuple[str, tuple[int, ...] | None]]:
        """Steps of a bundle that are not published."""
        left = []
        for digest, blocks in bundle.steps:
            kind = self.plan.tasks[digest].kind if digest in self.plan.tasks else bundle.kind
            if not (done.blocks(digest) >= set(blocks or ()) if makes_blocks(kind) else digest in done.small[kind]):
                left.append((digest, blocks))
        return left

    def _forget(self, end: End) -> End:
        self.bundles.pop(end.handle, None)
        self.assigned.pop(end.handle, None)
        self.held_back.pop(end.handle, None)
        return end

    def _bundle_ends(self, ended: EndedArrayTask, done: Done) -> list[Event]:
        """The ends of an array task's incomplete bundles. If it died, the first one gets the blame."""
        job, here = ended.job, (ended.job.key, ended.index)
        mine = job.wave.sweep == self.plan.sweep.name
        stop = read_stop(self.store, job.wave) if mine else None
        if ended.cause == "environment" and mine and stop is None:  # the nodes cannot see a file that this machine can
            self._withdraw(job.wave)
            raise EnvironmentProblem(f"{ended.reason}. Is it on a file system that every node sees?")
        marked: dict[int, Any] = {end["bundle"]: end for end in ended.mark.get("bundles", ())}
        ends = {bundle.steps: marked.get(at) for at, bundle in enumerate(job.array.tasks[ended.index].bundles)}
        events: list[Event] = []
        for handle in sorted(handle for handle, array_tasks in self.assigned.items() if here in array_tasks):
            self.assigned[handle].discard(here)
            if self.assigned[handle]:
                continue  # another array task does the rest of it
            bundle = self.bundles[handle]
            end = ends.get(bundle.steps)
            digest = self._left(bundle, done)[0][0]
            if stop is not None and stop.covers([digest]):
                end = {"outcome": "failed", "digest": digest, "cause": "stopped", "reason": "cancelled by the user"}
                end["time"] = stop.time
            elif end is None and ended.cause and not events:
                end = {"outcome": "failed", "digest": digest, "cause": ended.cause, "reason": ended.reason}
            events.append(self._forget(self._end(handle, ended, end)))
        return events

    def _end(self, handle: int, ended: EndedArrayTask, end: Mapping[str, Any] | None) -> End:
        if end is None or end["outcome"] in ("skipped", "stopped"):
            return End(handle, "skipped")
        if end["outcome"] in ("held", "corrupt"):
            return End(handle, end["outcome"], end.get("digest", ""), end.get("reason", ""))
        job, index, mark, most = ended.job, ended.index, ended.mark, self.site.memory_gb_at_most
        details = {
            "host": mark.get("host", ""),
            "job": job.array_task_id(index),
            "log": str(job.log(self.folder, index)),
            **({"again": self._rerun_command(job, index)} if self._is_own(job, index) else {}),
            "seconds": round(max(0.0, mark.get("time", 0.0) - mark.get("started", mark.get("time", 0.0))), 1),
            "at_memory_bound": most is not None and job.array.resources.memory_gb >= most,
            **{key: end[key] for key in ("micro_batch", "time") if end.get(key)},
        }
        name = job.wave.attempt(job.place, index, ended.restart)
        cause = "environment" if end["outcome"] == "environment" else end.get("cause") or "died"
        return End(handle, "failed", end["digest"], end["reason"], end.get("traceback", ""), cause, name, details)

    def _is_own(self, job: ArrayJob, index: int) -> bool:
        """Whether an array task does tasks of this plan. The tasks of other plans were not checked here."""
        return all(bundle.plan == self.plan_name for bundle in job.array.tasks[index].bundles)

    def _rerun_command(self, job: ArrayJob, index: int) -> str:
        """The command that runs an array task by hand."""
        array = job.wave.array_name(job.place)
        return rerun_command(self._command(), self.store.url, array, index, self.plan_name, self.options)

    def _command(self) -> str:
        return f"env PYTHONPATH={shlex.quote(str(self.code))} {self.site.command}"

    def _released(self, fresh: bool) -> list[Event]:
        """End, as skipped, the bundles that may go on; the engine queues them again. fresh: squeue was just read."""
        ready = []
        alone = self.bundles.keys() == self.held_back.keys()  # the queue is empty: what was to be measured has failed
        room = self.site.max_submit is None or (fresh and self.jobs.waiting + self.room < self.site.max_submit)
        for handle, why in self.held_back.items():
            measured = self.bundles[handle].kind != "sample" or self.speeds.measured(self.bundles[handle].steps[0][0])
            if (why == SPEED and (measured or alone)) or (why == ROOM and room) or (why == HOURS and alone):
                ready.append(handle)
        return [self._forget(End(handle, "skipped")) for handle in ready]

    def close(self) -> None:
        """Leave the queue as it is, but make sure that a reconcile job waits for what is queued."""
        if not self.bundles:
            with contextlib.suppress(EnvironmentProblem):
                self.jobs.ended()
        self.jobs.close_waves()
        queued = [job for job in self.jobs.known.values() if job.open]
        if self.after_wave is None or self.has_successor or not queued or (self.folder / STOP).exists():
            return
        if self.jobs.unsure:  # a reconcile job retries until it knows
            return
        with contextlib.suppress(EnvironmentProblem):
            rows = [row.name for row in self.commands.queue() if row.state == "PENDING"]
            if not any(name.startswith(self.stem) and name.endswith(RECONCILE) for name in rows):
                self.after_wave(unique_name(self.stem), [str(job.id) for job in queued])
