"""Bundles as elements of Slurm job arrays. What is queued is in the store (waves), what is done in the records; this
process may end at any moment, and another one, on any host, goes on from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.backends import Bundle, End, Event, Step, Work
from orchestrator.backends.slurm.arrays import Array, arrays
from orchestrator.backends.slurm.commands import Commands, QueryFailed
from orchestrator.backends.slurm.element import Element
from orchestrator.backends.slurm.jobs import Job, Jobs, Over
from orchestrator.backends.slurm.queueing import queue
from orchestrator.backends.slurm.waves import Wave, begin, write_array
from orchestrator.errors import EnvironmentProblem
from orchestrator.plan import Done, Plan
from orchestrator.site import Slurm as Settings
from orchestrator.speeds import Speeds
from orchestrator.store import Store
from orchestrator.tasks import BLOCK_KINDS, Held
from orchestrator.tasks.lease import lease

LEASE_S = 300.0  # how long another engine may be queueing
BLOCKS_A_BUNDLE = 8  # what an element does before it looks at the next bundle; not what one element does
CALIBRATED_FROM = 4  # bundles of one unmeasured speed, for each element that may run: so many are worth measuring it
FIRST_LOOK_S = 1.0

AfterWave = Callable[[Wave, Sequence[str]], None]
ROOM, SPEED, HOURS = "room in the queue (max_submit)", "a measured speed", "GPU hours (--max-gpu-hours)"


class Slurm:
    """`note` is told what a person may want to know. `record` is kept with every wave: owner, generation, since.
    `options` go to the elements. `after_wave` queues what goes on when the given jobs have ended. `gpu_s`: seconds of
    GPUs that may still be queued; None for any number.
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
        gpu_s: float | None = None,
    ) -> None:
        self.store, self.plan, self.site, self.folder, self.code = store, plan, site, folder, code
        self.commands, self.note, self.record, self.options = commands, note, record, options
        self.after_wave, self.gpu_s = after_wave, gpu_s
        self.jobs = Jobs(store, plan.sweep.name, folder, commands, note)
        self.speeds = Speeds(plan, store, Done(store))
        self.extracts: dict[str, list[str]] = defaultdict(list)
        for digest, task in plan.tasks.items():
            if task.kind == "extract":
                self.extracts[task.params["stream"]].append(digest)
        self.bundles: dict[int, Bundle] = {}  # open handles
        self.places: dict[int, set[tuple[int, int, int]]] = {}  # handle -> (wave, array, element) that do it
        self.told: dict[int, int] = {}  # handle -> steps of which the engine knows
        self.later: dict[int, str] = {}  # handle -> what it waits for, outside of the queue
        self.looked, self.look_every = -1e9, FIRST_LOOK_S

    def size(self, plan: Plan, stream: str, blocks: int) -> int:
        seconds = sum(map(self.speeds.task_s, (stream, *self.extracts[stream])))
        return max(1, min(BLOCKS_A_BUNDLE, int(self.site.target_minutes * 60 / max(seconds, 1e-3))))

    def adopt(self) -> list[Bundle]:
        self.jobs.read()
        found: list[Bundle] = []
        for job in self.jobs.known.values():
            for element in sorted(job.open):
                for bundle in job.array.elements[element].bundles:
                    found.append(bundle)
                    self._follow(len(found), bundle, job, element)
        return found

    def _follow(self, handle: int, bundle: Bundle, job: Job, element: int) -> None:
        self.bundles[handle] = bundle
        self.told.setdefault(handle, 0)
        self.places.setdefault(handle, set()).add((job.wave.number, job.place, element))

    # Queueing.

    def submit(self, work: Sequence[Work]) -> None:
        with self._alone():
            others = self.jobs.read()  # of an engine that was faster
            mine = [each for each in work if not self._is_queued(each, others)]
            if mine:
                self._queue(self._worthwhile(mine))
        self.looked, self.look_every = time.monotonic(), FIRST_LOOK_S

    def _is_queued(self, work: Work, others: Sequence[Job]) -> bool:
        """Whether somebody else has queued this, or a part of it, meanwhile; then the end of that is waited for."""
        wanted = set(work.bundle.steps)
        for job in others:
            for element in job.open:
                if any(wanted.intersection(bundle.steps) for bundle in job.array.elements[element].bundles):
                    self._follow(work.handle, work.bundle, job, element)
        return work.handle in self.places

    def _worthwhile(self, work: Sequence[Work]) -> list[Work]:
        """What is queued now. Where very much depends on a speed that nobody has measured, that is one bundle of it, in
        place of a guess that makes all elements too long or too short; needs somebody who goes on afterwards.
        """
        sorts: dict[str, list[Work]] = defaultdict(list)
        for each in work if self.after_wave else ():
            if each.bundle.kind == "sample" and not self.speeds.measured(each.bundle.steps[0][0]):
                sorts[self.speeds.sort(self.plan.tasks[each.bundle.steps[0][0]])].append(each)
        for alike in sorts.values():
            if len(alike) > CALIBRATED_FROM * self.site.throttle:
                self._leave(alike[1:], SPEED)
        now = []
        for each in work:
            if each.handle not in self.later and not each.after & self.later.keys():
                now.append(each)
            elif each.handle not in self.later:
                self._leave([each], self.later[min(each.after & self.later.keys())])
        return now

    def _leave(self, work: Sequence[Work], why: str) -> None:
        for each in work:
            self.later[each.handle] = why
            self.bundles[each.handle] = each.bundle

    def _queue(self, work: Sequence[Work]) -> None:
        sweep, began = self.plan.sweep.name, round(time.time(), 3)
        token = hashlib.blake2b(f"{self.store.url} {time.time_ns()}".encode(), digest_size=4).hexdigest()
        stem = f"nb.{self.record['owner']}.{sweep}.{token}"
        known = {
            handle: f"{job.array.name}/{element}" if job.array.kind == "train" else job.array.name
            for handle, places in self.places.items()
            for number, place, element in places
            if (job := self.jobs.known.get((number, place))) is not None
        }
        most = int(self.commands.config().get("MaxArraySize", "1001"))

        def seconds(bundle: Bundle) -> float:
            return self.speeds.steps_s(bundle.steps)

        found = arrays(work, self.site, seconds, lambda number: f"{stem}.{number}", known, most)
        found = self._that_fit(found, {each.handle: each for each in work})
        if not found:
            return
        record = {**self.record, "time": began, "stem": stem, "arrays": len(found), "folder": str(self.folder)}
        wave = begin(self.store, sweep, record)
        for place, array in enumerate(found):
            write_array(self.store, wave, place, array)
        queued: list[str] = []
        try:
            for place, array in enumerate(found):
                job = Job(wave, place, array, None, set(range(len(array.elements))))
                job.id = self._hand_over(job)
                queued.append(job.id)
                self.store.create_record(wave.job_name(place), {"job": job.id})
                self.jobs.add(job)
                for index, element in enumerate(array.elements):
                    for bundle, handle in zip(element.bundles, element.handles, strict=True):
                        self._follow(handle, bundle, job, index)
                self.note(f"queued {array.kind}: {len(array.elements)} elements, job {job.id} ({array.name})")
            if self.after_wave:
                self.after_wave(wave, queued)
        except BaseException:
            self._take_back(wave, queued)
            raise

    def _hand_over(self, job: Job) -> str:
        array, asked = job.array, job.array.resources
        by_name = self.jobs.by_name()
        after = [token for name in array.after if (token := _dependency(name, by_name)) is not None]
        remote = Element(self.store.url, job.wave.sweep, job.wave.number, job.place, dict(self.options))
        tasks = max(1, asked.gpus) if array.kind == "train" else 1  # processes on each node, one a GPU
        folder, count = self.folder / array.name, len(array.elements)
        return queue(
            self.site, folder, self.code, array.name, asked, remote, count, after, array.avoid, array.throttle, tasks
        )

    def _take_back(self, wave: Wave, queued: Sequence[str]) -> None:
        """Nothing stays half queued."""
        with contextlib.suppress(QueryFailed):
            self.commands.cancel(queued)
        with contextlib.suppress(EnvironmentProblem):
            self.store.create_record(f"{wave.folder}/stop.json", {"only": None, "time": round(time.time(), 3)})
            self.store.create_record(f"{wave.folder}/closed.json", {"time": round(time.time(), 3)})

    def _that_fit(self, found: Sequence[Array], work: Mapping[int, Work]) -> list[Array]:
        """The arrays for which there is room in the queue and there are GPU hours, and whose inputs are queued too."""
        room = None if self.site.max_submit is None else self.site.max_submit - len(self._waiting())
        kept: list[Array] = []
        left: dict[str, str] = {}
        for array in found:
            gpus = array.resources.gpus * array.resources.nodes
            waits = {name.partition("/")[0] for name in array.after} & left.keys()
            why = left[min(waits)] if waits else ""
            if not why and room is not None and len(array.elements) > room:
                why = ROOM
            if not why and self.gpu_s is not None and gpus and array.seconds * gpus > self.gpu_s:
                why = HOURS
            if why:
                left[array.name] = why
                self._leave([work[handle] for element in array.elements for handle in element.handles], why)
                continue
            room = None if room is None else room - len(array.elements)
            self.gpu_s = None if self.gpu_s is None else self.gpu_s - array.seconds * gpus
            kept.append(array)
        for why in dict.fromkeys(left.values()):
            self.note(f"{sum(each == why for each in left.values())} arrays wait for {why}")
        return kept

    def _waiting(self) -> list[str]:
        return [row.id for row in self.commands.queue() if not row.over]

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """While it lasts, no other engine queues this sweep."""
        end = time.monotonic() + LEASE_S
        while True:
            try:
                with lease(self.store, f"queue-{self.plan.sweep.name}"):
                    yield
                return
            except Held:
                if time.monotonic() > end:
                    raise EnvironmentProblem(f"another nagbench is still queueing {self.plan.sweep.name}") from None
                time.sleep(0.5)

    # Looking.

    def poll(self, timeout_s: float) -> list[Event]:
        due = self.looked + self.look_every - time.monotonic()
        if due > timeout_s > 0:
            time.sleep(timeout_s)
            return []
        time.sleep(max(0.0, due if timeout_s else 0.0))
        self.jobs.close_waves()
        events = self._look()
        self.looked = time.monotonic()
        slower = FIRST_LOOK_S if events else self.look_every * 1.5
        self.look_every = min(self.site.poll_s, slower) * random.uniform(0.85, 1.0)
        return events

    def _look(self) -> list[Event]:
        try:
            over = self.jobs.over()
        except QueryFailed as error:
            self.note(f"{error}; asking again later")
            over = []
        done = Done(self.store)  # read after the question: what had ended by then has its records by now
        events = self._published(done)
        for each in over:
            events += self._ends(each, done)
        if any(isinstance(event, Step) for event in events) and SPEED in self.later.values():
            self.speeds = Speeds(self.plan, self.store, done)
        if self.bundles and self.bundles.keys() == self.later.keys() and HOURS in self.later.values():
            raise EnvironmentProblem("--max-gpu-hours is reached: what is left is not queued")
        return events + self._now()

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

    def _ends(self, over: Over, done: Done) -> list[Event]:
        """The ends of an element's bundles that are not complete. Where it died, the first has the blame."""
        here = (over.job.wave.number, over.job.place, over.element)
        stopped = self.jobs.stopped(over.job.wave)
        said = {end["bundle"]: end for end in over.mark.get("bundles", ())}
        told = {bundle.steps: said.get(at) for at, bundle in enumerate(over.job.array.elements[over.element].bundles)}
        events: list[Event] = []
        for handle in sorted(handle for handle, places in self.places.items() if here in places):
            self.places[handle].discard(here)
            if self.places[handle]:
                continue  # another element does the rest of it
            bundle = self.bundles[handle]
            end = told.get(bundle.steps)
            digest = self._left(bundle, done)[0][0]
            if stopped is None or digest in stopped:
                end = {"outcome": "failed", "digest": digest, "cause": "stopped", "reason": "cancelled by the user"}
            elif end is None and over.cause and not events:
                end = {"outcome": "failed", "digest": digest, "cause": over.cause, "reason": over.reason}
            events.append(self._over(self._end(handle, over, end)))
        return events

    def _end(self, handle: int, over: Over, end: Mapping[str, Any] | None) -> End:
        if end is None or end["outcome"] == "skipped":
            return End(handle, "skipped")
        if end["outcome"] in ("held", "corrupt"):
            return End(handle, end["outcome"], end["digest"], end.get("reason", ""))
        job, mark, most = over.job, over.mark, self.site.memory_gb_at_most
        details = {
            "host": mark.get("host", ""),
            "job": job.element_id(over.element),
            "log": str(job.log(self.folder, over.element)),
            "again": self._again(job, over.element),
            "seconds": round(max(0.0, mark["time"] - mark.get("started", mark["time"])), 1),
            "progress": bool(mark.get("progress")) or self.told.get(handle, 0) > 0,
            "at_memory_bound": most is not None and job.array.resources.memory_gb >= most,
        }
        if end.get("micro_batch"):
            details["micro_batch"] = end["micro_batch"]
        began = int(job.wave.record["time"] * 1e9)
        name = f"{began:020d}-{over.restart:03d}-{job.place:03d}-{over.element:06d}"
        cause = "environment" if end["outcome"] == "environment" else end.get("cause") or "died"
        return End(handle, "failed", end["digest"], end["reason"], end.get("traceback", ""), cause, name, details)

    def _again(self, job: Job, element: int) -> str:
        """The command that does by hand what an element does."""
        words = ["env", f"PYTHONPATH={self.code}", self.site.python or sys.executable, "-m", Element.__module__]
        return shlex.join([*words, self.store.url, job.wave.array_name(job.place), str(element)])

    def _now(self) -> list[Event]:
        """What waited outside of the queue and need not any more; the engine queues it again."""
        ready = []
        for handle, why in self.later.items():
            stream = self.bundles[handle].steps[0][0]
            alone = self.bundles.keys() == self.later.keys()  # what was to be measured has failed
            measured = alone or self.bundles[handle].kind != "sample" or self.speeds.measured(stream)
            room = self.site.max_submit is None or self.jobs.queued < self.site.max_submit
            if (why == SPEED and measured) or (why == ROOM and room):
                ready.append(handle)
        return [self._over(End(handle, "skipped")) for handle in ready]

    def close(self) -> None:
        """What is queued goes on."""
        self.jobs.close_waves()


def _dependency(name: str, jobs: Mapping[str, Job]) -> str | None:
    """`array` or `array/element` as Slurm names it; None for what is over."""
    array, _, element = name.partition("/")
    job = jobs.get(array)
    if job is None or not job.open or job.id is None:
        return None
    return job.element_id(int(element)) if element else job.id
