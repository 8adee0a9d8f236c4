"""The job arrays that any engine queued for a sweep, and which of their array tasks have ended.

State comes from our own marks first, then from squeue and sacct together. A failed query changes nothing; an array task
that squeue does not show is not dead (presence.py); COMPLETED does not prove that the records are there.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.backends.slurm import commands as slurm
from orchestrator.backends.slurm.arrays import Array
from orchestrator.backends.slurm.log_causes import cause_of, tail_of_all
from orchestrator.backends.slurm.owner import is_mine
from orchestrator.backends.slurm.presence import lost_after_s, missing_s, seen
from orchestrator.backends.slurm.reasons import advice
from orchestrator.backends.slurm.slurm_output import OVER, SacctRow, SqueueRow
from orchestrator.backends.slurm.waves import (
    Wave,
    close_wave,
    create_wave,
    newest_marks,
    read_array,
    read_job_id,
    read_or_empty,
    read_stop,
    waves,
)
from orchestrator.errors import CorruptFile, EnvironmentProblem
from orchestrator.store.store import Store
from orchestrator.tasks.context import HeldElsewhere
from orchestrator.tasks.lease import lease

LEASE_S = 300.0  # how long to wait for another engine that is queueing
TOLD_AFTER_S = 3.0  # of waiting for it
SENDING_S = 3.0  # the last sbatch of a killed engine may take this long to arrive
GONE_S = 10.0  # how long Slurm may take to requeue an array task whose run has ended
SACCT_HOURS = 24.0 * 30  # how far back sacct is asked
REQUEUED = ("NODE_FAIL", "PREEMPTED", "REQUEUED")  # states after which Slurm may requeue by itself
UNSTARTED = ("launch failed", "launch_failed")  # Slurm's reasons for holding what it could not start


@dataclass
class ArrayJob:
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
        """Slurm's id of an array task. submitit submits a single one as a plain job."""
        return f"{self.id}_{index}" if len(self.array.tasks) > 1 else str(self.id)

    def log(self, folder: Path, index: int) -> Path:
        """The file to which submitit writes the output of an array task."""
        return folder / self.array.name / f"{self.array_task_id(index)}_0_log.out"

    def digests(self, index: int) -> set[str]:
        return {digest for bundle in self.array.tasks[index].bundles for digest, _ in bundle.steps}


def jobs_of(store: Store, wave: Wave) -> list[ArrayJob]:
    """The job arrays of a wave, with their ids as far as known, and all their array tasks open."""
    jobs = []
    names = [name.removesuffix(".json") for name in store.list(wave.folder)]
    for place in sorted(int(name) for name in names if re.fullmatch("[0-9]{3,9}", name)):
        with contextlib.suppress(CorruptFile):  # its engine was killed before it had written this one
            array, (recorded, job) = read_array(store, wave.array_name(place)), read_job_id(store, wave, place)
            if job is not None or not recorded:
                jobs.append(ArrayJob(wave, place, array, job, set(range(len(array.tasks)))))
    return jobs


@contextlib.contextmanager
def queue_lock(store: Store, note: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Keep other engines from queueing for this store. Raises EnvironmentProblem if one holds the lock for too long.
    note: told who holds it, once this waits.
    """
    began = time.monotonic()
    end, told = began + LEASE_S, False
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(lease(store, "queue"))
                break
            except HeldElsewhere as held_by:
                if held_by.holder and not told and time.monotonic() - began > TOLD_AFTER_S:
                    note(_holder_words(held_by.holder))
                    told = True
                if time.monotonic() > end:
                    raise EnvironmentProblem(f"another nagbench is still queueing for {store.url}") from None
                time.sleep(0.5)
        yield


def _holder_words(holder: Mapping[str, Any]) -> str:
    who = f"process {holder.get('pid', '?')} on {holder.get('host', 'another machine')}"
    left = max(1, round(holder["until"] - time.time()))
    return f"another nagbench ({who}) is queueing for this store; waiting. If it was killed, this goes on in {left} s"


@dataclass(frozen=True)
class EndedArrayTask:
    """An array task that has ended. mark: its own record of the end; without one, cause and reason are from Slurm."""

    job: ArrayJob
    index: int
    mark: dict[str, Any]
    restart: int
    cause: str = ""
    reason: str = ""


class ArrayJobs:
    """The job arrays of a sweep. others: read other sweeps' waves too, which may do tasks that this one needs. writes:
    record the ends that Slurm reports, for other engines; False for commands that only look.
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
        self.known: dict[tuple[str, int, int], ArrayJob] = {}  # (sweep, wave, place of the array) -> job
        self.relied: set[tuple[str, int, int]] = set()  # those of other sweeps that this one needs
        self.rows: dict[str, SqueueRow] = {}  # the last answer of squeue, by id; other sweeps' jobs too
        self.waiting = 0  # jobs and array tasks of this user, of all sweeps, in the last answer of squeue
        self.unsure = False  # whether Slurm could not say, when last asked, how some array task ended
        self.noted: set[str] = set()

    def read(self) -> list[ArrayJob]:
        """Read waves that are not known yet. Returns their job arrays."""
        new = []
        for sweep in self.store.list("waves") if self.others else [self.sweep]:
            for wave in waves(self.store, sweep):
                if wave.key not in self.waves:
                    self.waves[wave.key] = wave
                    new += [self.add(job) for job in jobs_of(self.store, wave)]
        return new

    def settle(self) -> list[ArrayJob]:
        """Read, and recover ids that a killed engine could not record. An array that is not in the queue is given up:
        should it start after all, its array tasks end at once. Call while holding `queue_lock`.
        """
        new = self.read()
        lost = [job for job in new if job.id is None]
        if not lost:
            return new
        time.sleep(SENDING_S)
        others = not all(is_mine(job.wave.record) for job in lost)
        names = {row.name: row.id.partition("_")[0] for row in self.commands.queue(everyone=others)}
        for job in lost:
            starts = newest_marks(self.store, job.wave, "starts").items()
            mark = next((name for (place, _), (_, name) in starts if place == job.place), None)
            job.id = names.get(job.array.name) or (read_or_empty(self.store, mark).get("job") if mark else None)
            if self.writes:
                self.store.create_record(job.wave.job_name(job.place), {"job": job.id})
            if job.id is None:
                del self.known[job.key]
        return [job for job in new if job.id is not None]

    def add(self, job: ArrayJob) -> ArrayJob:
        self.waves[job.wave.key] = job.wave
        self.known[job.key] = job
        return job

    def rely(self, job: ArrayJob, record: Mapping[str, Any]) -> None:
        """Note that this sweep needs a job array of another one. An empty wave keeps `cancel` from ending the array."""
        if job.wave.sweep == self.sweep:
            return
        self.relied.add(job.key)
        if not any(wave.sweep == self.sweep for wave in self.waves.values()):
            wave = create_wave(self.store, self.sweep, {**record, "arrays": 0})
            self.waves[wave.key] = wave

    def forget(self, wave: Wave) -> None:
        """Drop a wave that is closed."""
        self.waves.pop(wave.key, None)
        for key in [key for key in self.known if key[:2] == wave.key]:
            del self.known[key]

    def mine(self) -> list[ArrayJob]:
        """The job arrays that were queued for this sweep; other sweeps' arrays may do some of its tasks."""
        return [job for job in self.known.values() if job.wave.sweep == self.sweep]

    def of_others(self) -> list[str]:
        """The open array tasks of other users, or on other clusters: they are waited for, and never cancelled."""
        left: Counter[str] = Counter()
        for job in self.known.values():
            record = job.wave.record
            if not is_mine(record):
                left[f"by {record.get('owner')}"] += len(job.open)
            elif self.is_elsewhere(job.wave):
                left[f"on cluster {record['cluster']}"] += len(job.open)
        return [f"{count} array tasks were queued {whose}" for whose, count in left.items() if count]

    def dependencies(self, names: Iterable[str]) -> list[str]:
        """Slurm's ids of `array` and `array/index`, without those that have ended."""
        by_name = {job.array.name: job for job in self.known.values()}
        ids = []
        for array, _, index in (name.partition("/") for name in names):
            job = by_name.get(array)
            if job is not None and job.open and job.id is not None and not self.is_elsewhere(job.wave):
                ids.append(job.array_task_id(int(index)) if index else job.id)
        return ids

    def ended(self) -> list[EndedArrayTask]:
        """Array tasks that have ended since the last call. Raises QueryFailed if squeue fails."""
        self.unsure = True
        rows = self.rows = self._queue()
        ended: list[EndedArrayTask] = []
        unclear: list[tuple[ArrayJob, int, int, dict[str, Any]]] = []
        marks: dict[tuple[str, int], Any] = {}
        for job in self.known.values():
            if job.id is None:
                continue
            away = self.is_elsewhere(job.wave)
            if job.open and job.wave.key not in marks:
                marks[job.wave.key] = [newest_marks(self.store, job.wave, kind) for kind in ("starts", "ends")]
            for index in sorted(job.open):
                row = None if away else rows.get(job.array_task_id(index))
                if row is not None and not row.over:
                    job.gone.pop(index, None)
                    ended += self._stuck(job, index, row)
                    continue
                start, end = (kind.get((job.place, index), (-1, "")) for kind in marks[job.wave.key])
                mark = read_or_empty(self.store, end[1]) if end[0] >= start[0] and end[1] else {}
                if mark:
                    ended.append(
                        EndedArrayTask(job, index, mark, end[0], mark.get("cause", ""), mark.get("reason", ""))
                    )
                elif not away:
                    restart = max(start[0], row.restarts if row else 0)
                    unclear.append((job, index, restart, read_or_empty(self.store, start[1]) if start[1] else {}))
        ended += self._ask_slurm(unclear, rows)
        for each in ended:
            each.job.open.discard(each.index)
        return ended

    def _queue(self) -> dict[str, SqueueRow]:
        """The rows of squeue by id: this user's jobs, and those that other users queued for what is open here."""
        mine = self.commands.queue()
        self.waiting = sum(not row.over for row in mine)
        theirs = {str(job.id) for job in self.known.values() if job.open and job.id and self._is_anothers(job.wave)}
        return {row.id: row for row in (*(self.commands.queue(theirs) if theirs else ()), *mine)}

    def _is_anothers(self, wave: Wave) -> bool:
        return not is_mine(wave.record) and not self.is_elsewhere(wave)

    def is_elsewhere(self, wave: Wave) -> bool:
        """Whether a wave was queued on another cluster, whose Slurm cannot be asked: its records tell how it ends."""
        known = wave.record.get("cluster")
        if not known or wave.record.get("host") == platform.node():
            return False
        return self.commands.cluster() not in ("", known)

    def _stuck(self, job: ArrayJob, index: int, row: SqueueRow) -> list[EndedArrayTask]:
        """Handle a job that will never start. What Slurm could not start is cancelled, and so queued again; other
        reasons are reported to the user.
        """
        if not row.stuck:
            return []
        if row.reason.startswith(UNSTARTED) and is_mine(job.wave.record):
            if self.writes:
                self.commands.cancel([row.id])
            return [EndedArrayTask(job, index, {}, row.restarts, "node", f"Slurm could not start it: {row.reason}")]
        fix = advice(row.reason, job.array.kind, str(job.id))
        self._note(f"job {job.id} ({job.array.kind}) will not start by itself: {row.reason}{f'; {fix}' if fix else ''}")
        return []

    def _ask_slurm(
        self, unclear: Sequence[tuple[ArrayJob, int, int, dict[str, Any]]], rows: dict[str, SqueueRow]
    ) -> list[EndedArrayTask]:
        """Ask Slurm how array tasks ended that left no mark. Those that may be alive are left out."""
        self.unsure = False
        if not unclear:
            return []
        answered, runs = True, []
        try:
            runs = self.commands.accounts({str(job.id) for job, *_ in unclear}, SACCT_HOURS, steps=True)
        except slurm.Unsupported:
            pass
        except slurm.QueryFailed as error:  # squeue may know enough
            self.note(f"{error}; asking again later")
            answered = False
        runs_by_id: dict[str, list[SacctRow]] = {}
        for run in runs:
            runs_by_id.setdefault(run.id, []).append(run)
        ended = []
        told: dict[str, dict[str, str] | None] = {}  # answers of slurmctld, by job
        for job, index, restart, start in unclear:
            name = job.array_task_id(index)
            in_squeue, in_sacct = [rows[name]] if name in rows else [], runs_by_id.get(name, [])
            last = [run for run in in_sacct if not run.step][-1:]
            ends: list[SqueueRow | SacctRow] = [*(run for run in last if run.over), *in_squeue]
            cancelled = self.cancelled_at(job, index)
            sure = ends and ends[-1].state not in REQUEUED
            if not cancelled and not sure and not (answered and self._is_gone(job, index, restart, bool(ends), told)):
                self.unsure = True
                continue
            log = job.log(Path(job.wave.record["folder"]), index)
            cause, reason = cause_of(in_squeue, in_sacct, tail_of_all(log))
            if any(row.state == "FAILED" for row in ends) and not start and not os.path.lexists(log):
                cause, reason = "environment", f"{ends[-1].nodes} could not run it, and wrote no log: {log.parent}"
            nodes = [row.nodes for row in ends if row.nodes]
            mark = {"host": nodes[-1] if nodes else "", **start, "outcome": "ended", "cause": cause, "reason": reason}
            mark["time"] = cancelled or max((row.end for row in ends if row.end), default=time.time())
            if self.writes:  # for the ledger, and for later, when Slurm has forgotten the job
                self.store.create_record(job.wave.mark("ends", job.place, index, restart), mark)
            ended.append(EndedArrayTask(job, index, mark, restart, cause, reason))
        return ended

    def _is_gone(
        self, job: ArrayJob, index: int, restart: int, ended: bool, told: dict[str, dict[str, str] | None]
    ) -> bool:
        """Whether an array task that is not in the queue is over. ended: whether a run of it is, which Slurm may follow
        with another one.
        """
        number = str(job.id)
        if number not in told:
            told[number] = self.commands.known(number)
        if (states := told[number]) is None:
            return False
        state, key = states.get(job.array_task_id(index)), (job.place, index, restart)
        if state is not None and state not in OVER:
            job.gone.pop(index, None)
            if self.writes:
                seen(self.store, job.wave, *key)
            return False
        if ended or state is not None:
            return time.monotonic() - job.gone.setdefault(index, time.monotonic()) >= GONE_S
        if self._is_anothers(job.wave) and self.commands.hides_others():
            whose = f"job {number} is {job.wave.record.get('owner')}'s"
            self._note(f"{whose}, and Slurm shows you only your own jobs; waiting for its results")
            return False
        missing = missing_s(self.store, job.wave, *key, self.writes)
        if missing < lost_after_s(job.wave):
            self._note(
                f"job {number}: Slurm does not show some of its array tasks; they count as lost after "
                f"{lost_after_s(job.wave):g} s"
            )
        return missing >= lost_after_s(job.wave)

    def _note(self, message: str) -> None:
        if message not in self.noted:
            self.noted.add(message)
            self.note(message)

    def cancelled_at(self, job: ArrayJob, index: int) -> float | None:
        """When the user cancelled this array task, or None."""
        stop = read_stop(self.store, job.wave)
        return stop.time if stop is not None and stop.covers(job.digests(index)) else None

    def close_waves(self) -> None:
        """Close the waves of this sweep whose ends have all been processed; they are not read again."""
        left = {job.key for job in self.known.values() if job.open}
        busy = {key[:2] for key in left}
        for wave in list(self.waves.values()):
            needed = wave.record["arrays"] == 0 and left & self.relied
            if wave.sweep == self.sweep and wave.key not in busy and not needed:
                close_wave(self.store, wave)
                self.forget(wave)
