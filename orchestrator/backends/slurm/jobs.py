"""The arrays that were queued for a sweep, by this engine or another one, and which of their array tasks are over.

State comes from our own marks first, then from squeue and sacct together. A failed query changes nothing; an array task
that Slurm does not know yet is not dead; what Slurm calls completed proves nothing about records.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.backends.slurm import commands as slurm
from orchestrator.backends.slurm.arrays import Array
from orchestrator.backends.slurm.log_causes import cause_of, tail
from orchestrator.backends.slurm.slurm_output import Job as Row
from orchestrator.backends.slurm.slurm_output import Run
from orchestrator.backends.slurm.waves import Wave, begin, close, newest_marks, read_array, read_job, stopped, waves
from orchestrator.errors import CorruptFile, EnvironmentProblem
from orchestrator.store.store import Store
from orchestrator.tasks.context import Held
from orchestrator.tasks.lease import lease

LEASE_S = 300.0  # how long another engine may be queueing
SENDING_S = 3.0  # after an engine was killed its last sbatch may still be on its way
GONE_S = 10.0  # how long Slurm may not know what became of an array task that is gone
HOURS = 24.0 * 30  # how far back sacct is asked
BEGUN_AGAIN = ("NODE_FAIL", "PREEMPTED", "REQUEUED")  # states after which Slurm may do so by itself
UNSTARTED = ("launch failed", "launch_failed")  # reasons of Slurm's for holding what it could not start


@dataclass
class Job:
    """A job array that was queued. open: indices of the array tasks whose end no engine has processed. id: None while
    its engine submits it, and if that engine was killed before it recorded the id.
    """

    wave: Wave
    place: int
    array: Array
    id: str | None
    open: set[int] = field(default_factory=set)
    gone: dict[int, float] = field(default_factory=dict)  # index -> when it was first missed

    @property
    def key(self) -> tuple[str, int, int]:
        return *self.wave.key, self.place

    def array_task_id(self, index: int) -> str:
        """As Slurm names it; an array of one is no array."""
        return f"{self.id}_{index}" if len(self.array.tasks) > 1 else str(self.id)

    def log(self, folder: Path, index: int) -> Path:
        """Where submitit has the output of an array task."""
        return folder / self.array.name / f"{self.array_task_id(index)}_0_log.out"

    def digests(self, index: int) -> set[str]:
        return {digest for bundle in self.array.tasks[index].bundles for digest, _ in bundle.steps}


def jobs_of(store: Store, wave: Wave) -> list[Job]:
    """The arrays of a wave, with their ids as far as they are known; all their array tasks are open."""
    found = []
    names = [name.removesuffix(".json") for name in store.list(wave.folder)]
    for place in sorted(int(name) for name in names if re.fullmatch("[0-9]{3,9}", name)):
        with contextlib.suppress(CorruptFile):  # who began the wave was killed before he had written this one
            array, (sent, job) = read_array(store, wave.array_name(place)), read_job(store, wave, place)
            if job is not None or not sent:
                found.append(Job(wave, place, array, job, set(range(len(array.tasks)))))
    return found


@contextlib.contextmanager
def alone(store: Store) -> Iterator[None]:
    """While it lasts, no other engine queues for this store. Raises EnvironmentProblem if one goes on and on."""
    end = time.monotonic() + LEASE_S
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(lease(store, "queue"))
                break
            except Held:
                if time.monotonic() > end:
                    raise EnvironmentProblem(f"another nagbench is still queueing for {store.url}") from None
                time.sleep(0.5)
        yield


@dataclass(frozen=True)
class Over:
    """An array task that has ended. mark: its own record of the end; without one, cause and reason are from Slurm."""

    job: Job
    index: int
    mark: dict[str, Any]
    restart: int
    cause: str = ""
    reason: str = ""


class Jobs:
    """sweep: whose waves are read; those of others too if `others`, since they may do what this one needs. writes:
    whether what is found out about jobs is written down for others; not for who only looks.
    """

    def __init__(
        self,
        store: Store,
        sweep: str,
        commands: slurm.Commands,
        note: Callable[[str], None] = lambda text: None,
        others: bool = False,
        writes: bool = True,
    ) -> None:
        self.store, self.sweep, self.commands, self.note = store, sweep, commands, note
        self.others, self.writes = others, writes
        self.waves: dict[tuple[str, int], Wave] = {}
        self.known: dict[tuple[str, int, int], Job] = {}  # (sweep, wave, place of the array) -> job
        self.relied: set[tuple[str, int, int]] = set()  # those of other sweeps that this one needs
        self.rows: dict[str, Row] = {}  # the queue at the last look, by id; other sweeps' jobs too
        self.unsure = False  # whether Slurm did not know, at the last look, what became of an array task
        self.told: set[str] = set()

    def read(self) -> list[Job]:
        """Take in the waves that are not known yet; their jobs."""
        new = []
        for sweep in self.store.list("waves") if self.others else [self.sweep]:
            for wave in waves(self.store, sweep):
                if wave.key not in self.waves:
                    self.waves[wave.key] = wave
                    new += [self.add(job) for job in jobs_of(self.store, wave)]
        return new

    def settle(self) -> list[Job]:
        """Read, and find the ids that engines which were killed could not write down. What they did not hand over is
        given up: an array task of it that comes up nevertheless ends at once. For who is `alone`.
        """
        new = self.read()
        lost = [job for job in new if job.id is None]
        if not lost:
            return new
        time.sleep(SENDING_S)
        names = {row.name: row.id.partition("_")[0] for row in self.commands.queue()}
        for job in lost:
            begun = newest_marks(self.store, job.wave, "starts").items()
            mark = next((name for (place, _), (_, name) in begun if place == job.place), None)
            job.id = names.get(job.array.name) or (self._mark(mark).get("job") if mark else None)
            self.store.create_record(job.wave.job_name(job.place), {"job": job.id})
            if job.id is None:
                del self.known[job.key]
        return [job for job in new if job.id is not None]

    def add(self, job: Job) -> Job:
        self.waves[job.wave.key] = job.wave
        self.known[job.key] = job
        return job

    def rely(self, job: Job, record: Mapping[str, Any]) -> None:
        """Another sweep's array does what this one needs: a wave without arrays says so, to who would cancel it."""
        if job.wave.sweep == self.sweep:
            return
        self.relied.add(job.key)
        if not any(wave.sweep == self.sweep for wave in self.waves.values()):
            wave = begin(self.store, self.sweep, {**record, "arrays": 0})
            self.waves[wave.key] = wave

    def forget(self, wave: Wave) -> None:
        """A wave that is closed."""
        self.waves.pop(wave.key, None)
        for key in [key for key in self.known if key[:2] == wave.key]:
            del self.known[key]

    def mine(self) -> list[Job]:
        """The arrays that were queued for this sweep; others may do some of its tasks."""
        return [job for job in self.known.values() if job.wave.sweep == self.sweep]

    @property
    def waiting(self) -> int:
        """How many jobs and array tasks, of all sweeps, were in the queue at the last look."""
        return sum(not row.over for row in self.rows.values())

    def by_name(self) -> dict[str, Job]:
        return {job.array.name: job for job in self.known.values()}

    def over(self) -> list[Over]:
        """Array tasks that have ended since the last look. Raises QueryFailed where squeue cannot be asked."""
        self.unsure = True
        rows = self.rows = {row.id: row for row in self.commands.queue()}
        found: list[Over] = []
        unclear: list[tuple[Job, int, int, dict[str, Any]]] = []
        marks: dict[tuple[str, int], Any] = {}
        for job in self.known.values():
            if job.id is None:
                continue
            if job.open and job.wave.key not in marks:
                marks[job.wave.key] = [newest_marks(self.store, job.wave, kind) for kind in ("starts", "ends")]
            for index in sorted(job.open):
                row = rows.get(job.array_task_id(index))
                if row is not None and not row.over:
                    job.gone.pop(index, None)
                    found += self._stuck(job, index, row)
                    continue
                start, end = (kind.get((job.place, index), (-1, "")) for kind in marks[job.wave.key])
                mark = self._mark(end[1]) if end[0] >= start[0] and end[1] else {}
                if mark:
                    found.append(Over(job, index, mark, end[0], mark.get("cause", ""), mark.get("reason", "")))
                else:
                    restart = max(start[0], row.restarts if row else 0)
                    unclear.append((job, index, restart, self._mark(start[1]) if start[1] else {}))
        found += self._asked(unclear, rows)
        for over in found:
            over.job.open.discard(over.index)
        return found

    def _mark(self, name: str) -> dict[str, Any]:
        with contextlib.suppress(CorruptFile):
            return self.store.read_record(name, repair=False)
        return {}

    def _stuck(self, job: Job, index: int, row: Row) -> list[Over]:
        """What waits for ever: ended, if Slurm could not start it, so that it is queued anew; else a person is told."""
        if not row.stuck:
            return []
        if row.reason.startswith(UNSTARTED):
            if self.writes:
                self.commands.cancel([row.id])
            return [Over(job, index, {}, row.restarts, "node", f"Slurm could not start it: {row.reason}")]
        words = f"job {job.id} ({job.array.kind}) waits for what will not come by itself: {row.reason}"
        if words not in self.told:
            self.told.add(words)
            self.note(words)
        return []

    def _asked(self, unclear: Sequence[tuple[Job, int, int, dict[str, Any]]], rows: dict[str, Row]) -> list[Over]:
        """Ask Slurm how array tasks ended that left no mark. One that Slurm does not know yet, or may requeue, is left
        out until it has been missing for GONE_S.
        """
        self.unsure = False
        if not unclear:
            return []
        asked, runs = True, []
        try:
            runs = self.commands.accounts({str(job.id) for job, *_ in unclear}, HOURS, steps=True)
        except slurm.Absent:
            pass
        except slurm.QueryFailed as error:  # squeue may know enough
            self.note(f"{error}; asking again later")
            asked = False
        of: dict[str, list[Run]] = {}
        for run in runs:
            of.setdefault(run.id, []).append(run)
        found = []
        for job, index, restart, start in unclear:
            name = job.array_task_id(index)
            seen, ran = [rows[name]] if name in rows else [], of.get(name, [])
            last = [run for run in ran if not run.step][-1:]
            said: list[Row | Run] = [*(run for run in last if run.over), *seen]
            ended, first = self.ended(job, index), job.gone.setdefault(index, time.monotonic())
            sure = said and said[-1].state not in BEGUN_AGAIN
            if not ended and not sure and (not asked or time.monotonic() - first < GONE_S):
                self.unsure = True
                continue
            log = job.log(Path(job.wave.record["folder"]), index)
            cause, reason = cause_of(seen, ran, tail(log))
            if any(row.state == "FAILED" for row in said) and not start and not os.path.lexists(log):
                cause, reason = "environment", f"{said[-1].nodes} could not run it, and wrote no log: {log.parent}"
            nodes = [row.nodes for row in said if row.nodes]
            mark = {"host": nodes[-1] if nodes else "", **start, "outcome": "ended", "cause": cause, "reason": reason}
            mark["time"] = ended or max((row.end for row in said if row.end), default=time.time())
            if self.writes:  # for the ledger, and for whoever asks after Slurm has forgotten
                self.store.create_record(job.wave.mark("ends", job.place, index, restart), mark)
            found.append(Over(job, index, mark, restart, cause, reason))
        return found

    def ended(self, job: Job, index: int) -> float | None:
        """When the user ended this array task, if he did."""
        stop = stopped(self.store, job.wave)
        return stop.time if stop is not None and stop.covers(job.digests(index)) else None

    def close_waves(self) -> None:
        """A wave of this sweep of which every end has been taken in need not be read again."""
        left = {job.key for job in self.known.values() if job.open}
        busy = {key[:2] for key in left}
        for wave in list(self.waves.values()):
            needed = wave.record["arrays"] == 0 and left & self.relied
            if wave.sweep == self.sweep and wave.key not in busy and not needed:
                close(self.store, wave)
                self.forget(wave)
