"""One bundle after the other in this process: nothing to start, full tracebacks. For one cell, debugging and tests of
the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.execution.protocol import Bundle, End, Event, Work, event_of, message_of
from orchestrator.execution.worker import Worker
from orchestrator.plan.model import StoredPlan
from orchestrator.store.store import Store
from orchestrator.tasks.context import Options

BLOCKS_A_BUNDLE = 16


class Here:
    def __init__(self, store: Store, options: Options, raises: bool = False) -> None:
        """raises: an error in a task comes out of `poll`, with its traceback, rather than as the end of a bundle."""
        self.waiting: dict[int, Work] = {}
        self.ended: dict[int, str] = {}
        self.messages: list[dict[str, Any]] = []
        self.worker = Worker(store, options, self.messages.append, raises=raises)

    def size(self, plan: StoredPlan, stream: str, blocks: int) -> int:
        return max(1, min(BLOCKS_A_BUNDLE, blocks // 4))

    def adopt(self) -> list[Bundle]:
        return []

    def submit(self, work: Sequence[Work]) -> None:
        self.waiting |= {each.handle: each for each in work}

    def poll(self, timeout_s: float) -> list[Event]:
        if not self.waiting:
            return []
        handle = next(iter(self.waiting))  # each stands behind what it waits for
        work = self.waiting.pop(handle)
        if any(self.ended[needed] != "done" for needed in work.after):
            events: list[Event] = [End(handle, "skipped")]
        else:
            self.messages.clear()
            self.worker.bundle(message_of(handle, work.bundle))
            events = [event_of(message) for message in self.messages]
        end = events[-1]
        assert isinstance(end, End)
        self.ended[handle] = end.outcome
        return events

    def close(self) -> None:
        self.waiting.clear()
