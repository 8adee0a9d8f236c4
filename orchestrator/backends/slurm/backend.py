"""Run bundles as array tasks of Slurm job arrays. The store knows what is queued (waves) and what is done (records), so
this process may end at any moment, and another one, on any host, goes on from there.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.backends.slurm.array_task import STOP
from orchestrator.backends.slurm.arrays import Array, arrays
from orchestrator.backends.slurm.canaries import Canaries
from orchestrator.backends.slurm.commands import Commands, QueryFailed
from orchestrator.backends.slurm.ends import bundle_end, unpublished
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
from orchestrator.backends.slurm.owner import is_mine
from orchestrator.backends.slurm.requests import Requests
from orchestrator.backends.slurm.room import Room
from orchestrator.backends.slurm.sbatch import NoRoom, Refused
from orchestrator.backends.slurm.sending import Sender
from orchestrator.backends.slurm.settings import SlurmSettings
from orchestrator.backends.slurm.waves import (
    RECONCILE,
    Wave,
    create_wave,
    job_name_prefix,
    read_stop,
    unique_name,
)
from orchestrator.errors import EnvironmentProblem
from orchestrator.execution.durations import Speeds
from orchestrator.execution.protocol import Bundle, End, Event, Step, Work
from orchestrator.plan.model import StoredPlan
from orchestrator.plan.progress import Done
from orchestrator.plan.stored_plan import plan_checksum
from orchestrator.store.store import Store
from orchestrator.tasks.task import kind_of

BLOCKS_A_BUNDLE = 8  # at most; an array task does several bundles
TRIES = 5  # at queueing a wave, each with less, while sbatch says that there is no room
FIRST_UPDATE_S, LAST_UPDATE_S = 1.0, 30.0  # between reads of the store, growing; Slurm is asked every `poll_s`

AfterWave = Callable[[str, Sequence[str]], None]


class TakenBack(NoRoom):
    """There was no room for the job that continues, so its wave has been taken back."""


class Slurm:
    """Job arrays on a Slurm cluster.

    note: called with messages for the user. record: kept with every wave (owner, generation, since). options: passed to
    the array tasks. after_wave(stem, jobs): queues the job that continues once these have ended. hours: the GPU hours
    that the sweep may use over its whole life; None for no limit.
    """

    def __init__(
        self,
        store: Store,
        plan: StoredPlan,
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
        self.store, self.plan, self.site, self.folder = store, plan, site, folder
        self.commands, self.note, self.record = commands, note, record
        self.after_wave, self.hours = after_wave, hours
        self.visible_after_s = site.visible_after_s
        self.stem = job_name_prefix(store, record["owner"], plan.sweep.name)
        self.jobs = ArrayJobs(store, plan.sweep.name, commands, note, others=True)
        self.sender = Sender(self.jobs, site, folder, code, plan_checksum(plan), options)
        self.canaries = Canaries(store, plan.sweep.name)
        self.requests = Requests(site, plan)
        self.speeds = Speeds(plan, store, Done(store), self.requests.processes)
        self.bundles: dict[int, Bundle] = {}  # by handle; those that have not ended
        self.assigned: dict[int, set[tuple[Any, int]]] = {}  # handle -> array tasks that do it: (key of a job, index)
        self.reported: dict[int, int] = {}  # handle -> number of steps reported to the engine
        self.held_back: dict[int, str] = {}  # handle -> what it waits for, outside of the queue
        self.room = Room(site, after_wave is not None, record.get("generation", 1) > 1)
        self.wanted = 1  # free places that are worth another wave
        self.has_successor = False  # whether this engine has queued the job that continues after its last wave
        self.updated, self.update_every, self.asked = -1e9, FIRST_UPDATE_S, -1e9

    def size(self, plan: StoredPlan, stream: str, blocks: int) -> int:
        return min(BLOCKS_A_BUNDLE, blocks, self.speeds.blocks_in(self.site.target_minutes, stream))

    def adopt(self) -> list[Bundle]:
        with queue_lock(self.store, self.note):
            self.jobs.settle()
        for words in self.jobs.of_others():
            self.note(f"{words}; waiting for them")
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
        self.jobs.rely(job, {**self.record, "time": round(time.time(), 3), "folder": str(self.folder)})
        self.bundles[handle] = bundle
        self.reported.setdefault(handle, 0)
        self.assigned.setdefault(handle, set()).add((job.key, index))

    # Queueing.

    def submit(self, work: Sequence[Work]) -> None:
        if (self.folder / STOP).exists():
            raise EnvironmentProblem(f"{self.folder / STOP} is there, so nothing is queued. Remove it to go on.")
        with queue_lock(self.store, self.note):
            others = self.jobs.settle()  # of an engine that was faster
            self._queue([each for each in work if not self._is_queued(each, others)])
        self.updated, self.update_every = time.monotonic(), FIRST_UPDATE_S
        reasons = set(self.held_back.values())
        if reasons & {HOURS, ROOM} and self.held_back.keys() == self.bundles.keys():
            words = f"nothing is queued: what is left waits for {' and '.join(sorted(reasons))}"
            if HOURS in reasons:
                raise EnvironmentProblem(words)
            raise NoRoom(f"{words} ({self.room.why}), and your jobs fill the limit of {self.room.limit}")

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
        queued: list[str] = []
        for attempt in range(TRIES):
            left = [each for each in work if each.handle not in self.assigned]
            for each in left:
                self.held_back.pop(each.handle, None)
            stem = unique_name(self.stem)
            try:
                self._submit_arrays(self._ready(left, stem), stem, queued)
                break
            except NoRoom as error:
                if attempt == TRIES - 1:
                    raise
                if not isinstance(error, TakenBack):
                    self.room.learn(self.commands, error)
        for reason in sorted(set(self.held_back.values())):
            why = f" ({self.room.why})" if reason == ROOM else ""
            self.note(f"{sum(each == reason for each in self.held_back.values())} bundles wait for {reason}{why}")
        waits = sum(each == ROOM for each in self.held_back.values())
        if waits and (mine := [wave for wave in self.jobs.waves.values() if wave.sweep == self.plan.sweep.name]):
            self.room.note(self.store, mine[-1], waits)

    def _ready(self, work: Sequence[Work], stem: str) -> list[Array]:
        """The arrays to queue now; the bundles of the others are held back."""
        held = hold_for_calibration(work, self._unmeasured_class, self.site.throttle)
        ready = self._within_limits(self._arrays([each for each in work if each.handle not in held], stem), held)
        self.held_back |= held
        self.bundles |= {each.handle: each.bundle for each in work if each.handle in held}
        return ready

    def _arrays(self, work: Sequence[Work], stem: str) -> list[Array]:
        known = {
            handle: f"{job.array.name}/{index}" if kind_of(job.array.kind).distributed else job.array.name
            for handle, places in self.assigned.items()
            for key, index in places
            if (job := self.jobs.known.get(key)) is not None
        }
        most = self.commands.max_array()
        if self.room.limit is not None:
            most = min(most, max(1, self.room.limit - self.room.reserve))
        return arrays(work, self.site, self._seconds, lambda n: f"{stem}.{n}", known, most, self.requests.of)

    def _seconds(self, bundle: Bundle) -> float:
        return self.speeds.steps_s(bundle.steps)

    def _within_limits(self, packed: Sequence[Array], held: dict[int, str]) -> list[Array]:
        """The arrays that may be queued now; the handles of the others are added to `held`."""
        hours, room = None, self.room.left(self.commands, self.stem)
        if self.hours is not None:
            used, expected = gpu_hours(self.store, self.plan.sweep.name), committed_gpu_seconds(self.jobs.mine()) / 3600
            self.note(f"GPU hours: {used:.2f} used, {expected:.2f} queued, of {self.hours:g}")
            hours = max(0.0, self.hours - used - expected) * 3600
        kept, left = apply_limits(packed, room, hours)
        queued = {handle for array in kept for task in array.tasks for handle in task.handles}
        for array in packed:
            if array.name in left:
                handles = {handle for task in array.tasks for handle in task.handles} - queued
                held |= dict.fromkeys(handles, left[array.name])
        waiting = sum(len(array.tasks) for array in packed if left.get(array.name) == ROOM)
        self.wanted = max(1, min(waiting, (self.room.limit or 0) // 4))
        return kept

    def _submit_arrays(self, ready: Sequence[Array], stem: str, queued: list[str]) -> None:
        """Queue arrays as a wave, and the job that continues after all that is `queued`. Raises NoRoom if some of it is
        not queued, Refused if none of it is.
        """
        if ready:
            record = {**self.record, "time": round(time.time(), 3), "stem": stem, "arrays": len(ready)}
            record |= {"folder": str(self.folder), "lost_after_s": self.site.lost_after_s}
            wave = create_wave(self.store, self.plan.sweep.name, {**record, "continues": self.after_wave is not None})
            try:
                for job in self.sender.send(wave, ready):
                    queued.append(str(job.id))
                    for index, array_task in enumerate(job.array.tasks):
                        for bundle, handle in zip(array_task.bundles, array_task.handles, strict=True):
                            self._track(handle, bundle, job, index)
                    kind, count = job.array.kind, len(job.array.tasks)
                    self.note(f"queued {kind}: {count} array tasks, job {job.id} ({job.array.name})")
            except NoRoom:
                self.sender.give_up(wave, len(ready))
                raise
            except Refused:  # after any other error, what is queued is valid, and the next engine goes on from there
                self._withdraw(wave)
                raise
        if self.after_wave and queued:
            self._continue_after(stem, queued)

    def _continue_after(self, stem: str, queued: list[str]) -> None:
        """Queue the job that continues. If there is no room for it, its wave is taken back and queued again smaller."""
        assert self.after_wave is not None
        waves = [self.jobs.waves[key] for key in {job.wave.key for job in self.jobs.known.values() if job.id in queued}]
        try:
            self.after_wave(stem, queued)
            self.has_successor = True
        except Refused:
            for wave in waves:
                self._withdraw(wave)
            raise
        except NoRoom as error:
            if self.room.reserve == 0 and self.room.limit is not None:
                self.note(f"{error}; run the same command when these jobs have ended")
                return
            if not self.room.learned:
                self.room.learn(self.commands, error)
            for wave in waves:
                self._withdraw(wave)
            queued.clear()
            raise TakenBack(str(error)) from error

    def _withdraw(self, wave: Wave) -> None:
        """Cancel what is queued of a wave, and close it; its bundles can be queued again."""
        for handle, places in list(self.assigned.items()):
            self.assigned[handle] = {place for place in places if place[0][:2] != wave.key}
            if not self.assigned[handle]:
                del self.assigned[handle]
        self.sender.withdraw(wave)

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
        if site_fault := self.canaries.fault(ended):
            wave, reason = site_fault
            self._withdraw(wave)
            raise EnvironmentProblem(reason)
        done = Done(self.store)  # read after asking Slurm, so the records of what has ended are there
        events = self._published_steps(done)
        for each in ended:
            events += self._bundle_ends(each, done)
        self.jobs.close_waves()
        if any(isinstance(event, Step) for event in events) and SPEED in self.held_back.values():
            self.speeds = Speeds(self.plan, self.store, done, self.requests.processes)
        return events + self._released(ask)

    def _published_steps(self, done: Done) -> list[Event]:
        """Steps that were published since the last call, and the ends of bundles that are complete."""
        events: list[Event] = []
        for handle, bundle in list(self.bundles.items()):
            if handle in self.held_back:
                continue
            left = set(unpublished(self.plan, bundle, done))
            published = [step for step in bundle.steps if step not in left]
            events += [Step(handle, digest, blocks) for digest, blocks in published[self.reported[handle] :]]
            self.reported[handle] = max(self.reported[handle], len(published))
            if not left:
                events.append(self._forget(End(handle, "done")))
        return events

    def _forget(self, end: End) -> End:
        self.bundles.pop(end.handle, None)
        self.assigned.pop(end.handle, None)
        self.held_back.pop(end.handle, None)
        return end

    def _bundle_ends(self, ended: EndedArrayTask, done: Done) -> list[Event]:
        """The ends of an array task's incomplete bundles. If it died, the first one gets the blame."""
        job, here = ended.job, (ended.job.key, ended.index)
        mine = job.wave.sweep == self.plan.sweep.name and is_mine(job.wave.record)
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
            digest = unpublished(self.plan, bundle, done)[0][0]
            if stop is not None and stop.covers([digest]):
                end = {"outcome": "failed", "digest": digest, "cause": "stopped", "reason": "cancelled by the user"}
                end["time"] = stop.time
            elif end is None and ended.mark.get("outcome") == "done" and bundle.steps in ends:
                events.append(self._forget(End(handle, "done")))  # its files are not visible here yet
                continue
            elif end is None and ended.cause and not events:
                end = {"outcome": "failed", "digest": digest, "cause": ended.cause, "reason": ended.reason}
            again, most = self.sender.rerun_command(job, ended.index), self.site.memory_gb_at_most
            events.append(self._forget(bundle_end(handle, ended, end, self.folder, most, again)))
        return events

    def _released(self, fresh: bool) -> list[Event]:
        """End, as skipped, the bundles that may go on; the engine queues them again. fresh: squeue was just read."""
        ready = []
        alone = self.bundles.keys() == self.held_back.keys()  # the queue is empty: what was to be measured has failed
        room = fresh and self.room.released(self.jobs.waiting, 1 if alone else self.wanted)
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
