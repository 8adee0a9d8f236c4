"""How to retry a task that failed: a pure function of the records of its attempts (attempts/<digest>/).

preempted                        again, without limit
node, environment                again, on another node if a node failed; 8 times at one place
timeout                          again from there, then block by block; 4 times at one place, a training 3 times
host_memory                      with twice the memory, up to the site's limit, 3 times
device_memory                    with half the micro-batch, down to one sample
died, lost, cancelled            again; 3 times at one place
bad_input, not_finite, stopped   given up: it would fail again, or is not wanted

An attempt's place ("at") is the block that was not made, or the step of the newest checkpoint. Failures are counted by
place. So a task that makes progress may be interrupted any number of times, and a broken machine that takes many blocks
of a stream with it costs one try of each.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.tasks.task import makes_blocks

HOPELESS = ("bad_input", "not_finite", "stopped")
TRANSIENT, TRANSIENT_AT_MOST = ("node", "environment"), 8
UNKNOWN, UNKNOWN_AT_MOST = ("died", "lost", "cancelled"), 3
TIMEOUTS_TOGETHER, TIMEOUTS_ALONE = 2, 2  # of a block in a bundle, and then on its own
TIMEOUTS = 3  # of a task that cannot be split; the first one may have made progress
DOUBLINGS_AT_MOST = 3
AVOIDED_AT_MOST = 4  # hosts that failed last
HOST = re.compile(r"[A-Za-z0-9._,\[\]-]{1,253}")  # nothing else may get into a job's options
ALIKE_AT_MOST = 3  # cells of an arm that fail alike before the rest of the arm is skipped

STOPPED = "cancelled by the user"

Attempt = Mapping[str, Any]


@dataclass(frozen=True)
class Decision:
    """How to retry; `give_up` says why not to."""

    give_up: str = ""
    micro_batch: int = 0  # 0: the worker's own
    doublings: int = 0  # of the memory
    avoid: tuple[str, ...] = ()  # hosts
    single: bool = False  # block by block


def decide(attempts: Sequence[Attempt]) -> Decision:
    """How to retry a task, from its attempts, oldest first."""
    places: dict[Any, list[Attempt]] = {}
    for attempt in attempts:
        places.setdefault(attempt.get("at"), []).append(attempt)
        if attempt["cause"] in HOPELESS:
            return Decision(give_up=attempt["reason"])
    for here in places.values():
        if reason := _exhausted(here):
            return Decision(give_up=reason)
    for attempt in _of(attempts, "host_memory"):
        if attempt.get("at_memory_bound") or attempt.get("doublings", 0) >= DOUBLINGS_AT_MOST:
            return Decision(give_up=f"{attempt['reason']}; it already had the most memory that the site allows")
    for attempt in _of(attempts, "device_memory"):
        if attempt.get("micro_batch", 0) <= 1:
            return Decision(give_up=f"{attempt['reason']}, even with one sample at a time")
    return Decision(
        micro_batch=min((a["micro_batch"] // 2 for a in _of(attempts, "device_memory")), default=0),
        doublings=max((a.get("doublings", 0) + 1 for a in _of(attempts, "host_memory")), default=0),
        avoid=_hosts(_of(attempts, "node")),
        single=any(len(_of(here, "timeout")) >= TIMEOUTS_TOGETHER for here in places.values()),
    )


def _exhausted(here: Sequence[Attempt]) -> str:
    """Why to give up, from the attempts at one place; "" to retry."""
    last = here[-1]["reason"]
    if len(unknown := _of(here, *UNKNOWN)) >= UNKNOWN_AT_MOST:
        return f"{unknown[-1]['reason']}, for the third time"
    if len(_of(here, *TRANSIENT)) >= TRANSIENT_AT_MOST:
        return f"{last}; that happened {TRANSIENT_AT_MOST} times"
    splits = makes_blocks(here[-1].get("kind"))
    timeouts = _of(here, "timeout")
    if len(timeouts) >= (TIMEOUTS_TOGETHER + TIMEOUTS_ALONE if splits else TIMEOUTS):
        what = "one block" if splits else "it"
        return f"{timeouts[-1]['reason']}; {what} does not fit into it: raise the minutes of the stage"
    return ""


def _of(attempts: Sequence[Attempt], *causes: str) -> list[Attempt]:
    return [attempt for attempt in attempts if attempt["cause"] in causes]


def _hosts(attempts: Sequence[Attempt]) -> tuple[str, ...]:
    """The last few hosts of these attempts, without repeats."""
    hosts = (str(attempt.get("host", "")) for attempt in reversed(attempts))
    newest = dict.fromkeys(host for host in hosts if HOST.fullmatch(host))
    return tuple(reversed(list(newest)[:AVOIDED_AT_MOST]))


def hopeless(streams: Mapping[str, Collection[str]], failed: Mapping[str, str]) -> dict[str, tuple[int, set[str]]]:
    """Arms in which so many cells failed alike that the others would too: arm -> how many failed, and its other streams
    that no other arm has.

    streams: of each arm. failed: stream -> why.
    """
    arms = {}
    for arm, mine in streams.items():
        reasons = Counter(alike(failed[stream]) for stream in mine if stream in failed and failed[stream] != STOPPED)
        most = max(reasons.values(), default=0)
        if most >= ALIKE_AT_MOST:
            others = {stream for name, theirs in streams.items() if name != arm for stream in theirs}
            arms[arm] = (most, set(mine) - failed.keys() - others)
    return arms


def alike(reason: str) -> str:
    """A reason without its numbers and digests: equal for failures that are alike."""
    return re.sub(r"\b[0-9a-f]{8,}\b|\d[\d.]*", "#", reason)
