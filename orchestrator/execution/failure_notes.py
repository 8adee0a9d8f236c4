"""What a run says of failed tasks: failures that are alike once, and at its end how many there were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.execution.retries import alike


@dataclass
class FailureNotes:
    note: Callable[[str], None]
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    first: dict[tuple[str, str], str] = field(default_factory=dict)

    def failed(self, kind: str, digest: str, reason: str, where: str) -> None:
        """Say that a task of this kind was given up, unless one failed alike before. where: its log."""
        key = kind, alike(reason)
        self.counts[key] += 1
        if key not in self.first:
            self.first[key] = digest[:12]
            self.note(f"{kind} {digest[:12]} failed: {reason} ({where})")

    def rest(self) -> None:
        """Say how many more failed alike."""
        for (kind, _), count in self.counts.items():
            if count > 1:
                tasks = "task" if count == 2 else "tasks"
                self.note(f"{kind}: {count - 1:,} more {tasks} failed like {self.first[kind, _]}")
        self.counts.clear()
