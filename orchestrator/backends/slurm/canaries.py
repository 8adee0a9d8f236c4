"""Tell a fault of the site from one of the work: array tasks that end before our code has said its first word."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.backends.slurm.jobs import EndedArrayTask
from orchestrator.backends.slurm.owner import is_mine
from orchestrator.backends.slurm.queueing import CANARIES
from orchestrator.backends.slurm.waves import Wave, marks
from orchestrator.store.store import Store

FAULTS = ("died",)  # what a setup line or a missing Python leads to; a hidden folder stops the engine at once


@dataclass
class Canaries:
    """The first ends of each wave of a sweep."""

    store: Store
    sweep: str
    unstarted: dict[tuple[str, int], list[EndedArrayTask]] = field(default_factory=lambda: defaultdict(list))

    def fault(self, ended: Sequence[EndedArrayTask]) -> tuple[Wave, str] | None:
        """The wave to take back, and why, if several of its array tasks have ended like this and none has begun."""
        mine = (e for e in ended if e.job.wave.sweep == self.sweep and is_mine(e.job.wave.record))
        new = [e for e in mine if e.cause in FAULTS and "started" not in e.mark]
        for each in new:
            wave = each.job.wave
            found = self.unstarted[wave.key]
            found.append(each)
            if len(found) >= CANARIES and not marks(self.store, wave, "starts"):
                number = len(found)
                return wave, (
                    f"{number} array tasks ended before they began to work: {each.reason}. The rest is cancelled. "
                    "Correct setup, python, container or folder in the site file, and run the same command."
                )
        return None
