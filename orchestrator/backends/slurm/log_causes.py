"""Why an array task without an end mark ended: from squeue, sacct, and the end of its log.

Slurm's state alone is not enough: a step may run out of memory in a job that FAILED, a COMPLETED job may have published
nothing, and without sacct there is only the log, into which slurmstepd and srun write too.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from orchestrator.backends.slurm.slurm_output import SacctRow, SqueueRow
from orchestrator.execution.failure_causes import cause_in

STARTED = "Starting with JobEnvironment"  # submitit's first words at each start of an array task
TAIL_BYTES, LINES = 16_000, 200  # how much of the log is read

STATES = {
    "TIMEOUT": ("timeout", "it reached its time limit"),
    "DEADLINE": ("timeout", "its deadline came"),
    "PREEMPTED": ("preempted", "it was preempted"),
    "NODE_FAIL": ("node", "its node failed"),
    "BOOT_FAIL": ("node", "its node did not boot"),
    "LAUNCH_FAILED": ("node", "it could not be started on its node"),
    "OUT_OF_MEMORY": ("host_memory", "it used more memory than it requested"),
}
HUNG = r"^process \d+ of the training\b.* hangs: "  # nag/heartbeat.py writes it into the log of a process that does not
LOG = (
    ("host_memory", r"oom-kill event|[Ee]xceeded (job )?memory limit", "it used more memory than it requested"),
    ("timeout", r"DUE TO TIME LIMIT", "it reached its time limit"),
    ("preempted", r"DUE TO (PREEMPTION|JOB REQUEUE)", "it was preempted or requeued"),
    ("node", r"DUE TO NODE FAILURE|Node failure on", "its node failed"),
    (
        "node",
        r"Unable to create step|[Tt]ask launch for .* failed|Unable to confirm allocation|Socket timed out"
        r"|Communication connection failure|Prolog (error|failed)|slurm_receive_msg",
        "it could not be started on its node",
    ),
    ("died", HUNG, "it stood still"),
)
NOISE = re.compile(
    r"^submitit (INFO|WARNING|ERROR)|^srun: (error: .*Exited with exit code|error: .*: task |Terminating|launch/)"
    r"|STEP \S+ ON \S+ CANCELLED|to run it by hand: "
)
EXCEPTION = re.compile(r"[\w.]*(Error|Exception|NotFound|Problem)(: |$)")
ERROR = re.compile(r"execve\(\)|[Nn]o such file|not found|[Ee]rror:|[Pp]ermission denied|[Uu]nable to|unknown: |FATAL")
ENDED_ITSELF = ("COMPLETED", "FAILED")
TERMINATED = 15


def cause_of(in_squeue: Sequence[SqueueRow], in_sacct: Sequence[SacctRow], log: str) -> tuple[str, str]:
    """Why an array task ended: the cause (orchestrator.execution.failure_causes), and the reason in words.

    in_squeue: its rows of squeue. in_sacct: its rows of sacct, oldest first. log: the end of its output. If all are
    empty, it is lost.
    """
    tail = _last_start(log)
    state, detail, steps = _state(in_squeue, in_sacct)
    if "OUT_OF_MEMORY" in steps:
        state = "OUT_OF_MEMORY"
    if state in STATES:
        cause, words = STATES[state]
        return cause, f"{words} ({detail})"
    for cause, pattern, words in LOG:
        if state == "CANCELLED" and cause == "node":
            continue  # srun writes the same about a step that is cancelled while it starts
        if state in ENDED_ITSELF and cause == "preempted":
            continue  # that line is about an earlier run; the last one ended before it logged its start
        if line := _line(pattern, tail):
            return cause, f"{words}: {line}"
    if state == "CANCELLED":
        return "cancelled", f"somebody ended it ({detail})"
    if state and (of_library := cause_in(tail)):
        return of_library, f"it died ({detail}); the end of its log: {telling_line(tail)}"
    if _was_terminated(_last(in_squeue, in_sacct)):
        return "preempted", f"it ended when it was asked to ({detail})"  # in the grace time of a preemption
    if state:
        return "died", f"it ended without an error message ({detail}); the end of its log: {telling_line(tail)}"
    if line := _line(r"\*\*\* (JOB|STEP) \S+ ON \S+ CANCELLED", tail):
        return "cancelled", f"somebody ended it: {line}"
    return "lost", "it is gone, and Slurm no longer knows it"


def _state(in_squeue: Sequence[SqueueRow], in_sacct: Sequence[SacctRow]) -> tuple[str, str, tuple[str, ...]]:
    """The state in which its last run ended ("" if unknown), the same with its exit code, and its steps' states."""
    own = [number for number, run in enumerate(in_sacct) if not run.step]
    steps = tuple(run.state for run in in_sacct[own[-1] :] if run.step) if own else ()
    last = _last(in_squeue, in_sacct)
    if last is None:
        return "", "", steps
    code = f"signal {last.signal}" if last.signal else f"exit code {last.exit_code}" if last.exit_code else ""
    return last.state, ", ".join(filter(None, [last.state, code])), steps


def _last(in_squeue: Sequence[SqueueRow], in_sacct: Sequence[SacctRow]) -> SqueueRow | SacctRow | None:
    """The row with the end of its last run. squeue takes precedence: sacct is some seconds behind."""
    runs = [run for run in in_sacct if not run.step]
    rows: list[SqueueRow | SacctRow] = [*runs[-1:], *in_squeue]
    over = [row for row in rows if row.over]
    return over[-1] if over else None


def _was_terminated(row: SqueueRow | SacctRow | None) -> bool:
    return row is not None and TERMINATED in (row.signal, row.exit_code, row.exit_code - 128)


def cause_of_requeue(log: str) -> tuple[str, str]:
    """Why Slurm requeued an array task by itself, from the log of the run before."""
    cause, reason = cause_of((), (), log.rpartition(STARTED)[0])
    if cause == "lost":  # a preemption or a requeue is in the log
        return "node", "Slurm requeued it, and its log does not say why; so its node must have failed"
    return cause, reason


def tail(log: Path) -> str:
    """The end of a log; "" for a symbolic link, which may lead anywhere."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    with contextlib.suppress(OSError, ValueError), open(os.open(log, flags), "rb") as file:
        file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
        return file.read().decode(errors="replace")
    return ""


def tail_of_all(log: Path) -> str:
    """The end of the log of an array task's first process, and what the others say of one that hangs."""
    rank, lines = 1, [tail(log)]
    while os.path.lexists(other := log.with_name(f"{log.name.removesuffix('_0_log.out')}_{rank}_log.out")):
        lines.append(_line(HUNG, _last_start(tail(other))))
        rank += 1
    return "\n".join(filter(None, lines))


def _last_start(log: str) -> str:
    """The log of the last run; earlier runs wrote into the same file."""
    _, _, tail = log.rpartition(STARTED)
    return "\n".join(tail.splitlines()[-LINES:])


def _line(pattern: str, text: str) -> str:
    """The last line that matches, without the name of the program that wrote it."""
    lines = [line for line in text.splitlines() if re.search(pattern, line)]
    return re.sub(r"^\S+: error: ", "", lines[-1].strip())[:200] if lines else ""


def telling_line(text: str) -> str:
    """The line of a log that says why it ended: an exception, else the first error that is not srun's report of an
    exit code, else the last line.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line for line in lines if not NOISE.search(line)]
    raised = [line for line in own if EXCEPTION.match(line)]
    errors = [line for line in own if ERROR.search(line)]
    chosen = raised[-1:] or errors[:1] or own[-1:] or lines[-1:]
    return chosen[0][:200] if chosen else "empty"
