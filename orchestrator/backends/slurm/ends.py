"""How a bundle of an array task ended, for the engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.backends.slurm.jobs import EndedArrayTask
from orchestrator.execution.protocol import End
from orchestrator.tasks.task import makes_blocks

if TYPE_CHECKING:
    from orchestrator.execution.protocol import Bundle
    from orchestrator.plan.model import StoredPlan
    from orchestrator.plan.progress import Done


def bundle_end(
    handle: int, ended: EndedArrayTask, end: Mapping[str, Any] | None, folder: Path, most_gb: float | None, again: str
) -> End:
    """end: the array task's own record of it. folder: of the logs. most_gb: the most memory that the site allows.
    again: the command that runs the array task by hand; "" if there is none.
    """
    if end is None or end["outcome"] in ("skipped", "stopped"):
        return End(handle, "skipped")
    if end["outcome"] in ("held", "corrupt"):
        return End(handle, end["outcome"], end.get("digest", ""), end.get("reason", ""))
    job, index, mark = ended.job, ended.index, ended.mark
    details = {
        "host": mark.get("host", ""),
        "job": job.array_task_id(index),
        "log": str(job.log(folder, index)),
        **({"again": again} if again else {}),
        "seconds": round(max(0.0, mark.get("time", 0.0) - mark.get("started", mark.get("time", 0.0))), 1),
        "at_memory_bound": most_gb is not None and job.array.resources.memory_gb >= most_gb,
        **{key: end[key] for key in ("micro_batch", "time") if end.get(key)},
    }
    name = job.wave.attempt(job.place, index, ended.restart)
    cause = "environment" if end["outcome"] == "environment" else end.get("cause") or "died"
    return End(handle, "failed", end["digest"], end["reason"], end.get("traceback", ""), cause, name, details)


def unpublished(plan: StoredPlan, bundle: Bundle, done: Done) -> list[tuple[str, tuple[int, ...] | None]]:
    """Steps of a bundle whose results are not in the store."""
    left = []
    for digest, blocks in bundle.steps:
        kind = plan.tasks[digest].kind if digest in plan.tasks else bundle.kind
        if not (done.blocks(digest) >= set(blocks or ()) if makes_blocks(kind) else digest in done.small[kind]):
            left.append((digest, blocks))
    return left
