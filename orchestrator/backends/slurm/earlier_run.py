"""How the last run of an array task ended, recorded by the next one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from orchestrator.backends.slurm.arrays import Array
from orchestrator.backends.slurm.log_causes import cause_of_requeue, tail
from orchestrator.backends.slurm.process import say
from orchestrator.backends.slurm.waves import MARKS, Wave, read_or_empty
from orchestrator.errors import EnvironmentProblem
from orchestrator.execution.protocol import Bundle
from orchestrator.store.store import Store
from orchestrator.tasks import attempts


class NextRun(Protocol):
    """What is needed of the run that follows (ArrayTaskRunner)."""

    store: Store
    wave: Wave
    array: int
    index: int
    restart: int
    started: float
    folder: Any

    def kind(self, bundle: Bundle, digest: str) -> str: ...
    def published(self, digest: str, blocks: tuple[int, ...] | None, kind: str) -> bool: ...
    def patiently(self, read: Callable[[], Any]) -> Any: ...
    def rerun_command(self) -> str: ...
    def job_id(self) -> str: ...


def record_earlier(task: NextRun, array: Array) -> None:
    """Record how the last run ended, after Slurm requeued this array task by itself, as an attempt at its task."""
    left = (
        (bundle, digest, blocks, kind)
        for bundle in array.tasks[task.index].bundles
        for digest, blocks in bundle.steps
        if not task.published(digest, blocks, kind := task.kind(bundle, digest))
    )
    bundle, digest, blocks, kind = next(left, (None, "", None, ""))
    if bundle is None:
        return
    log = Path(task.folder or ".") / array.name / f"{task.job_id()}_0_log.out"
    last = (task.array, task.index, task.restart - 1)
    began, ended = (read_or_empty(task.store, task.wave.mark(name, *last)) for name in MARKS)
    timeout = ended.get("outcome") == "timeout"
    cause, reason = ("timeout", "it reached its time limit") if timeout else cause_of_requeue(tail(log))
    attempt = {
        **{"kind": kind, "cause": cause, "reason": reason, "traceback": "", "log": str(log)},
        **{"time": round(task.started, 3), "host": began.get("host", ""), "job": task.job_id()},
        "seconds": round(max(0.0, task.started - began.get("started", task.started)), 1),
        **{"micro_batch": bundle.micro_batch, "doublings": bundle.doublings, "again": task.rerun_command()},
        "at": task.patiently(lambda: attempts.position(task.store, kind, digest, blocks or ())),
    }
    wave = replace(task.wave, record=read_or_empty(task.store, f"{task.wave.folder}/wave.json"))
    with contextlib.suppress(EnvironmentProblem):
        attempts.keep(task.store, digest, wave.attempt(*last), attempt)
    say(f"restarted by Slurm: {reason}")
