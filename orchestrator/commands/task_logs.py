"""Logs of tasks: one per task for workers of this machine, one per Slurm array task or reconcile job."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.backends.slurm import continuation
from orchestrator.backends.slurm.jobs import jobs_of
from orchestrator.backends.slurm.log_causes import telling_line
from orchestrator.backends.slurm.waves import waves
from orchestrator.execution import engine
from orchestrator.execution.retries import alike
from orchestrator.plan.model import StoredCell, StoredPlan, behind
from orchestrator.plan.progress import Done
from orchestrator.store import folders
from orchestrator.store.store import Store
from orchestrator.tasks.task import Task

FOLLOW_EVERY_S = 0.5


@dataclass(frozen=True)
class Log:
    task: Task | None  # None: of a job that continued the sweep
    path: Path

    @property
    def title(self) -> tuple[str, str]:
        """What kind of work it is, and which."""
        if self.task is None:
            return "reconcile", f"job {self.path.name.partition('_')[0]}"
        return self.task.kind, self.task.digest[:12]

    @property
    def text(self) -> str:
        try:
            return folders.read(str(self.path), follow=False).decode(errors="replace")
        except OSError as error:
            return f"(cannot be read: {error.strerror or error})"

    @property
    def telling(self) -> str:
        """The last line; of a job that continued the sweep the line that says how it ended."""
        return self.last if self.task else telling_line(self.text)

    @property
    def last(self) -> str:
        """The last line that is not empty."""
        lines = [line for line in self.text.splitlines() if line.strip()]
        return lines[-1] if lines else ""


@dataclass(frozen=True)
class Alike:
    """Failed tasks of one kind whose reasons are alike. log: that of the first."""

    tasks: tuple[Task, ...]
    reason: str
    log: Path
    text: str


def failed(plan: StoredPlan, store: Store, cell: StoredCell | None = None) -> list[Alike]:
    """The tasks that were given up, of a plan or of one cell, by what failed alike."""
    done = Done(store)
    wanted = done.attempted & (set(plan.tasks) if cell is None else behind(plan, cell))
    groups: dict[tuple[str, str], list[tuple[Task, dict[str, Any]]]] = {}
    for digest, attempt in engine.failures(plan, done, [each for each in plan.tasks if each in wanted]).items():
        task = plan.tasks[digest]
        groups.setdefault((task.kind, alike(str(attempt["reason"]))), []).append((task, attempt))
    return [_alike(store, group) for group in groups.values()]


def _alike(store: Store, group: list[tuple[Task, dict[str, Any]]]) -> Alike:
    first, attempt = group[0]
    path = Path(str(attempt.get("log") or store.logs / f"{first.digest}.log"))
    text = Log(first, path).text if _is_file(path) else str(attempt.get("traceback") or attempt["reason"])
    return Alike(tuple(task for task, _ in group), str(attempt["reason"]), path, text)


def logs(plan: StoredPlan, store: Store, cell: StoredCell | None = None) -> list[Log]:
    """The logs of the plan's tasks, or of what one cell needs, in the order of the plan."""
    wanted = set(plan.tasks) if cell is None else behind(plan, cell)
    of_tasks = [Log(task, store.logs / f"{digest}.log") for digest, task in plan.tasks.items() if digest in wanted]
    known = [log for log in of_tasks if _is_file(log.path)] + _of_array_tasks(plan, store, wanted)
    return known + (_of_reconcile_jobs(plan, store) if cell is None else [])


def _of_reconcile_jobs(plan: StoredPlan, store: Store) -> list[Log]:
    """The logs of the jobs that continued the sweep, oldest first; all waves of a user have their names in common."""
    of = {continuation.place(wave): wave for wave in waves(store, plan.sweep.name, closed=True)}
    return [Log(None, path) for wave in of.values() for path in continuation.logs(wave) if _is_file(path)]


def _is_file(path: Path) -> bool:
    """Whether this is a regular file: in a shared folder, a link could point anywhere."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False


def _of_array_tasks(plan: StoredPlan, store: Store, wanted: set[str]) -> list[Log]:
    """The logs of Slurm's array tasks, each under the first task that it does."""
    of_array_tasks = []
    for wave in waves(store, plan.sweep.name, closed=True):
        for job in jobs_of(store, wave):
            for index, array_task in enumerate(job.array.tasks):
                digests = [digest for bundle in array_task.bundles for digest, _ in bundle.steps if digest in wanted]
                path = job.log(Path(wave.record["folder"]), index)
                if digests and _is_file(path):
                    of_array_tasks.append(Log(plan.tasks[digests[0]], path))
    return of_array_tasks


def follow(plan: StoredPlan, store: Store, cell: StoredCell | None = None) -> Iterator[tuple[Log, str]]:
    """New lines of the same logs from now on, without end."""
    read = {log.path: log.path.lstat().st_size for log in logs(plan, store, cell)}
    while True:
        for log in logs(plan, store, cell):
            text = b""
            with contextlib.suppress(OSError), open(os.open(log.path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                file.seek(read.get(log.path, 0))
                text = file.read()
            whole, newline, _ = text.rpartition(b"\n")
            read[log.path] = read.get(log.path, 0) + len(whole) + len(newline)
            for line in whole.decode(errors="replace").splitlines():
                yield log, line
        time.sleep(FOLLOW_EVERY_S)
