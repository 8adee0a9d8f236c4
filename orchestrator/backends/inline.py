"""Run bundles one by one in this process, with full tracebacks: for a single cell, for debugging and for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.execution.protocol import Bundle, End, Event, Work, event_of, message_of
from orchestrator.execution.worker import Worker
from orchestrator.plan.model import StoredPlan
from orchestrator.store.store import Store
from orchestrator.tasks.context import Options

BLOCKS_A_BUNDLE = 16


class Inline:
    visible_after_s = 0.0

    def __init__(self, store: Store, options: Options, raises: bool = False) -> None:
        """raises: `poll` raises the error of a task instead of reporting a failed bundle."""
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
        handle = next(iter(self.waiting))  # its inputs were submitted before it
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
