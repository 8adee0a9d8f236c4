"""Backend: where bundles run. It starts each bundle after those that it waits for, and reports what happens.

To add a backend, write a class with these methods; tests/orchestrator/contract.py tests all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Outcome = Literal["done", "failed", "corrupt", "held", "environment", "skipped"]


@dataclass(frozen=True)
class Bundle:
    """Work that one worker does in one go: steps of (task digest, block numbers or None), in order.

    plan: the stored plan that has the tasks. kind: of the main task; a site gives each kind its resources. network: the
    one that it loads. The rest is how to retry (execution/retries.py): a smaller micro-batch (0: the worker's own), how
    often the memory is doubled, hosts to avoid, whether the bundle has a job to itself.
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
    loss: float | None = None  # of a training


@dataclass(frozen=True)
class Step:
    """A step of a bundle is done and published."""

    handle: int
    digest: str
    blocks: tuple[int, ...] | None


@dataclass(frozen=True)
class End:
    """A bundle has ended. `digest` is the task that failed, if one did; `cause` one of failure_causes.py.

    name: of this attempt; names sort by time and do not depend on who reports it. details: more for the record of the
    attempt: host, job, log, the command that repeats it, seconds.
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
        return Progress(handle, message["digest"], message["done"], message["of"], message.get("loss"))
    if message["event"] == "step":
        blocks = message["blocks"]
        return Step(handle, message["digest"], None if blocks is None else tuple(blocks))
    known = {key: message[key] for key in ("digest", "reason", "traceback", "cause") if key in message}
    return End(handle, message["outcome"], **known, details={k: message[k] for k in ("micro_batch",) if k in message})


def message_of(handle: int, bundle: Bundle) -> dict[str, Any]:
    """A bundle as a message to orchestrator.execution.worker."""
    return {"id": handle, "plan": bundle.plan, "steps": bundle.steps, "micro_batch": bundle.micro_batch}


@dataclass(frozen=True)
class Work:
    """A bundle to queue under a handle. It starts once those with the handles in `after` have ended."""

    handle: int
    bundle: Bundle
    after: frozenset[int] = frozenset()


class Backend(Protocol):
    @property
    def visible_after_s(self) -> float: ...  # until files that its workers have written are visible here

    def size(self, plan: Any, stream: str, blocks: int) -> int:
        """How many blocks of a stream make a bundle; `blocks` are to do in all streams together."""

    def adopt(self) -> list[Bundle]:
        """Bundles that an earlier engine queued and whose end no engine has seen. Their handles are 1, 2, ..."""

    def submit(self, work: Sequence[Work]) -> None:
        """Queue bundles, each listed after those that it waits for. If one of these does not end as done, the bundle
        ends as skipped; a backend that checks the store may still do it, if all of its input is there.
        """

    def poll(self, timeout_s: float) -> list[Event]:
        """Events since the last call; waits up to `timeout_s` for the first one."""

    def close(self) -> None:
        """Stop bundles that cannot go on without this process; the others go on."""
