"""What to do with a task whose attempts ended badly: a pure function of their records (attempts/<digest>/).

An attempt record has "cause" (orchestrator.causes), "reason", "time", "host", "micro_batch", "doublings" and
"progress": whether a block or a checkpoint of the task was published in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DEATHS_AT_MOST = 3  # unknown ends of one task
LOSSES_AT_MOST = 20  # ends that were nobody's fault: a cluster that loses a task so often needs a person
STUCK_AT_MOST = 2  # timeouts in a row without a block; then block by block, and then it does not fit
DOUBLINGS_AT_MOST = 3  # of the memory; the site's bound may come before
HALVINGS_AT_MOST = 8  # of the micro-batch

HOPELESS = ("bad_input", "not_finite", "stopped")  # the same again would end the same, or is not wanted
FREE = ("preempted", "node", "lost", "cancelled", "environment")


@dataclass(frozen=True)
class Decision:
    """How to try again; `give_up` says why not to."""

    give_up: str = ""
    micro_batch: int = 0
    doublings: int = 0
    avoid: tuple[str, ...] = ()
    single: bool = False  # block by block


def decide(attempts: Sequence[Mapping[str, Any]]) -> Decision:
    """What the attempts at one task, oldest first, say of the next one."""
    if not attempts:
        return Decision()
    last = attempts[-1]
    causes = [attempt["cause"] for attempt in attempts]
    if last["cause"] in HOPELESS:
        return Decision(give_up=last["reason"])
    if causes.count("died") >= DEATHS_AT_MOST:
        return Decision(give_up=f"{last['reason']}, the {_th(causes.count('died'))} time")
    if sum(cause in FREE for cause in causes) >= LOSSES_AT_MOST:
        return Decision(give_up=f"{last['reason']}; it was lost {LOSSES_AT_MOST} times")
    doublings = max(attempt.get("doublings", 0) for attempt in attempts) + (last["cause"] == "host_memory")
    if doublings > DOUBLINGS_AT_MOST or last.get("at_memory_bound"):
        return Decision(give_up=f"{last['reason']}; it had all the memory that the site allows")
    micro_batch = last.get("micro_batch", 0)
    if last["cause"] == "device_memory":
        if micro_batch <= 1 or causes.count("device_memory") > HALVINGS_AT_MOST:
            return Decision(give_up=f"{last['reason']}, with one sample at a time")
        micro_batch //= 2
    elif "device_memory" not in causes:
        micro_batch = 0  # the worker's own
    stuck = _stuck(attempts)
    if stuck >= 2 * STUCK_AT_MOST:
        return Decision(give_up=f"{last['reason']}; one block does not fit into its time limit: give the stage more")
    avoid = tuple(dict.fromkeys(a["host"] for a in attempts if a["cause"] == "node" and a.get("host")))
    return Decision("", micro_batch, doublings, avoid[-4:], single=stuck >= STUCK_AT_MOST)


def _stuck(attempts: Sequence[Mapping[str, Any]]) -> int:
    """How many of the last attempts ran into their time limit without any progress."""
    count = 0
    for attempt in reversed(attempts):
        if attempt["cause"] != "timeout" or attempt.get("progress"):
            break
        count += 1
    return count


def _th(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")
