"""Nodes where no worker is started: for good where one cannot work, for a while where one did not come up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from orchestrator.backends.ray.nodes import RayNode

FIRST_S, LONGEST_S = 10.0, 300.0  # doubled from one failure in a row to the next
ALL = ""  # in place of a node's id: Ray did not say which


class Aside:
    def __init__(self) -> None:
        self.broken: set[str] = set()  # ids
        self.until: dict[str, float] = {}
        self.failures: Counter[str] = Counter()  # in a row

    def failed(self, node: str, now: float) -> float | None:
        """Set a node aside for a while. Returns the seconds; None if it is already, as several fail at once."""
        if now < self.until.get(node, 0):
            return None
        wait = min(FIRST_S * 2 ** self.failures[node], LONGEST_S)
        self.failures[node] += 1
        self.until[node] = now + wait
        return wait

    def up(self, node: str) -> None:
        """A worker came up there."""
        for each in (node, ALL):
            self.until.pop(each, None)
            self.failures.pop(each, None)

    def off(self, now: float) -> set[str]:
        """The nodes that are set aside; ALL stands for every one."""
        return self.broken | {node for node, until in self.until.items() if now < until}

    def usable(self, nodes: Sequence[RayNode], now: float) -> list[RayNode]:
        off = self.off(now)
        return [] if ALL in off else [node for node in nodes if node.id not in off]

    def working(self, nodes: Sequence[RayNode]) -> list[RayNode]:
        """Those that are not set aside for good."""
        return [node for node in nodes if node.id not in self.broken]
