"""What workers have reported as done so lately that its files may not be visible here yet, as with the attribute caches
of NFS and Lustre. It is not made again before the time that the backend states (`visible_after_s`) has passed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.execution.protocol import Bundle

FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 10.0  # between looks, growing


@dataclass
class Reported:
    """times: of each block, or small task (None), by digest and number (time.monotonic)."""

    times: dict[tuple[str, int | None], float] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)  # digests of those that were not visible at the last look
    pause_s: float = FIRST_PAUSE_S  # until the next look

    def add(self, bundle: Bundle) -> None:
        steps = [(digest, number) for digest, blocks in bundle.steps for number in blocks or (None,)]
        self.times |= dict.fromkeys(steps, time.monotonic())

    def look(self, todo: Mapping[str, list[int] | None], visible_after_s: float) -> set[str]:
        """The tasks of `todo` that may only be hidden. todo: what is missing here."""
        since = time.monotonic() - visible_after_s
        if not self.times:
            self.hidden = set()
            return self.hidden
        self.times = {each: then for each, then in self.times.items() if then > since}
        absent = self.times.keys() & {(d, n) for d, blocks in todo.items() for n in blocks or (None,)}
        self.hidden = {digest for digest, _ in absent}
        return self.hidden

    def pause(self, otherwise_s: float) -> None:
        """Sleep until the next look; `otherwise_s` if nothing is hidden."""
        time.sleep(self.pause_s if self.hidden else otherwise_s)
        self.pause_s = min(2 * self.pause_s, LAST_PAUSE_S) if self.hidden else FIRST_PAUSE_S
