"""Submit arrays to Slurm, through submitit."""

from __future__ import annotations

import math
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.backends.slurm.commands import scrubbed
from orchestrator.backends.slurm.executor import executor
from orchestrator.backends.slurm.process import STARTED
from orchestrator.backends.slurm.sbatch import Refused
from orchestrator.backends.slurm.settings import Resources, SlurmSettings
from orchestrator.errors import TransientError
from orchestrator.store.folders import closed_to_others

CANARIES = 3  # array tasks that end before they begin, until the rest of the array is cancelled


def options(
    site: SlurmSettings, name: str, resources: Resources, tasks: int, after: Sequence[str], when: str = "afterany"
) -> dict[str, Any]:
    """submitit's parameters for a job. after: job ids, or `id_index`."""
    more: dict[str, Any] = {"kill-on-invalid-dep": "yes", "requeue": True, "comment": name}  # a site may rename jobs
    if after:
        more["dependency"] = f"{when}:{':'.join(after)}"
    more |= site.gpu_option(resources.gpus, resources.nodes, tasks) | site.memory_option(resources) | site.more_options
    parameters: dict[str, Any] = {
        "name": name,
        "timeout_min": max(1, math.ceil(resources.minutes)),
        "nodes": resources.nodes,
        "tasks_per_node": tasks,
        "cpus_per_task": max(1, resources.cpus // tasks),
        "partition": site.partition_of(resources.gpus),
        "account": site.account,
        "qos": site.qos,
        "exclude": site.exclude,
        "constraint": site.constraint if resources.gpus else None,
        "signal_delay_s": site.signal_s,
        "stderr_to_stdout": True,
        # a process that hangs must not outlive the others, which end by themselves (nag/heartbeat.py)
        "srun_args": ["--kill-on-bad-exit=1"] if tasks * resources.nodes > 1 else None,
        "additional_parameters": more,
    }
    return {key: value for key, value in parameters.items() if value is not None}


def check_options(given: Mapping[str, Any]) -> None:
    """Raise Refused for an option with a line break: the rest of it would become a line of the batch script."""
    for key, value in given.items():
        if isinstance(value, Mapping):
            check_options(value)
        elif isinstance(value, str) and not value.isprintable():
            raise Refused(f"sbatch: {key} is {value[:100]!r}, which cannot be an option of a job")


def queue(
    site: SlurmSettings,
    folder: Path,
    code: Path,
    name: str,
    resources: Resources,
    work: Callable[[int], Any],
    count: int,
    after: Sequence[str] = (),
    avoid: Sequence[str] = (),
    throttle: int = 1,
    tasks: int = 1,
    when: str = "afterany",
) -> str:
    """Queue `work(0)` to `work(count - 1)` as the array tasks of one array. Returns its job id.

    folder: shared with the nodes, for submitit's files and the logs. code: the folder of the packages to run. tasks:
    processes on each node. when: how the jobs in `after` must end (sbatch --dependency). Raises Refused, NoRoom, or
    TransientError if slurmctld does not answer now.
    """
    with closed_to_others():
        folder.mkdir(parents=True, exist_ok=True)
    given = options(site, name, resources, tasks, after, when)
    if avoid:
        given["exclude"] = ",".join(filter(None, [given.get("exclude"), *avoid]))
    check_options(given)
    given["setup"] = [
        *(canary(folder) if count > 1 else ()),
        "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",
        *site.script,
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
    ]
    try:
        with scrubbed(), closed_to_others():  # the job trusts these files
            return _submit(folder, site.command, {**given, "array_parallelism": throttle}, work, count)
    except Refused:
        if avoid:  # perhaps there are no other nodes
            return queue(site, folder, code, name, resources, work, count, after, (), throttle, tasks, when)
        raise
    except OSError as error:
        raise TransientError(f"sbatch refused {name}: {error}") from error


def canary(folder: Path) -> list[str]:
    """Lines of the batch script of an array: once CANARIES array tasks have ended with an error before any of the array
    has begun its work, those that wait are cancelled. Such an error is the site's, and they would all end like that.
    """
    started, ended = (shlex.quote(str(folder / name)) for name in ("started", "unstarted"))
    return [
        f"export {STARTED}={started}",
        "nagbench_ends() {",
        "  nagbench_code=$?",
        f'  if [ "$nagbench_code" -eq 0 ] || [ "$nagbench_code" -gt 127 ] || [ -e {started} ]; then return; fi',
        f'  mkdir -p {ended}; : > {ended}/"$SLURM_ARRAY_TASK_ID"',
        f'  if [ "$(ls {ended} | wc -l)" -ge {CANARIES} ]; then scancel --state=PENDING "$SLURM_ARRAY_JOB_ID"; fi',
        "}",
        "trap nagbench_ends EXIT",
    ]


def _submit(folder: Path, python: str, given: Mapping[str, Any], work: Callable[[int], Any], count: int) -> str:
    if shutil.which("srun") is None:
        raise Refused("there is no srun here; is this a login node of the cluster?")
    made = executor(folder, python)
    made.update_parameters(**made._convert_parameters(dict(given)))
    if count == 1:  # a plain job
        return str(made.submit(work, 0).job_id)
    return str(made.map_array(work, range(count))[0].job_id).partition("_")[0]
