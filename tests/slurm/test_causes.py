"""Why an array task ended that left no mark, from what Slurm 22.05 printed and logged in each case on our cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.backends.slurm.commands import Commands
from orchestrator.backends.slurm.log_causes import cause_of, tail_of_all
from orchestrator.backends.slurm.slurm_output import ACCOUNTS, parse_accounts, parse_queue
from tests.slurm.cluster import Cluster, wait
from tests.slurm.configuration import Settings


def ran(*lines: str) -> str:
    """Lines of sacct: id, state, exit code, derived exit code."""
    rows = (line.split() for line in lines)
    made = ["|".join([*row, *[""] * (4 - len(row)), "1", "2", "3", "1", "n1", ""]) for row in rows]
    return "\n".join(["|".join(ACCOUNTS), *made])


def seen(state: str, exit_code: int = 0) -> str:
    return f"1_0|{state}|0|{exit_code}|1|2|3|n1|None|probe|\n"


STEP = "slurmstepd-n1: error: *** STEP 2.0 ON n1 CANCELLED AT 2026-11-23T03:10:11"
JOB = "slurmstepd-n1: error: *** JOB 2 ON n1 CANCELLED AT 2026-11-23T03:10:11"
START = "submitit INFO (2026-11-23 03:09:45,021) - Starting with JobEnvironment(job_id=1_0, hostname=vm)\n"
EXIT = "srun: error: n1: task 0: Exited with exit code"

CASES = {
    "time limit": ("", ran("1_0 TIMEOUT 0:0 0:0", "1_0.0 CANCELLED 0:9"), "", "timeout"),
    "time limit, no sacct": ("", "", f"{JOB} DUE TO TIME LIMIT ***\n", "timeout"),
    "preempted for good": ("", ran("1_0 PREEMPTED 0:0 0:0"), "", "preempted"),
    "preempted, no sacct": ("", "", f"{JOB} DUE TO PREEMPTION ***\n{STEP} DUE TO PREEMPTION ***\n", "preempted"),
    "left at the signal of a preemption": ("", ran("1_0 FAILED 15:0 15:0"), f"{STEP} ***\n{EXIT} 143\n", "preempted"),
    "the same, from squeue": (seen("FAILED", 143 << 8), "", f"{EXIT} 143\n", "preempted"),
    "node failed": ("", ran("1_0 NODE_FAIL 0:0 0:0", "1_0.0 CANCELLED"), "srun: error: Node failure on n1\n", "node"),
    "node failed, no sacct": ("", "", "srun: error: Node failure on n1\n", "node"),
    "no step": ("", ran("1_0 FAILED 1:0"), "srun: error: Unable to create step for job 2: Socket timed out\n", "node"),
    "memory, by cgroup": ("", ran("1_0 OUT_OF_MEMORY 0:125"), "", "host_memory"),
    "memory of a step": ("", ran("1_0 FAILED 1:0", "1_0.0 OUT_OF_MEMORY 0:125"), "", "host_memory"),
    "memory, by accounting": (
        "",
        ran("1_0 FAILED 9:0 0:9", "1_0.0 CANCELLED 0:9"),
        "slurmstepd-n1: error: StepId=9.0 exceeded memory limit (512868352 > 321912832), being killed\n",
        "host_memory",
    ),
    "memory, no sacct": ("", "", "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=9.0.\n", "host_memory"),
    "GPU memory": (
        "",
        ran("1_0 FAILED 1:0"),
        f"torch.OutOfMemoryError: CUDA out of memory.\n{EXIT} 1\n",
        "device_memory",
    ),
    "scancel": (seen("CANCELLED", 15), ran("1_0 CANCELLED 0:0"), f"{JOB} ***\n", "cancelled"),
    "scancel, no sacct": ("", "", f"{JOB} ***\n", "cancelled"),
    "exit code": (seen("FAILED", 3 << 8), "", f"{EXIT} 3\n", "died"),
    "killed": ("", ran("1_0 FAILED 9:0 0:9"), "srun: error: n1: task 0: Killed\n", "died"),
    "completed, but nothing published": (seen("COMPLETED"), ran("1_0 COMPLETED 0:0"), "", "died"),
    "gone without a trace": ("", "", "", "lost"),
    "sacct believes that it runs": ("", ran("1_0 RUNNING 0:0"), "", "lost"),
    "the last of its runs counts": ("", ran("1_0 PREEMPTED 0:0", "1_0.0 OUT_OF_MEMORY", "1_0 FAILED 3:0"), "", "died"),
    "squeue is ahead of sacct": (seen("TIMEOUT"), ran("1_0 RUNNING 0:0"), "", "timeout"),
    "a second run without a word": (seen("FAILED", 9), "", f"{JOB} DUE TO JOB REQUEUE ***\n{STEP} ***\n", "died"),
    "the log of an earlier run": (seen("FAILED", 256), "", f"{JOB} DUE TO PREEMPTION ***\n{START}{EXIT} 1\n", "died"),
}


@pytest.mark.parametrize("case", CASES)
def test_causes(case: str) -> None:
    queue, accounts, log, cause = CASES[case]
    told, reason = cause_of(parse_queue(queue), parse_accounts(accounts or ran()), START + log)
    assert told == cause, reason
    assert reason


def test_what_the_other_processes_say_of_one_that_hangs(tmp_path: Path) -> None:
    words = "process 0 of the training on n1 hangs: no sign of life for 300 s; ending all"
    log = tmp_path / "7_3_0_log.out"
    log.write_text(f"{START}working\nsrun: Force Terminated StepId=7.0\n")
    (tmp_path / "7_3_1_log.out").write_text(f"{START}working\n")
    assert words not in tail_of_all(log)
    (tmp_path / "7_3_2_log.out").write_text(f"{START}{words}\n{START}working\n")  # it hung in an earlier run
    assert words not in tail_of_all(log)
    (tmp_path / "7_3_2_log.out").write_text(f"{START}working\n{words}\n")
    row = parse_accounts(ran("7_3 FAILED 9:0 0:9"))
    assert cause_of((), row, tail_of_all(log)) == ("died", f"it stood still: {words}")


def test_reasons_say_what_slurm_said() -> None:
    def reason(case: str) -> str:
        queue, accounts, log, _ = CASES[case]
        return cause_of(parse_queue(queue), parse_accounts(accounts or ran()), log)[1]

    died = "it ended without an error message (FAILED, exit code 3); the end of its log: "
    assert reason("exit code") == f"{died}{EXIT} 3"
    assert reason("node failed") == "its node failed (NODE_FAIL)"
    assert reason("memory, by accounting") == (
        "it used more memory than it requested: StepId=9.0 exceeded memory limit (512868352 > 321912832), being killed"
    )


def test_real_ends(slurm_with: Callable[[Settings], Cluster]) -> None:
    """With squeue and the log alone, and again with sacct."""
    made = slurm_with(Settings(enforce_memory=True))
    commands = Commands(made.env)
    python = "import os, time; x = bytearray(300_000_000); x[::4096] = b'x' * len(x[::4096]); time.sleep(30)"
    scripts = {
        "died": "srun bash -c 'exit 3'",
        "host_memory": f'srun {sys.executable} -c "{python}"',
        "cancelled": "srun sleep 60",
    }
    ids = {cause: made.submit(script, "--mem=100", f"--job-name={cause}") for cause, script in scripts.items()}
    wait(lambda: made.jobs().get(ids["cancelled"]) == "RUNNING", "it runs")
    commands.cancel([ids["cancelled"]])
    wait(lambda: not made.jobs(), "all have ended")
    rows = commands.queue()
    wait(lambda: len([r for r in commands.accounts(ids.values(), 1) if r.over]) == 3, "sacct knows them")
    runs = commands.accounts(ids.values(), 1, steps=True)
    for cause, job in ids.items():
        log = next(made.folder.glob(f"{job}_*.log")).read_text()
        mine = [row for row in rows if row.id == job]
        for known in ([], [run for run in runs if run.id == job]):
            found, reason = cause_of(mine, known, log)
            assert found == cause, reason
        assert cause_of([], [], log)[0] in (cause, "lost")  # no squeue, no sacct
