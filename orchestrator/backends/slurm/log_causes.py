"""How an array task ended that said nothing of its end itself: from what Slurm knows, and the end of its log.

Slurm's word alone is not enough: a step may run out of memory in a job that FAILED, a job that is COMPLETED may have
published nothing, and without sacct the log is all there is. slurmstepd and srun write into it too.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from orchestrator.backends.slurm.slurm_output import SacctRow, SqueueRow
from orchestrator.execution.failure_causes import cause_in

STARTED = "Starting with JobEnvironment"  # submitit's first words, at each start of an array task
TAIL_BYTES, LINES = 16_000, 200  # of the log that are looked at

STATES = {
    "TIMEOUT": ("timeout", "its time limit came"),
    "DEADLINE": ("timeout", "its deadline came"),
    "PREEMPTED": ("preempted", "it was preempted"),
    "NODE_FAIL": ("node", "its node failed"),
    "BOOT_FAIL": ("node", "its node did not boot"),
    "LAUNCH_FAILED": ("node", "it could not be started on its node"),
    "OUT_OF_MEMORY": ("host_memory", "it used more memory than it asked for"),
}
LOG = (
    ("host_memory", r"oom-kill event|[Ee]xceeded (job )?memory limit", "it used more memory than it asked for"),
    ("timeout", r"DUE TO TIME LIMIT", "its time limit came"),
    ("preempted", r"DUE TO (PREEMPTION|JOB REQUEUE)", "it was preempted or requeued"),
    ("node", r"DUE TO NODE FAILURE|Node failure on", "its node failed"),
    (
        "node",
        r"Unable to create step|[Tt]ask launch for .* failed|Unable to confirm allocation|Socket timed out"
        r"|Communication connection failure|Prolog (error|failed)|slurm_receive_msg",
        "it could not be started on its node",
    ),
)
ENDED_ITSELF = ("COMPLETED", "FAILED")
TERMINATED = 15


def cause_of(seen: Sequence[SqueueRow], ran: Sequence[SacctRow], log: str) -> tuple[str, str]:
    """Why an array task ended (orchestrator.execution.failure_causes), and in words.

    seen: what squeue has of it; ran: what sacct has, oldest first; log: the end of its output. With none of them it is
    lost.
    """
    tail = _last_start(log)
    state, said, steps = _state(seen, ran)
    if "OUT_OF_MEMORY" in steps:
        state = "OUT_OF_MEMORY"
    if state in STATES:
        cause, words = STATES[state]
        return cause, f"{words} ({said})"
    for cause, pattern, words in LOG:
        if state == "CANCELLED" and cause == "node":
            continue  # srun complains that way of a step that is ended while it starts
        if state in ENDED_ITSELF and cause == "preempted":
            continue  # that was said to an earlier run; the last one ended before its first word
        if found := _line(pattern, tail):
            return cause, f"{words}: {found}"
    if state == "CANCELLED":
        return "cancelled", f"somebody ended it ({said})"
    if state and (of_library := cause_in(tail)):
        return of_library, f"it died ({said}); the end of its log: {_end(tail)}"
    if _was_terminated(_last(seen, ran)):
        return "preempted", f"it was told to end, and did ({said})"  # in the grace time of a preemption
    if state:
        return "died", f"it ended without a word ({said}); the end of its log: {_end(tail)}"
    if found := _line(r"\*\*\* (JOB|STEP) \S+ ON \S+ CANCELLED", tail):
        return "cancelled", f"somebody ended it: {found}"
    return "lost", "it is gone, and Slurm does not know it any more"


def _state(seen: Sequence[SqueueRow], ran: Sequence[SacctRow]) -> tuple[str, str, tuple[str, ...]]:
    """How the last of its runs ended ("" if nothing is known), in words, and the states of its steps."""
    own = [number for number, run in enumerate(ran) if not run.step]
    steps = tuple(run.state for run in ran[own[-1] :] if run.step) if own else ()
    last = _last(seen, ran)
    if last is None:
        return "", "", steps
    code = f"signal {last.signal}" if last.signal else f"exit code {last.exit_code}" if last.exit_code else ""
    return last.state, ", ".join(filter(None, [last.state, code])), steps


def _last(seen: Sequence[SqueueRow], ran: Sequence[SacctRow]) -> SqueueRow | SacctRow | None:
    """The end of its last run. squeue knows better: sacct is told some seconds later."""
    runs = [run for run in ran if not run.step]
    rows: list[SqueueRow | SacctRow] = [*runs[-1:], *seen]
    over = [row for row in rows if row.over]
    return over[-1] if over else None


def _was_terminated(row: SqueueRow | SacctRow | None) -> bool:
    return row is not None and TERMINATED in (row.signal, row.exit_code, row.exit_code - 128)


def cause_of_requeue(log: str) -> tuple[str, str]:
    """Why Slurm began an array task again by itself, from its log so far: what that has of the run before."""
    cause, reason = cause_of((), (), log.rpartition(STARTED)[0])
    if cause == "lost":  # of a preemption or a requeue there is a word
        return "node", "Slurm began it again, and its log does not say why; so its node must have failed"
    return cause, reason


def tail(log: Path) -> str:
    """The end of a log; of a link, which may lead to anything, nothing."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    with contextlib.suppress(OSError, ValueError), open(os.open(log, flags), "rb") as file:
        file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
        return file.read().decode(errors="replace")
    return ""


def _last_start(log: str) -> str:
    """What was written since the array task last started: earlier runs of it wrote into the same file."""
    _, _, tail = log.rpartition(STARTED)
    return "\n".join(tail.splitlines()[-LINES:])


def _line(pattern: str, text: str) -> str:
    """The last line with a match in it, without what tells of time and place of the writer."""
    found = [line for line in text.splitlines() if re.search(pattern, line)]
    return re.sub(r"^\S+: error: ", "", found[-1].strip())[:200] if found else ""


def _end(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "nothing in it"
