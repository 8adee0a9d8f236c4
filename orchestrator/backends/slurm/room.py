"""Room in the queue: how many jobs and array tasks this user may have there, by the site file (`max_submit`) or by the
limits of Slurm, which are looked up once sbatch has refused a job because of one.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field

from orchestrator.backends.slurm.commands import Commands, QueryFailed
from orchestrator.backends.slurm.sbatch import FULL, NoRoom
from orchestrator.backends.slurm.settings import SlurmSettings
from orchestrator.backends.slurm.waves import INSTEAD, Wave, read_or_empty, waves
from orchestrator.store.store import Store

AGAIN_S = 60.0  # a limit that is not known by its number is tried again after this time


@dataclass
class Room:
    """limit: of this user's jobs in the queue; None: none is known. goes_on: whether a job that continues needs a place
    too. inside: whether this process is such a job, which has a place, as has the one that stands in for it.
    """

    site: SlurmSettings
    goes_on: bool
    inside: bool = False
    why: str = "max_submit"
    tried_at: float = field(default=float("-inf"))  # when a limit that is not known by its number was met
    limit: int | None = None
    learned: bool = False  # whether sbatch has refused a job, and the limit was looked up

    def __post_init__(self) -> None:
        self.limit = self.site.max_submit

    @property
    def reserve(self) -> int:
        """Places to leave for the jobs that continue after a wave."""
        if not self.goes_on:
            return 0
        wanted = 1 if self.inside else 2
        return wanted if self.limit is None else max(0, min(wanted, self.limit - 1))

    def left(self, commands: Commands, stem: str) -> int | None:
        """How many array tasks may be queued now; None: any number. stem: of this sweep's job names."""
        if self.limit is None:
            return None
        rows = [row for row in commands.queue() if not row.over]
        left = self.limit - len(rows) - self.reserve
        mine = [row.id for row in rows if row.name.startswith(stem) and row.name.endswith(INSTEAD)]
        if left <= 0 and self.inside and mine:  # the next wave has one of its own
            commands.cancel(mine)
            left += len(mine)
        return max(0, left)

    def released(self, waiting: int, wanted: int) -> bool:
        """Whether work that waits for room may be tried again. waiting: this user's jobs in the queue now."""
        if self.tried_at + AGAIN_S < time.monotonic() and self.tried_at > 0:
            self.limit, self.tried_at = self.site.max_submit, float("-inf")
            return True
        return self.limit is None or waiting + wanted + self.reserve <= self.limit

    def learn(self, commands: Commands, refused: NoRoom) -> None:
        """Find the limit that sbatch has met. If what was learned before was not enough, there is no room now."""
        again, self.learned = self.learned, True
        used = sum(not row.over for row in commands.queue())
        self.why = str(refused).rpartition(": ")[2]
        limit, full = None if again else _limit_of_user(commands, self.site), FULL in str(refused)
        if limit is None or full:
            limit, self.tried_at = used, time.monotonic()
        if full and not again:
            self.why = "the cluster has as many jobs as it takes (MaxJobCount)"
            with contextlib.suppress(QueryFailed, KeyError, ValueError):
                limit += max(0, int(commands.config()["MaxJobCount"]) - commands.jobs_of_all() - 1)
        self.limit = limit if self.limit is None else min(self.limit, limit)

    def note(self, store: Store, wave: Wave, bundles: int) -> None:
        """Record that bundles wait, for `nagbench status`."""
        record = {"limit": self.limit or 0, "bundles": bundles, "why": self.why}
        store.create_record(f"{wave.folder}/room/{time.time_ns():020d}.json", record)


def _limit_of_user(commands: Commands, site: SlurmSettings) -> int | None:
    """The lowest limit on the jobs in the queue that the accounts have for this user."""
    try:
        mine = [each for each in commands.associations() if site.account in (None, each.account)]
        of_qos = commands.submit_limits()
    except QueryFailed:
        return None
    names = {site.qos} if site.qos else {name for each in mine for name in each.qos}
    limits = [each.max_submit for each in mine if each.max_submit is not None]
    return min([*limits, *(of_qos[name] for name in names if name in of_qos)], default=None)


def waiting_words(store: Store, sweep: str, used: int) -> str:
    """What the newest wave of a sweep has left for later, if anything. used: this user's jobs in the queue."""
    newest = waves(store, sweep, closed=True)[-1:]
    for wave in newest:
        for name in store.list(f"{wave.folder}/room")[-1:]:
            if record := read_or_empty(store, f"{wave.folder}/room/{name}"):
                limit = f"{used} of {record['limit']} of your jobs are queued"
                return f"waiting for room: {limit} ({record['why']}); {record['bundles']} bundles wait"
    return ""
