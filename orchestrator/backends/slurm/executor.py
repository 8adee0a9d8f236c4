"""submitit's executor for Slurm, with our own call of sbatch."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.backends.slurm.sbatch import sbatch


def executor(folder: Path, python: str) -> Any:
    """An executor for one submission: a job, or the array tasks of one array. Imports submitit.

    folder: for its files and the logs. python: shell words that call Python on a node.
    """
    from submitit import SlurmJob
    from submitit.core.utils import DelayedSubmission, JobPaths
    from submitit.slurm.slurm import SlurmExecutor

    class Executor(SlurmExecutor):
        def _submit_command(self, command: str) -> SlurmJob[Any]:
            script = JobPaths.get_first_id_independent_folder(self.folder) / f"submission-{uuid.uuid4().hex}.sh"
            script.write_text(self._make_submission_file_text(command, ""))
            clusters = self.parameters["additional_parameters"].get("clusters")
            number = sbatch(script, self.parameters["job_name"], clusters)
            job: SlurmJob[Any] = SlurmJob(folder=self.folder, job_id=number, tasks=list(range(self._num_tasks())))
            job.paths.move_temporary_file(script, "submission_file")
            return job

        def _internal_process_submissions(self, delayed_submissions: Sequence[DelayedSubmission]) -> list[Any]:
            """Submit an array. (The inherited method would make an executor of its own for it.)"""
            if len(delayed_submissions) == 1:
                return super()._internal_process_submissions(list(delayed_submissions))
            place = JobPaths.get_first_id_independent_folder(self.folder)
            place.mkdir(parents=True, exist_ok=True)
            pickles = [place / f"{uuid.uuid4().hex}.pkl" for _ in delayed_submissions]
            for delayed, path in zip(delayed_submissions, pickles, strict=True):
                delayed.set_timeout(self.parameters["time"], self.max_num_timeout)
                delayed.dump(path)
            self.parameters["map_count"] = len(pickles)
            whole = self._submit_command(self._submitit_command_str)
            tasks = list(range(self._num_tasks()))
            names = [f"{whole.job_id}_{number}" for number in range(len(pickles))]
            jobs: list[SlurmJob[Any]] = [SlurmJob(folder=self.folder, job_id=name, tasks=tasks) for name in names]
            for job, path in zip(jobs, pickles, strict=True):
                job.paths.move_temporary_file(path, "submitted_pickle")
            return jobs

    return Executor(folder, max_num_timeout=1000, python=python)
