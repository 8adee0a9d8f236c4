"""Failed attempts at a task: attempts/<digest>/<name>.json. execution/retries.py decides from them how to go on.
Names sort by time; if two processes report one attempt, they give it the same name.

    kind, cause, reason, traceback    the kind of task, and why it ended (orchestrator.execution.failure_causes)
    at                                how far the task was (`place`)
    time, host, job, seconds, log     when and where it ran, and its log
    micro_batch, doublings            the samples at once, and how often the memory was doubled
    again                             the command that repeats it by hand
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.errors import CorruptFile
from orchestrator.store.layout import block_name, record_name
from orchestrator.store.store import Store
from orchestrator.tasks.task import KINDS, makes_blocks


def position(store: Store, kind: str, digest: str, blocks: Iterable[int] = ()) -> int:
    """How far a task is: the first of these blocks that is missing, or the step of the newest checkpoint."""
    if makes_blocks(kind):
        return next((number for number in blocks if not store.exists(block_name(digest, number))), -1)
    names = store.list(f"files/{digest}")
    steps = [int(n.removeprefix("checkpoint-").partition(".")[0]) for n in names if n.startswith("checkpoint-")]
    return max(steps, default=0)


def keep(store: Store, digest: str, name: str, attempt: Mapping[str, Any]) -> None:
    store.create_record(f"attempts/{digest}/{name}.json", attempt)


def not_finite(store: Store, digests: Iterable[str]) -> bool:
    """Whether one of these tasks met values that are not finite, so that it would meet them again. What was made since
    has none.
    """
    return any(
        attempt["cause"] == "not_finite" and not _made_since(store, digest, attempt)
        for digest in digests
        for attempt in read(store, digest)
    )


def _made_since(store: Store, digest: str, attempt: Mapping[str, Any]) -> bool:
    kind, at = attempt.get("kind", ""), attempt.get("at")
    if kind not in KINDS:
        return False
    if not makes_blocks(kind):
        return store.exists(record_name(kind, digest))
    return isinstance(at, int) and store.exists(block_name(digest, max(at, 0)))


def read(store: Store, digest: str, since: float = 0.0) -> list[dict[str, Any]]:
    """The failed attempts at a task since a time (seconds since the epoch), oldest first."""
    failed = []
    for name in store.list(f"attempts/{digest}"):
        with contextlib.suppress(CorruptFile):
            failed.append(store.read_record(f"attempts/{digest}/{name}", repair=False))
    return [attempt for attempt in failed if attempt["time"] >= since]
