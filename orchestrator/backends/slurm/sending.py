"""Send the arrays of a wave to Slurm, and take them back."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.backends.slurm.array_task import RunArrayTask
from orchestrator.backends.slurm.arrays import Array
from orchestrator.backends.slurm.jobs import ArrayJob, ArrayJobs
from orchestrator.backends.slurm.queueing import queue
from orchestrator.backends.slurm.rerun_command import rerun_command
from orchestrator.backends.slurm.settings import SlurmSettings
from orchestrator.backends.slurm.waves import Wave, close_wave, read_job_id, record_stop, write_array
from orchestrator.errors import EnvironmentProblem
from orchestrator.tasks.task import kind_of


class Overtaken(EnvironmentProblem):
    """Another engine took this one for dead and gave up what it was about to queue."""


@dataclass(frozen=True)
class Sender:
    """plan: the checksum of the plan. options: passed to the array tasks. The rest is as for Slurm."""

    jobs: ArrayJobs
    site: SlurmSettings
    folder: Path
    code: Path
    plan: str
    options: Mapping[str, Any]

    def send(self, wave: Wave, arrays: Sequence[Array]) -> Iterator[ArrayJob]:
        """Queue the arrays of a wave one by one; each has its id recorded."""
        for place, array in enumerate(arrays):
            write_array(self.jobs.store, wave, place, array)
        for place, array in enumerate(arrays):
            job = ArrayJob(wave, place, array, None, set(range(len(array.tasks))))
            job.id = self._queue(job)
            yield job
            self._record_id(job)
            self.jobs.add(job)

    def _queue(self, job: ArrayJob) -> str:
        array, needs = job.array, job.array.resources
        after = self.jobs.dependencies(array.after)
        together = kind_of(array.kind).distributed
        tasks = max(1, needs.gpus) if together else 1  # processes on each node, one per GPU
        folder, count = self.folder / array.name, len(array.tasks)
        options = {**self.options, "folder": str(self.folder), "command": self.command}
        options |= {"group": together and tasks * needs.nodes > 1}
        remote = RunArrayTask(self.jobs.store.url, job.wave.sweep, job.wave.number, job.place, self.plan, options)
        return queue(
            self.site, folder, self.code, array.name, needs, remote, count, after, array.avoid, array.throttle, tasks
        )

    def _record_id(self, job: ArrayJob) -> None:
        """Record the id of a job, unless another engine has taken this one for dead."""
        store = self.jobs.store
        if store.create_record(job.wave.job_name(job.place), {"job": job.id}):
            return
        if read_job_id(store, job.wave, job.place)[1] != job.id:
            self.jobs.commands.cancel([str(job.id)])
            raise Overtaken("this process was suspended for so long that another nagbench has taken over")

    def give_up(self, wave: Wave, count: int) -> None:
        """Record which of the `count` arrays of a wave were not queued, and close it if none was."""
        for place in range(count):
            self.jobs.store.create_record(wave.job_name(place), {"job": None})  # unless it has one
        if not any(job.wave is wave for job in self.jobs.known.values()):
            close_wave(self.jobs.store, wave)

    def withdraw(self, wave: Wave) -> None:
        """Cancel what is queued of a wave, and close it: nothing stays half queued."""
        commands, store = self.jobs.commands, self.jobs.store
        with contextlib.suppress(EnvironmentProblem):
            rows = [row for row in commands.queue() if row.name.startswith(wave.record["stem"])]
            known = [str(job.id) for job in self.jobs.known.values() if job.wave.key == wave.key]
            commands.cancel([*known, *(row.id.partition("_")[0] for row in rows)])
            store.create_record(f"{wave.folder}/withdrawn.json", {"time": round(time.time(), 3)})
            record_stop(store, wave, None)
            close_wave(store, wave)
        self.jobs.forget(wave)

    @property
    def command(self) -> str:
        """Shell words that call Python on a node, with the code of the sweep."""
        return f"env PYTHONPATH={shlex.quote(str(self.code))} {self.site.command}"

    def rerun_command(self, job: ArrayJob, index: int) -> str:
        """The command that runs an array task by hand, if it does tasks of this plan: others were not checked here."""
        if any(bundle.plan != self.plan for bundle in job.array.tasks[index].bundles):
            return ""
        array = job.wave.array_name(job.place)
        return rerun_command(self.command, self.jobs.store.url, array, index, self.plan, self.options)
