"""Bundles as array tasks of Slurm job arrays. What is queued is in the store (waves), what is done in the records; this
process may end at any moment, and another one, on any host, goes on from there.
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
from orchestrator.backends.slurm.settings import Slurm as Settings
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
from orchestrator.plan.model import Plan, plan_checksum
from orchestrator.plan.progress import Done
from orchestrator.store.store import Store
from orchestrator.tasks.task import BLOCK_KINDS

BLOCKS_A_BUNDLE = 8  # what an array task does before it looks at the next bundle; not what one array task does
FIRST_LOOK_S, LAST_LOOK_S = 1.0, 30.0  # between looks at the store, less and less often; Slurm is asked every `poll_s`

AfterWave = Callable[[str, Sequence[str]], None]


class Overtaken(EnvironmentProblem):
    """Another engine has given up for this one what it was about to queue."""


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
        site: Settings,
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
        self.bundles: dict[int, Bundle] = {}  # open handles
        self.places: dict[int, set[tuple[Any, int]]] = {}  # handle -> (key of a job, index) that do it
        self.told: dict[int, int] = {}  # handle -> steps of which the engine knows
        self.later: dict[int, str] = {}  # handle -> what it waits for, outside of the queue
        self.room = 1  # array tasks of the smallest array that waits for room
        self.began = False  # whether anything was in the queue since this engine looks
        self.followed = False  # whether this engine has queued what goes on after its last wave
        self.looked, self.look_every, self.asked = -1e9, FIRST_LOOK_S, -1e9

    def size(self, plan: Plan, stream: str, blocks: int) -> int:
        return min(BLOCKS_A_BUNDLE, blocks, self.speeds.blocks_in(self.site.target_minutes, stream))

    def adopt(self) -> list[Bundle]:
        with queue_lock(self.store):
            self.jobs.settle()
        found: list[Bundle] = []
        for job in self.jobs.known.values():
            for index in sorted(job.open):
                for bundle in job.array.tasks[index].bundles:
                    # another sweep, or this one before its file was changed, has tasks of its own
                    if steps := tuple(step for step in bundle.steps if step[0] in self.plan.tasks):
                        found.append(replace(bundle, steps=steps))
                        self._follow(len(found), found[-1], job, index)
        return found

    def _follow(self, handle: int, bundle: Bundle, job: ArrayJob, index: int) -> None:
        self.began = True
        self.jobs.rely(job, {**self.record, "time": round(time.time(), 3), "folder": str(self.folder)})
        self.bundles[handle] = bundle
        self.told.setdefault(handle, 0)
        self.places.setdefault(handle, set()).add((job.key, index))

    # Queueing.

    def submit(self, work: Sequence[Work]) -> None:
        if (self.folder / STOP).exists():
            raise EnvironmentProblem(f"{self.folder / STOP} is there, so nothing is queued. Remove it to go on.")
        with queue_lock(self.store):
            others = self.jobs.settle()  # of an engine that was faster
            self._queue([each for each in work if not self._is_queued(each, others)])
        self.looked, self.look_every = time.monotonic(), FIRST_LOOK_S
        reasons = set(self.later.values())
        if self.later.keys() == self.bundles.keys() and (HOURS in reasons or (ROOM in reasons and not self.began)):
            raise EnvironmentProblem(f"nothing is queued: what is left waits for {' and '.join(sorted(reasons))}")

    def _is_queued(self, work: Work, others: Sequence[ArrayJob]) -> bool:
        """Whether somebody else has queued this, or a part of it, meanwhile; then the end of that is waited for."""
        wanted = set(work.bundle.steps)
        for job in others:
            for index in job.open:
                if any(wanted.intersection(bundle.steps) for bundle in job.array.tasks[index].bundles):
                    self._follow(work.handle, work.bundle, job, index)
        return work.handle in self.places

    def _unmeasured(self, work: Work) -> str | None:
        """The sort of a speed that is worth measuring first, if somebody goes on afterwards."""
        main = work.bundle.steps[0][0]
        if self.after_wave is None or work.bundle.kind != "sample" or self.speeds.measured(main):
            return None
        return self.speeds.sort(self.plan.tasks[main])

    def _queue(self, work: Sequence[Work]) -> None:
        if not work:
            return
        later = hold_for_calibration(work, self._unmeasured, self.site.throttle)
        stem = unique_name(self.stem)
        found = self._that_fit(self._arrays([each for each in work if each.handle not in later], stem), later)
        self.later |= later
        self.bundles |= {each.handle: each.bundle for each in work if each.handle in later}
        for why in sorted(set(later.values())):
            self.note(f"{sum(each == why for each in later.values())} bundles wait for {why}")
        if found:
            self._hand_over_all(found, stem)

    def _arrays(self, work: Sequence[Work], stem: str) -> list[Array]:
        known = {
            handle: f"{job.array.name}/{index}" if job.array.kind == "train" else job.array.name
            for handle, places in self.places.items()
            for key, index in places
            if (job := self.jobs.known.get(key)) is not None
        }
        most = self.commands.max_array()
        if self.site.max_submit is not None:
            most = min(most, max(1, self.site.max_submit - (self.after_wave is not None)))
        return arrays(work, self.site, self._seconds, lambda number: f"{stem}.{number}", known, most)

    def _seconds(self, bundle: Bundle) -> float:
        return self.speeds.steps_s(bundle.steps)

    def _that_fit(self, found: Sequence[Array], later: dict[int, str]) -> list[Array]:
        """The arrays that may be queued now; the handles of the others go into `later`."""
        room = hours = None
        if self.site.max_submit is not None:
            queued = sum(not row.over for row in self.commands.queue())
            room = self.site.max_submit - queued - (self.after_wave is not None)
        if self.hours is not None:
            used, expected = gpu_hours(self.store, self.plan.sweep.name), committed_gpu_seconds(self.jobs.mine()) / 3600
            self.note(f"GPU hours: {used:.2f} used, {expected:.2f} queued, of {self.hours:g}")
            hours = max(0.0, self.hours - used - expected) * 3600
        kept, left = apply_limits(found, room, hours)
        for array in found:
            if array.name in left:
                later |= {handle: left[array.name] for task in array.tasks for handle in task.handles}
        self.room = min((len(array.tasks) for array in found if left.get(array.name) == ROOM), default=1)
        return kept

    def _hand_over_all(self, found: Sequence[Array], stem: str) -> None:
        record = {**self.record, "time": round(time.time(), 3), "stem": stem, "arrays": len(found)}
        wave = create_wave(self.store, self.plan.sweep.name, {**record, "folder": str(self.folder)})
        for place, array in enumerate(found):
            write_array(self.store, wave, place, array)
        queued: list[str] = []
        try:
            for place, array in enumerate(found):
                job = ArrayJob(wave, place, array, None, set(range(len(array.tasks))))
                job.id = self._hand_over(job)
                queued.append(job.id)
                self._record_id(job)
                self.jobs.add(job)
                for index, array_task in enumerate(array.tasks):
                    for bundle, handle in zip(array_task.bundles, array_task.handles, strict=True):
                        self._follow(handle, bundle, job, index)
                self.note(f"queued {array.kind}: {len(array.tasks)} array tasks, job {job.id} ({array.name})")
            if self.after_wave:
                self.after_wave(stem, queued)
                self.followed = True
        except Refused:  # anything else, and what is queued is right, and the next engine goes on from there
            self._take_back(wave)
            raise

    def _hand_over(self, job: ArrayJob) -> str:
        array, asked = job.array, job.array.resources
        by_name = self.jobs.by_name()
        after = [token for name in array.after if (token := _dependency(name, by_name)) is not None]
        tasks = max(1, asked.gpus) if array.kind == "train" else 1  # processes on each node, one a GPU
        options = {**self.options, "folder": str(self.folder), "command": self._command()}
        options |= {"group": array.kind == "train" and tasks * asked.nodes > 1}
        remote = RunArrayTask(self.store.url, job.wave.sweep, job.wave.number, job.place, self.plan_name, options)
        folder, count = self.folder / array.name, len(array.tasks)
        return queue(
            self.site, folder, self.code, array.name, asked, remote, count, after, array.avoid, array.throttle, tasks
        )

    def _record_id(self, job: ArrayJob) -> None:
        """The id of a job, unless another engine has taken this one for dead."""
        if self.store.create_record(job.wave.job_name(job.place), {"job": job.id}):
            return
        if read_job_id(self.store, job.wave, job.place)[1] != job.id:
            self.commands.cancel([str(job.id)])
            raise Overtaken("this process stood still for so long that another nagbench has taken over")

    def _take_back(self, wave: Wave) -> None:
        """Nothing stays half queued."""
        with contextlib.suppress(EnvironmentProblem):
            rows = [row for row in self.commands.queue() if row.name.startswith(wave.record["stem"])]
            self.commands.cancel(row.id.partition("_")[0] for row in rows)
            record_stop(self.store, wave, None)
            close_wave(self.store, wave)
        self.jobs.forget(wave)

    # Looking.

    def poll(self, timeout_s: float) -> list[Event]:
        due = self.looked + self.look_every - time.monotonic()
        if due > timeout_s > 0:
            time.sleep(timeout_s)
            return []
        time.sleep(max(0.0, due if timeout_s else 0.0))
        ask = timeout_s == 0 or time.monotonic() - self.asked >= self.site.poll_s
        events = self._look(ask)
        if timeout_s == 0 and self.jobs.unsure:  # the caller may be one who looks only once
            time.sleep(GONE_S)
            events += self._look(True)
        self.looked = time.monotonic()
        slower = FIRST_LOOK_S if events else self.look_every * 1.5
        self.look_every = min(self.site.poll_s, LAST_LOOK_S, slower)
        return events

    def _look(self, ask: bool) -> list[Event]:
        over: Sequence[EndedArrayTask] = ()
        if ask:
            self.asked = time.monotonic() + random.uniform(0, 0.15) * self.site.poll_s
            try:
                over = self.jobs.ended()
            except QueryFailed as error:
                self.note(f"{error}; asking again later")
        done = Done(self.store)  # read after the question: what had ended by then has its records by now
        events = self._published(done)
        for each in over:
            events += self._ends(each, done)
        self.jobs.close_waves()
        if any(isinstance(event, Step) for event in events) and SPEED in self.later.values():
            self.speeds = Speeds(self.plan, self.store, done, self.site.trained_on)
        return events + self._now(ask)

    def _published(self, done: Done) -> list[Event]:
        """Steps that were published since the last look, and the ends of bundles that are complete."""
        events: list[Event] = []
        for handle, bundle in list(self.bundles.items()):
            if handle in self.later:
                continue
            left = set(self._left(bundle, done))
            made = [step for step in bundle.steps if step not in left]
            events += [Step(handle, digest, blocks) for digest, blocks in made[self.told[handle] :]]
            self.told[handle] = max(self.told[handle], len(made))
            if not left:
                events.append(self._over(End(handle, "done")))
        return events

    def _left(self, bundle: Bundle, done: Done) -> list[tuple[str, tuple[int, ...] | None]]:
        """Steps of a bundle that are not published."""
        left = []
        for digest, blocks in bundle.steps:
            kind = self.plan.tasks[digest].kind if digest in self.plan.tasks else bundle.kind
            if not (done.blocks(digest) >= set(blocks or ()) if kind in BLOCK_KINDS else digest in done.small[kind]):
                left.append((digest, blocks))
        return left

    def _over(self, end: End) -> End:
        self.bundles.pop(end.handle, None)
        self.places.pop(end.handle, None)
        self.later.pop(end.handle, None)
        return end

    def _ends(self, over: EndedArrayTask, done: Done) -> list[Event]:
        """The ends of an array task's bundles that are not complete. Where it died, the first has the blame."""
        job, here = over.job, (over.job.key, over.index)
        mine = job.wave.sweep == self.plan.sweep.name
        halt = read_stop(self.store, job.wave) if mine else None
        if over.cause == "environment" and mine and halt is None:  # the nodes see less than this machine does
            self._take_back(job.wave)
            raise EnvironmentProblem(f"{over.reason}. Is it on a file system that every node sees?")
        said: dict[int, Any] = {end["bundle"]: end for end in over.mark.get("bundles", ())}
        told = {bundle.steps: said.get(at) for at, bundle in enumerate(job.array.tasks[over.index].bundles)}
        events: list[Event] = []
        for handle in sorted(handle for handle, places in self.places.items() if here in places):
            self.places[handle].discard(here)
            if self.places[handle]:
                continue  # another array task does the rest of it
            bundle = self.bundles[handle]
            end = told.get(bundle.steps)
            digest = self._left(bundle, done)[0][0]
            if halt is not None and halt.covers([digest]):
                end = {"outcome": "failed", "digest": digest, "cause": "stopped", "reason": "cancelled by the user"}
                end["time"] = halt.time
            elif end is None and over.cause and not events:
                end = {"outcome": "failed", "digest": digest, "cause": over.cause, "reason": over.reason}
            events.append(self._over(self._end(handle, over, end)))
        return events

    def _end(self, handle: int, over: EndedArrayTask, end: Mapping[str, Any] | None) -> End:
        if end is None or end["outcome"] in ("skipped", "stopped"):
            return End(handle, "skipped")
        if end["outcome"] in ("held", "corrupt"):
            return End(handle, end["outcome"], end.get("digest", ""), end.get("reason", ""))
        job, mark, most = over.job, over.mark, self.site.memory_gb_at_most
        details = {
            "host": mark.get("host", ""),
            "job": job.array_task_id(over.index),
            "log": str(job.log(self.folder, over.index)),
            **({"again": self._rerun_command(job, over.index)} if self._is_own(job, over.index) else {}),
            "seconds": round(max(0.0, mark.get("time", 0.0) - mark.get("started", mark.get("time", 0.0))), 1),
            "at_memory_bound": most is not None and job.array.resources.memory_gb >= most,
            **{key: end[key] for key in ("micro_batch", "time") if end.get(key)},
        }
        name = job.wave.attempt(job.place, over.index, over.restart)
        cause = "environment" if end["outcome"] == "environment" else end.get("cause") or "died"
        return End(handle, "failed", end["digest"], end["reason"], end.get("traceback", ""), cause, name, details)

    def _is_own(self, job: ArrayJob, index: int) -> bool:
        """Whether an array task does tasks of this plan: what another one names, nobody here has looked at."""
        return all(bundle.plan == self.plan_name for bundle in job.array.tasks[index].bundles)

    def _rerun_command(self, job: ArrayJob, index: int) -> str:
        """The command that does by hand what an array task does."""
        array = job.wave.array_name(job.place)
        return rerun_command(self._command(), self.store.url, array, index, self.plan_name, self.options)

    def _command(self) -> str:
        return f"env PYTHONPATH={shlex.quote(str(self.code))} {self.site.command}"

    def _now(self, asked: bool) -> list[Event]:
        """What waited outside of the queue and need not any more; the engine queues it again."""
        ready = []
        alone = self.bundles.keys() == self.later.keys()  # nothing is in the queue: what was to be measured has failed
        room = self.site.max_submit is None or (asked and self.jobs.waiting + self.room < self.site.max_submit)
        for handle, why in self.later.items():
            measured = self.bundles[handle].kind != "sample" or self.speeds.measured(self.bundles[handle].steps[0][0])
            if (why == SPEED and (measured or alone)) or (why == ROOM and room) or (why == HOURS and alone):
                ready.append(handle)
        return [self._over(End(handle, "skipped")) for handle in ready]

    def close(self) -> None:
        """What is queued goes on, and if this engine has queued nothing, perhaps nobody has queued what comes after."""
        if not self.bundles:
            with contextlib.suppress(EnvironmentProblem):
                self.jobs.ended()
        self.jobs.close_waves()
        queued = [job for job in self.jobs.known.values() if job.open]
        if self.after_wave is None or self.followed or not queued or (self.folder / STOP).exists():
            return
        if self.jobs.unsure:  # a reconcile job waits until it knows
            return
        with contextlib.suppress(EnvironmentProblem):
            rows = [row.name for row in self.commands.queue() if row.state == "PENDING"]
            if not any(name.startswith(self.stem) and name.endswith(RECONCILE) for name in rows):
                self.after_wave(unique_name(self.stem), [str(job.id) for job in queued])


def _dependency(name: str, jobs: Mapping[str, ArrayJob]) -> str | None:
    """`array` or `array/index` as Slurm names it; None for what is over."""
    array, _, index = name.partition("/")
    job = jobs.get(array)
    if job is None or not job.open or job.id is None:
        return None
    return job.array_task_id(int(index)) if index else job.id
