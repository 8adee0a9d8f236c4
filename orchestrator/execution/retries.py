"""What to do with a task whose attempts ended badly: a pure function of their records (attempts/<digest>/).

preempted                        again, for ever
node, environment                again, on another node after a node's failure; 8 times at one place
timeout                          again from there, then block by block; 4 times at one place, a training 3 times
host_memory                      with twice the memory, up to the site's bound, 3 times
device_memory                    with half the micro-batch, down to one sample
died, lost, cancelled            again; 3 times at one place
bad_input, not_finite, stopped   given up: it would end the same, or is not wanted

An attempt's place ("at") is the block that was not made, or the step of the newest checkpoint. Only what happens at one
place adds up: a task that gets on may be interrupted any number of times, and a machine that breaks, and with it many
blocks of a stream, uses up one try of each.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.tasks.task import makes_blocks

HOPELESS = ("bad_input", "not_finite", "stopped")
PASSING, PASSING_AT_MOST = ("node", "environment"), 8
UNKNOWN, UNKNOWN_AT_MOST = ("died", "lost", "cancelled"), 3
TIMEOUTS_TOGETHER, TIMEOUTS_ALONE = 2, 2  # of a block in a bundle, and then by itself
TIMEOUTS = 3  # of what cannot be split; the first may have got on to where it stands
DOUBLINGS_AT_MOST = 3
AVOIDED_AT_MOST = 4  # hosts that failed last
HOST = re.compile(r"[A-Za-z0-9._,\[\]-]{1,253}")  # what is not one must not get into a job's options
ALIKE_AT_MOST = 3  # cells of an arm that fail alike, before the rest of the arm is left

STOPPED = "cancelled by the user"

Attempt = Mapping[str, Any]


@dataclass(frozen=True)
class Decision:
    """How to try again; `give_up` says why not to."""

    give_up: str = ""
    micro_batch: int = 0  # 0: the worker's own
    doublings: int = 0  # of the memory
    avoid: tuple[str, ...] = ()  # hosts
    single: bool = False  # block by block


def decide(attempts: Sequence[Attempt]) -> Decision:
    """What the attempts at one task, oldest first, say of the next one."""
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
            return Decision(give_up=f"{attempt['reason']}; it had all the memory that it may have")
    for attempt in _of(attempts, "device_memory"):
        if attempt.get("micro_batch", 0) <= 1:
            return Decision(give_up=f"{attempt['reason']}, with one sample at a time")
    return Decision(
        micro_batch=min((a["micro_batch"] // 2 for a in _of(attempts, "device_memory")), default=0),
        doublings=max((a.get("doublings", 0) + 1 for a in _of(attempts, "host_memory")), default=0),
        avoid=_hosts(_of(attempts, "node")),
        single=any(len(_of(here, "timeout")) >= TIMEOUTS_TOGETHER for here in places.values()),
    )


def _exhausted(here: Sequence[Attempt]) -> str:
    """Why not to try again, from the attempts at one place; empty if there is no reason."""
    last = here[-1]["reason"]
    if len(unknown := _of(here, *UNKNOWN)) >= UNKNOWN_AT_MOST:
        return f"{unknown[-1]['reason']}, the third time"
    if len(_of(here, *PASSING)) >= PASSING_AT_MOST:
        return f"{last}; that happened {PASSING_AT_MOST} times"
    splits = makes_blocks(here[-1].get("kind"))
    timeouts = _of(here, "timeout")
    if len(timeouts) >= (TIMEOUTS_TOGETHER + TIMEOUTS_ALONE if splits else TIMEOUTS):
        return f"{timeouts[-1]['reason']}; {'one block' if splits else 'it'} does not fit into it: give the stage more"
    return ""


def _of(attempts: Sequence[Attempt], *causes: str) -> list[Attempt]:
    return [attempt for attempt in attempts if attempt["cause"] in causes]


def _hosts(attempts: Sequence[Attempt]) -> tuple[str, ...]:
    """Where they were, without repeats, the last few."""
    hosts = (str(attempt.get("host", "")) for attempt in reversed(attempts))
    newest = dict.fromkeys(host for host in hosts if HOST.fullmatch(host))
    return tuple(reversed(list(newest)[:AVOIDED_AT_MOST]))


def hopeless(streams: Mapping[str, Collection[str]], failed: Mapping[str, str]) -> dict[str, tuple[int, set[str]]]:
    """Arms of which several cells have failed alike, so that the next forty would as well: how many have, and the
    streams of the arm, and of no other, that have not.

    streams: of each arm. failed: stream -> why.
    """
    found = {}
    for arm, mine in streams.items():
        reasons = Counter(alike(failed[stream]) for stream in mine if stream in failed and failed[stream] != STOPPED)
        most = max(reasons.values(), default=0)
        if most >= ALIKE_AT_MOST:
            others = {stream for name, theirs in streams.items() if name != arm for stream in theirs}
            found[arm] = (most, set(mine) - failed.keys() - others)
    return found


def alike(reason: str) -> str:
    """What reasons have in common that differ in numbers and digests only."""
    return re.sub(r"\b[0-9a-f]{8,}\b|\d[\d.]*", "#", reason)
