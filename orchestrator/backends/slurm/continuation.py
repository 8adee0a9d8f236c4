"""Whether a sweep still goes on by itself: the reconcile job after its newest wave, and its last words."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from orchestrator.backends.slurm.log_causes import tail, telling_line
from orchestrator.backends.slurm.slurm_output import SqueueRow
from orchestrator.backends.slurm.waves import INSTEAD, RECONCILE, Wave, read_stop, waves
from orchestrator.store.store import Store


def newest_wave(store: Store, sweep: str) -> Wave | None:
    """The newest wave of a sweep if a job was to continue after it."""
    newest = waves(store, sweep, closed=True)[-1:]
    return newest[0] if newest and newest[0].record.get("continues") else None


def _prefix(wave: Wave) -> str:
    """The prefix of the names of all jobs of a wave's sweep."""
    return str(wave.record.get("stem", "")).rpartition("-")[0] + "-"


def logs(wave: Wave) -> list[Path]:
    """The logs of the reconcile jobs of a wave's sweep, oldest first."""
    pattern = glob.escape(str(Path(wave.record["folder"]) / _prefix(wave)))
    found = [path for end in (RECONCILE, INSTEAD) for path in glob.glob(f"{pattern}*{end}/*_log.out")]
    return sorted(map(Path, found), key=lambda path: os.lstat(path).st_mtime)


def ended_words(store: Store, wave: Wave, rows: Iterable[SqueueRow]) -> str:
    """Why nothing continues a sweep that is not finished; "" if a job does, or the user has cancelled the sweep."""
    ours = (row for row in rows if not row.over and row.name.startswith(_prefix(wave)))
    stop = read_stop(store, wave)
    if any(row.name.endswith((RECONCILE, INSTEAD)) for row in ours) or (stop is not None and _by_user(store, wave)):
        return ""
    words = "the job that continues the sweep (reconcile) is not in the queue"
    if written := logs(wave):
        words += f"; its last words: {telling_line(tail(written[-1]))} (log: {written[-1]})"
    return f"{words}. Run nagbench submit to go on."


def _by_user(store: Store, wave: Wave) -> bool:
    """Whether `nagbench cancel` has stopped a wave, and not the engine itself."""
    return not store.exists(f"{wave.folder}/withdrawn.json")
