"""Where bundles run. A backend starts them when what they wait for has ended, says what happens, and no more.

To add a backend, write a file with a class of this shape; tests/orchestrator/contract.py holds them all to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Outcome = Literal["done", "failed", "corrupt", "held", "environment", "skipped"]


@dataclass(frozen=True)
class Bundle:
    """What one worker does in one go: steps of (task digest, block numbers or None), in order.

    plan: the plan of the store that has the tasks. kind: that of the main task; a site gives each kind its resources.
    network: what it loads. The rest is how to try again (execution/retries.py): a smaller micro-batch (0: the worker's
    own), how often the memory is doubled, hosts to keep away from, whether nothing else is to wait behind it.
    """

    steps: tuple[tuple[str, tuple[int, ...] | None], ...]
    plan: str = ""
    kind: str = ""
    network: str = ""
    micro_batch: int = 0
    doublings: int = 0
    avoid: tuple[str, ...] = ()
    alone: bool = False


@dataclass(frozen=True)
class Progress:
    handle: int
    digest: str
    done: int
    of: int


@dataclass(frozen=True)
class Step:
    """A step of a bundle is published."""

    handle: int
    digest: str
    blocks: tuple[int, ...] | None


@dataclass(frozen=True)
class End:
    """A bundle has ended. `digest` is the task that was at fault, where one was; `cause` one of failure_causes.py.

    name: of this attempt, sortable by time and the same whoever reports it. What is known besides goes into the record
    of the attempt: host, job, log, the command that repeats it, seconds.
    """

    handle: int
    outcome: Outcome
    digest: str = ""
    reason: str = ""
    traceback: str = ""
    cause: str = ""
    name: str = ""
    details: Mapping[str, Any] | None = None


Event = Progress | Step | End


def event_of(message: Mapping[str, Any]) -> Event:
    """A message of orchestrator.execution.worker as an event."""
    handle = message["id"]
    if message["event"] == "progress":
        return Progress(handle, message["digest"], message["done"], message["of"])
    if message["event"] == "step":
        blocks = message["blocks"]
        return Step(handle, message["digest"], None if blocks is None else tuple(blocks))
    known = {key: message[key] for key in ("digest", "reason", "traceback", "cause") if key in message}
    return End(handle, message["outcome"], **known, details={k: message[k] for k in ("micro_batch",) if k in message})


def message_of(handle: int, bundle: Bundle) -> dict[str, Any]:
    """A bundle as what orchestrator.execution.worker takes."""
    return {"id": handle, "plan": bundle.plan, "steps": bundle.steps, "micro_batch": bundle.micro_batch}


@dataclass(frozen=True)
class Work:
    """A bundle to queue under a handle, to start once those with the handles in `after` have ended."""

    handle: int
    bundle: Bundle
    after: frozenset[int] = frozenset()


class Backend(Protocol):
    def size(self, plan: Any, stream: str, blocks: int) -> int:
        """How many blocks of a stream a bundle should have, of `blocks` that are to do in all streams."""

    def adopt(self) -> list[Bundle]:
        """Bundles that an earlier engine queued here and whose end no engine has seen. Their handles are 1, 2, ..."""

    def submit(self, work: Sequence[Work]) -> None:
        """Queue bundles. Each stands behind those that it waits for; if one of these ends otherwise than done, it ends
        as skipped; a backend that looks into the store may do it all the same, where all that it reads is there.
        """

    def poll(self, timeout_s: float) -> list[Event]:
        """What happened since the last call; waits up to `timeout_s` for something to happen."""

    def close(self) -> None:
        """Let go: what cannot go on without this process is ended at once, the rest goes on."""
