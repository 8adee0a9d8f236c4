"""Bundles in this very process, one after the other: for debugging, and where starting workers costs more than work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.backends import Bundle, End, Event, event_of
from orchestrator.store import Store
from orchestrator.tasks import Options
from orchestrator.worker import Worker


class Here:
    def __init__(self, store: Store, options: Options, raises: bool = False) -> None:
        """raises: an error in a task comes out of `poll`, with its traceback, rather than as the end of a bundle."""
        self.waiting: dict[int, tuple[Bundle, tuple[int, ...]]] = {}
        self.ended: dict[int, str] = {}
        self.count = 0
        self.messages: list[dict[str, Any]] = []
        self.worker = Worker(store, options, self.messages.append, raises=raises)

    def submit(self, bundles: Sequence[Bundle], after: Sequence[Sequence[int]]) -> list[int]:
        first = self.count + 1
        for bundle, needs in zip(bundles, after, strict=True):
            self.count += 1
            self.waiting[self.count] = (bundle, tuple(needs))
        return list(range(first, self.count + 1))

    def poll(self, timeout_s: float) -> list[Event]:
        if not self.waiting:
            return []
        handle = next(iter(self.waiting))  # each stands behind what it waits for
        bundle, needs = self.waiting.pop(handle)
        if any(self.ended[needed] != "done" for needed in needs):
            events: list[Event] = [End(handle, "skipped")]
        else:
            self.messages.clear()
            self.worker.bundle({"id": handle, "steps": bundle.steps})
            events = [event_of(message) for message in self.messages]
        end = events[-1]
        assert isinstance(end, End)
        self.ended[handle] = end.outcome
        return events

    def cancel(self) -> None:
        self.waiting.clear()
