"""Whose a wave is: a store may be a group's, and what one user queued no other user cancels."""

from __future__ import annotations

import os
import pwd
import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.backends.slurm.jobs import ArrayJobs


def owner() -> str:
    """The user's name, as part of a job's name; for a user without a name, the number."""
    try:
        return re.sub(r"[^A-Za-z0-9_-]", "_", pwd.getpwuid(os.getuid()).pw_name)
    except KeyError:  # no passwd entry
        return f"uid{os.getuid()}"


def is_mine(record: Mapping[str, Any]) -> bool:
    """Whether this user queued a wave. record: the wave's."""
    return bool(record["uid"] == os.getuid()) if "uid" in record else record.get("owner", owner()) == owner()


def of_others(jobs: ArrayJobs) -> list[str]:
    """The open array tasks of other users, or on other clusters: they are waited for, and never cancelled."""
    left: Counter[str] = Counter()
    for job in jobs.known.values():
        record = job.wave.record
        if not is_mine(record):
            left[f"by {record.get('owner')}"] += len(job.open)
        elif jobs.is_elsewhere(job.wave):
            left[f"on cluster {record['cluster']}"] += len(job.open)
    return [f"{count} array tasks were queued {whose}" for whose, count in left.items() if count]
