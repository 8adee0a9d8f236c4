"""Where bundles run. A backend starts them when what they wait for is done, says what happens, and stops them; no more.

To add a backend, write a file with a class of this shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Outcome = Literal["done", "failed", "corrupt", "held", "environment", "skipped"]


@dataclass(frozen=True)
class Bundle:
    """What one worker does in one go: steps of (task digest, block numbers or None), in order. `network` is what it
    loads.
    """

    steps: tuple[tuple[str, tuple[int, ...] | None], ...]
    network: str = ""


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
    """A bundle has ended. `digest` is the task that was at fault, where one was."""

    handle: int
    outcome: Outcome
    digest: str = ""
    reason: str = ""
    traceback: str = ""


Event = Progress | Step | End


def event_of(message: Mapping[str, Any]) -> Event:
    """A message of orchestrator.worker as an event."""
    handle = message["id"]
    if message["event"] == "progress":
        return Progress(handle, message["digest"], message["done"], message["of"])
    if message["event"] == "step":
        blocks = message["blocks"]
        return Step(handle, message["digest"], None if blocks is None else tuple(blocks))
    keys = ("digest", "reason", "traceback")
    return End(handle, message["outcome"], **{key: message[key] for key in keys if key in message})


class Backend(Protocol):
    def submit(self, bundles: Sequence[Bundle], after: Sequence[Sequence[int]]) -> list[int]:
        """Queue bundles, each to start once the bundles with the handles in `after` are done; if one of those ends
        otherwise, it ends as skipped. Returns their handles."""

    def poll(self, timeout_s: float) -> list[Event]:
        """What happened since the last call; waits up to `timeout_s` for something to happen."""

    def cancel(self) -> None:
        """End everything that this backend started, at once."""
