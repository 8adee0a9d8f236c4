"""Files of a cluster's queue that nobody needs any more: of waves that were closed long ago, and of their jobs.

A closed wave keeps its `wave.json` and `closed.json`, from which the GPU hours of its sweep are counted.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from orchestrator.errors import CorruptFile

if TYPE_CHECKING:
    from orchestrator.store.store import Store

OLD_S = 14 * 86400.0  # since a wave was closed, or a file of a job was written
KEPT = ("wave.json", "closed.json")
JOB = re.compile(r"nb\.(?P<owner>[^/.]+)\.(?P<sweep>[^/.]+)\..+")  # the name of a job, and of its folder


@dataclass
class QueueFiles:
    store: Store

    @cached_property
    def old(self) -> frozenset[str]:
        """The folders of the waves that were closed long ago."""
        return frozenset(folder for folder, closed in self._waves.items() if closed and closed < time.time() - OLD_S)

    @cached_property
    def busy(self) -> frozenset[str]:
        """The sweeps with an open wave."""
        return frozenset(folder.split("/")[1] for folder, closed in self._waves.items() if closed is None)

    @cached_property
    def _waves(self) -> dict[str, float | None]:
        """The folder of each wave, and when it was closed."""
        store, found = self.store, dict[str, float | None]()
        for sweep in store.list("waves"):
            for name in store.list(f"waves/{sweep}"):
                folder = f"waves/{sweep}/{name}"
                found[folder] = None
                with contextlib.suppress(CorruptFile):
                    found[folder] = float(store.read_record(f"{folder}/closed.json", repair=False).get("time", 0.0))
        return found

    def lacks(self, name: str, changed: float) -> str:
        """The kind of garbage that a file is; "" if it is still wanted, or may be, or is another user's. changed: when
        it was written.
        """
        parts = name.split("/")
        if parts[0] == "waves":
            return "waves" if "/".join(parts[:3]) in self.old and parts[-1] not in KEPT else ""
        if parts[0] != "cluster" or not 0 < changed < time.time() - OLD_S or not self._is_mine(name):
            return ""
        jobs = [match["sweep"] for part in parts[1:3] if (match := JOB.fullmatch(part))]
        wanted = self.busy.intersection(jobs) if jobs else self.busy  # any job may run any code
        return "" if wanted else "cluster"

    def _is_mine(self, name: str) -> bool:
        with contextlib.suppress(OSError):
            return os.lstat(self.store.path(name)).st_uid == os.geteuid()
        return False
