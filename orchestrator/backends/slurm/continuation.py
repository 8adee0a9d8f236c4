"""Whether a sweep still goes on by itself: the reconcile job after its newest wave, and its last words."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.backends.slurm.log_causes import tail, telling_line
from orchestrator.backends.slurm.owner import is_mine
from orchestrator.backends.slurm.slurm_output import SqueueRow
from orchestrator.backends.slurm.waves import INSTEAD, RECONCILE, Wave, next_jobs, read_stop, waves
from orchestrator.store.store import Store

if TYPE_CHECKING:
    from orchestrator.backends.slurm.jobs import ArrayJobs


def newest_wave(store: Store, sweep: str) -> Wave | None:
    """The newest wave of a sweep if a job was to continue after it."""
    newest = waves(store, sweep, closed=True)[-1:]
    return newest[0] if newest and newest[0].record.get("continues") else None


def _prefix(wave: Wave) -> str:
    """The prefix of the names of all jobs of a wave's sweep."""
    return str(wave.record.get("stem", "")).rpartition("-")[0] + "-"


def place(wave: Wave) -> str:
    """The beginning of the paths of all folders of a wave's sweep, of one user."""
    return str(Path(wave.record["folder"]) / _prefix(wave))


def logs(wave: Wave) -> list[Path]:
    """The logs of the reconcile jobs of a wave's sweep, oldest first."""
    pattern = glob.escape(place(wave))
    found = [path for end in (RECONCILE, INSTEAD) for path in glob.glob(f"{pattern}*{end}/*_log.out")]
    return sorted(map(Path, found), key=lambda path: os.lstat(path).st_mtime)


def ended_words(store: Store, wave: Wave, jobs: ArrayJobs) -> str:
    """Why nothing continues a sweep that is not finished; "" if a job does, the user has cancelled the sweep, or Slurm
    cannot be asked about jobs of this wave's owner.
    """
    stop, ids = read_stop(store, wave), next_jobs(store, wave)
    if jobs.is_elsewhere(wave) or (stop is not None and _by_user(store, wave)):
        return ""
    rows = list(jobs.rows.values())
    if not is_mine(wave.record):
        if jobs.commands.hides_others():
            return ""
        rows = jobs.commands.queue(ids) if ids else []
    alive = [row for row in rows if not row.over]
    if any(row.id in ids or _continues(row, wave) for row in alive):
        return ""
    words = "the job that continues the sweep (reconcile) is not in the queue"
    if written := logs(wave):
        words += f"; its last words: {telling_line(tail(written[-1]))} (log: {written[-1]})"
    return f"{words}. Run nagbench submit to go on."


def _continues(row: SqueueRow, wave: Wave) -> bool:
    return row.name.startswith(_prefix(wave)) and row.name.endswith((RECONCILE, INSTEAD))


def _by_user(store: Store, wave: Wave) -> bool:
    """Whether `nagbench cancel` has stopped a wave, and not the engine itself."""
    return not store.exists(f"{wave.folder}/withdrawn.json")
