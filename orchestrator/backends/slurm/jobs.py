"""The arrays that were queued for a sweep, by this engine or another one, and which of their elements are over.

State comes from our own marks first, then from squeue and sacct together. A failed query changes nothing; an element
that Slurm does not know yet is not dead; what Slurm calls completed proves nothing about records.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.backends.slurm import commands as slurm
from orchestrator.backends.slurm.answers import Job as Row
from orchestrator.backends.slurm.answers import Run
from orchestrator.backends.slurm.arrays import Array
from orchestrator.backends.slurm.causes import cause_of
from orchestrator.backends.slurm.waves import Wave, newest_marks, read_array, waves
from orchestrator.errors import CorruptFile
from orchestrator.store import Store

UNSENT_S = 90.0  # after this a wave without a job was never handed over
GONE_S = 20.0  # how long Slurm may not know what became of an element that is gone
HOURS = 24.0 * 30  # how far back sacct is asked


@dataclass
class Job:
    """An array that was queued. `open`: elements whose end nobody has taken in."""

    wave: Wave
    place: int
    array: Array
    id: str | None
    open: set[int] = field(default_factory=set)
    gone: dict[int, float] = field(default_factory=dict)  # element -> when it was first missed

    def element_id(self, element: int) -> str:
        """As Slurm names it; an array of one is no array."""
        return f"{self.id}_{element}" if len(self.array.elements) > 1 else str(self.id)

    def log(self, folder: Path, element: int) -> Path:
        """Where submitit has the output of an element."""
        return folder / self.array.name / f"{self.element_id(element)}_0_log.out"


def jobs_of(store: Store, wave: Wave) -> list[Job]:
    """The arrays of a wave, with their ids as far as they are known; all their elements are open."""
    found = []
    for place in range(wave.record["arrays"]):
        with contextlib.suppress(CorruptFile):  # who began the wave died before he had written this one
            array, job = read_array(store, wave.array_name(place)), None
            with contextlib.suppress(CorruptFile):
                job = store.read_record(wave.job_name(place), repair=False)["job"]
            found.append(Job(wave, place, array, job, set(range(len(array.elements)))))
    return found


@dataclass(frozen=True)
class Over:
    """An element that has ended. `mark` is what it said of its end itself; else `cause` and `reason` are from Slurm."""

    job: Job
    element: int
    mark: dict[str, Any]
    restart: int
    cause: str = ""
    reason: str = ""


class Jobs:
    def __init__(
        self, store: Store, sweep: str, folder: Path, commands: slurm.Commands, note: Callable[[str], None]
    ) -> None:
        self.store, self.sweep, self.folder, self.commands, self.note = store, sweep, folder, commands, note
        self.known: dict[tuple[int, int], Job] = {}  # (wave, place of the array) -> job
        self.queued = 0  # elements in the queue at the last look

    def read(self) -> list[Job]:
        """Take in the waves that are not known yet; their jobs."""
        new = []
        seen = {number for number, _ in self.known}
        for wave in waves(self.store, self.sweep):
            new += [self.add(job) for job in (() if wave.number in seen else jobs_of(self.store, wave))]
        return new

    def add(self, job: Job) -> Job:
        self.known[job.wave.number, job.place] = job
        return job

    def by_name(self) -> dict[str, Job]:
        return {job.array.name: job for job in self.known.values()}

    def over(self) -> list[Over]:
        """Elements that have ended since the last look. Raises QueryFailed where squeue cannot be asked."""
        rows = self.commands.queue()
        alive = {row.id for row in rows if not row.over}
        self.queued = len(alive)
        names = {row.name: row.id.partition("_")[0] for row in rows}
        for job in self.known.values():
            if job.id is None and job.array.name in names:  # its engine died before it could write this down
                job.id = names[job.array.name]
                self.store.create_record(job.wave.job_name(job.place), {"job": job.id})
        found: list[Over] = []
        unclear: list[tuple[Job, int, int, dict[str, Any]]] = []
        marks: dict[int, Any] = {}
        for job in self.known.values():
            if job.open and job.wave.number not in marks:
                marks[job.wave.number] = [newest_marks(self.store, job.wave, kind) for kind in ("starts", "ends")]
            for element in sorted(job.open):
                if job.id is not None and job.element_id(element) in alive:
                    job.gone.pop(element, None)
                    continue
                if job.id is None and time.time() - job.wave.record["time"] < UNSENT_S:
                    continue
                start, end = (kind.get((job.place, element), (-1, "")) for kind in marks[job.wave.number])
                mark = self._mark(end[1]) if end[0] >= start[0] and end[1] else {}
                if mark:
                    found.append(Over(job, element, mark, end[0]))
                else:
                    unclear.append((job, element, max(start[0], 0), self._mark(start[1]) if start[1] else {}))
        found += self._asked(unclear, rows)
        for over in found:
            over.job.open.discard(over.element)
        return found

    def _mark(self, name: str) -> dict[str, Any]:
        with contextlib.suppress(CorruptFile):
            return self.store.read_record(name, repair=False)
        return {}

    def _asked(self, unclear: Sequence[tuple[Job, int, int, dict[str, Any]]], rows: Sequence[Row]) -> list[Over]:
        """What Slurm says of elements that left no mark of their end. Those of which it says nothing yet are left out,
        until they have been gone for long.
        """
        if not unclear:
            return []
        try:
            runs = self.commands.accounts({job.id for job, *_ in unclear if job.id is not None}, HOURS, steps=True)
        except slurm.Absent:
            runs = []
        except slurm.QueryFailed as error:
            self.note(f"{error}; asking again later")
            return []
        found = []
        for job, element, restart, start in unclear:
            name = job.element_id(element)
            seen = [row for row in rows if job.id is not None and row.id == name]
            ran = [run for run in runs if job.id is not None and run.id == name]
            said: list[Row | Run] = [*(row for row in seen if row.over), *(run for run in ran if run.over)]
            if not said and time.monotonic() - job.gone.setdefault(element, time.monotonic()) < GONE_S:
                continue
            cause, reason = cause_of(seen, ran, self._tail(job, element))
            ends = [row.end for row in said if row.end]
            nodes = [row.nodes for row in said if row.nodes]
            told = {"host": nodes[-1] if nodes else "", "time": max(ends, default=time.time()), **start}
            told["time"] = max(ends, default=time.time())
            found.append(Over(job, element, told, restart, cause, reason))
        return found

    def _tail(self, job: Job, element: int) -> str:
        with contextlib.suppress(OSError), job.log(self.folder, element).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 8000))
            return file.read().decode(errors="replace")
        return ""

    def stopped(self, wave: Wave) -> frozenset[str] | None:
        """The tasks of a wave that the user has ended; None for all of them."""
        with contextlib.suppress(CorruptFile):
            only = self.store.read_record(f"{wave.folder}/stop.json", repair=False)["only"]
            return None if only is None else frozenset(only)
        return frozenset()

    def close_waves(self) -> None:
        """A wave of which every end has been taken in need not be read again."""
        for number in {number for number, _ in self.known}:
            jobs = [job for job in self.known.values() if job.wave.number == number]
            if not any(job.open for job in jobs):
                self.store.create_record(f"{jobs[0].wave.folder}/closed.json", {"time": round(time.time(), 3)})
                for job in jobs:
                    del self.known[number, job.place]
