"""Each try at a task that ended badly: attempts/<digest>/<name>.json, for execution/retries.py to decide by, and for
people. Names sort by time; two who report one attempt give it one name.

    kind, cause, reason, traceback    which task, and why it ended (orchestrator.execution.failure_causes)
    at                                where the task stood (`place`)
    time, host, job, seconds, log     when and where, and what it wrote
    micro_batch, doublings            how it was tried
    again                             the command that repeats it by hand
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.errors import CorruptFile
from orchestrator.store.layout import block_name
from orchestrator.store.store import Store
from orchestrator.tasks.task import makes_blocks


def place(store: Store, kind: str, digest: str, blocks: Iterable[int] = ()) -> int:
    """Where a task stands: the first of these blocks that is not made, or the step of the newest checkpoint."""
    if makes_blocks(kind):
        return next((number for number in blocks if not store.exists(block_name(digest, number))), -1)
    names = store.list(f"files/{digest}")
    steps = [int(n.removeprefix("checkpoint-").partition(".")[0]) for n in names if n.startswith("checkpoint-")]
    return max(steps, default=0)


def keep(store: Store, digest: str, name: str, attempt: Mapping[str, Any]) -> None:
    store.create_record(f"attempts/{digest}/{name}.json", attempt)


def read(store: Store, digest: str, since: float = 0.0) -> list[dict[str, Any]]:
    """The attempts at a task from that time on, oldest first."""
    found = []
    for name in store.list(f"attempts/{digest}"):
        with contextlib.suppress(CorruptFile):
            found.append(store.read_record(f"attempts/{digest}/{name}", repair=False))
    return [attempt for attempt in found if attempt["time"] >= since]
