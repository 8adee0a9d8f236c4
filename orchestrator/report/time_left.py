"""How long the rest of a run will take, from what its kinds of task have taken so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

LEAST_S = 2.0  # of a kind's own time, before its rate is used


@dataclass
class TimeLeft:
    """The time between two reports of progress belongs to the kind that reports: with several workers, kinds that run
    side by side share it as they share the workers. clock: seconds.
    """

    clock: Callable[[], float] = time.monotonic
    total: dict[str, float] = field(default_factory=dict)
    done: dict[str, float] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)  # seconds
    made: dict[str, float] = field(default_factory=dict)  # units in those seconds
    last: float | None = None  # time of the last report

    def stages(self, total: Mapping[str, float]) -> None:
        self.total = dict(total)

    def progress(self, kind: str, done: float) -> None:
        now, before = self.clock(), self.done.get(kind, 0.0)
        if done > before and self.last is None:  # until here workers have started
            self.last = now
        elif done > before and self.last is not None:
            self.spent[kind] = self.spent.get(kind, 0.0) + now - self.last
            self.made[kind] = self.made.get(kind, 0.0) + done - before
            self.last = now
        self.done[kind] = done

    def seconds(self) -> tuple[float, bool]:
        """The seconds left of the kinds that are measured, and whether these are all that have something to do."""
        left = {kind: total - self.done.get(kind, 0.0) for kind, total in self.total.items()}
        left = {kind: units for kind, units in left.items() if units > 0}
        known = {kind for kind in left if self.made.get(kind) and self.spent[kind] >= LEAST_S}
        return sum(left[kind] * self.spent[kind] / self.made[kind] for kind in known), known == left.keys()

    def words(self) -> str:
        """`about 4 min left`; `at least 4 min left` while a kind has not begun; "" while nothing is known."""
        seconds, all_known = self.seconds()
        return f"{'about' if all_known else 'at least'} {_rounded(seconds)} left" if seconds else ""


def _rounded(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
