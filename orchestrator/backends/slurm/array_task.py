"""What one array task of a job array does on its node: its bundles, block by block, each published as it is made.

It is given strings only: a store, the name of an array in it, and its place there. What it does, it reads. It leaves a
mark when it begins and one when it ends; all that matters is in the records of the tasks.

Signals. Slurm warns before the time limit and, on some sites, before a preemption (USR2), and before it ends a job
(TERM). A warning makes a training write a checkpoint. Work goes on: Slurm requeues what it preempts, unless that left
by itself; before its time limit an array task requeues itself, if it has got on.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.backends.slurm.arrays import Array
from orchestrator.backends.slurm.log_causes import cause_of_requeue, tail
from orchestrator.backends.slurm.process import prepare
from orchestrator.backends.slurm.rerun_command import rerun_command, worker_options
from orchestrator.backends.slurm.waves import (
    Wave,
    failed_streams,
    read_array,
    read_job_id,
    read_stop,
    record_failed_stream,
)
from orchestrator.errors import CorruptFile, EnvironmentProblem
from orchestrator.execution.retries import ALIKE_AT_MOST, HOPELESS, hopeless
from orchestrator.store.layout import block_name, plan_name, record_name
from orchestrator.store.store import Store
from orchestrator.tasks import attempts
from orchestrator.tasks.context import Context, Options
from orchestrator.tasks.task import BLOCK_KINDS, shards

if TYPE_CHECKING:
    from orchestrator.execution.protocol import Bundle
    from orchestrator.execution.worker import Worker

STOP = "STOP"  # a file of this name in the shared folder: nothing is queued, and array tasks come to an end
STAGGER_AT_MOST = 20  # array tasks whose starts are spread
PATIENCE_S = 600.0  # with a store that cannot be written just now
HELD_S = 300.0  # with a training that somebody else, perhaps a node that is gone, has the lease of
WAIT_S = 5.0
SPARE_S = 30.0  # of the time limit that an array task leaves
FORGOTTEN_S = 600.0  # after a warning
WARNED_S = 90.0  # how much too early Slurm may warn of the time limit; an earlier warning is of something else
REPAIRS = 3  # turns at a bundle in which a damaged file was found
MARKS = ("starts", "ends")


@dataclass(frozen=True)
class RunArrayTask:
    """Called by submitit on the node, on every task of the array task. Only tasks of `plan` are done."""

    store: str
    sweep: str
    wave: int
    array: int
    plan: str
    # Of Options, and: scratch, stagger_s, signal_s, folder, command; group: its tasks train one network together.
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, index: int) -> str:
        """How it ended, for the log; nobody reads it for a decision."""
        prepare(self.options.get("scratch"), self.options.get("group", False))
        wave = Wave(self.sweep, self.wave)
        running = ArrayTaskRunner(Store(self.store), wave, self.array, index, self.plan, self.options)
        for number in (signal.SIGUSR2, signal.SIGTERM):  # submitit's handlers would end what can go on
            signal.signal(number, running.warn)
        time.sleep(index % STAGGER_AT_MOST * self.options.get("stagger_s", 0.0))
        return running.run()


@dataclass
class ArrayTaskRunner:
    """One run of an array task, on one of its tasks; only the first task (rank 0) leaves marks."""

    store: Store
    wave: Wave
    array: int
    index: int
    plan: str
    options: Mapping[str, Any]
    by_hand: bool = False  # by a person, beside the queue: nothing is marked, and what stops the queue does not stop it
    started: float = field(default_factory=time.time)
    warned: list[float] = field(default_factory=list)  # times (monotonic)
    ends: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    slowest: dict[str, float] = field(default_factory=dict)  # seconds of the longest step so far, by kind
    steps: int = 0
    worker: Worker | None = None
    place: int = 0  # of the bundle that is being done
    current: str = ""  # the task that is being done
    training: str = ""  # the same, if it is a training
    resumed_at: int = 0
    minutes: float = float("inf")
    gpus: int = 0

    def __post_init__(self) -> None:
        self.restart = 0 if self.by_hand else int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        self.rank = 0 if self.by_hand else int(os.environ.get("SLURM_PROCID", "0"))
        self.folder = self.options.get("folder")
        self.context = Context(self.store)  # to look things up; what works is made when there is work

    def run(self) -> str:
        if not self._is_queued():
            _say("given up when its submitter was killed, and queued again as another array; nothing to do")
            return "given up"
        name = self.wave.array_name(self.array)
        found = self._patiently(lambda: read_array(self.store, name))
        self.minutes, self.gpus = found.resources.minutes, found.resources.gpus * found.resources.nodes
        bundles = found.tasks[self.index].bundles
        if any(bundle.plan != self.plan for bundle in bundles):
            raise EnvironmentProblem(f"{self.store.path(name)} is not what was submitted: it names another plan")
        if self.restart and not self.rank:
            self._keep_earlier(found)
        self._mark("starts", {})
        outcome = "done"
        for place, bundle in enumerate(bundles):
            self.place = place
            end = self._bundle(bundle)
            if end["outcome"] != "done":
                self.ends.append({"bundle": place, **end})
                if end["outcome"] in ("stopped", "timeout"):
                    outcome = end["outcome"]
                    break
        self._mark_end(outcome)
        if outcome == "timeout":
            self._begin_again()
        _say(f"{outcome}: {self.steps} steps made, {len(self.ends)} bundles not done")
        if any(end["outcome"] == "failed" for end in self.ends):
            _say(f"the same by hand: {self._rerun_command()}")
        return outcome

    def _rerun_command(self) -> str:
        array, command = self.wave.array_name(self.array), self.options.get("command", sys.executable)
        return rerun_command(command, self.store.url, array, self.index, self.plan, self.options)

    def _keep_earlier(self, array: Array) -> None:
        """Slurm has begun this array task again by itself: keep what became of its last run with the attempts."""
        left = (
            (bundle, digest, blocks, kind)
            for bundle in array.tasks[self.index].bundles
            for digest, blocks in bundle.steps
            if not self._published(digest, blocks, kind := self._kind(bundle, digest))
        )
        bundle, digest, blocks, kind = next(left, (None, "", None, ""))
        if bundle is None:
            return
        log = Path(self.folder or ".") / array.name / f"{self._id()}_0_log.out"
        began, ended = (self._earlier(self.wave.mark(name, self.array, self.index, self.restart - 1)) for name in MARKS)
        timeout = ended.get("outcome") == "timeout"
        cause, reason = ("timeout", "its time limit came") if timeout else cause_of_requeue(tail(log))
        attempt = {
            **{"kind": kind, "cause": cause, "reason": reason, "traceback": "", "log": str(log)},
            **{"time": round(self.started, 3), "host": began.get("host", ""), "job": self._id()},
            "seconds": round(max(0.0, self.started - began.get("started", self.started)), 1),
            **{"micro_batch": bundle.micro_batch, "doublings": bundle.doublings, "again": self._rerun_command()},
            "at": self._patiently(lambda: attempts.place(self.store, kind, digest, blocks or ())),
        }
        wave = replace(self.wave, record=self._earlier(f"{self.wave.folder}/wave.json"))
        with contextlib.suppress(EnvironmentProblem):
            attempts.keep(self.store, digest, wave.attempt(self.array, self.index, self.restart - 1), attempt)
        _say(f"begun again by Slurm: {reason}")

    def _earlier(self, name: str) -> dict[str, Any]:
        """A record that may not be there."""
        with contextlib.suppress(CorruptFile):
            return self.store.read_record(name, repair=False)
        return {}

    def _is_queued(self) -> bool:
        """Whether engines know this job by its id; one whose submitter was killed at once is queued again instead."""
        sent, job = self._patiently(lambda: read_job_id(self.store, self.wave, self.array))
        return self.by_hand or not sent or self._job() == job

    def _job(self) -> str:
        return os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID", "")

    def _id(self) -> str:
        """The id of the job or array task. Not SLURM_JOB_ID: in the last array task, that is the id of the array."""
        index = os.environ.get("SLURM_ARRAY_TASK_ID")
        return f"{self._job()}_{index}" if index else self._job()

    def _bundle(self, bundle: Bundle) -> dict[str, Any]:
        """Do a bundle's steps that are not done; how it ended."""
        if why := self._hopeless(bundle):
            return {"outcome": "skipped", "reason": why}
        end: dict[str, Any] = {"outcome": "corrupt"}
        try:
            for _ in range(REPAIRS):
                if end["outcome"] == "corrupt":
                    end = self._steps(bundle)
        except ValueError as error:  # of a task that no plan of the store has, or that this code knows otherwise
            from orchestrator.execution.worker import outcome

            _say(str(error))
            return {"digest": self.current, **outcome(error)}
        if end.get("cause") in HOPELESS and bundle.kind in BLOCK_KINDS and not self.by_hand:
            with contextlib.suppress(EnvironmentProblem):
                record_failed_stream(self.store, self.wave, self._stream(end["digest"]), end["reason"])
        return end

    def _hopeless(self, bundle: Bundle) -> str:
        """Why not to begin a bundle: its cell has failed for good, or several of its arm have alike; else empty."""
        if bundle.kind not in BLOCK_KINDS or self.by_hand:
            return ""
        failed = self._patiently(lambda: failed_streams(self.store, self.wave))
        if not failed:
            return ""
        self._kind(bundle, bundle.steps[0][0])  # reads the plan
        if reason := failed.get(self._stream(bundle.steps[0][0])):
            return f"not tried: another block of its cell failed: {reason}"
        if len(failed) < ALIKE_AT_MOST:
            return ""
        arms = self._patiently(lambda: self.store.read_record(plan_name(bundle.plan), repair=False)).get("arms", {})
        for arm, (count, left) in hopeless(arms, failed).items():
            if self._stream(bundle.steps[0][0]) in left:
                return f"not tried: {count} cells of arm {arm} failed alike"
        return ""

    def _stream(self, digest: str) -> str:
        """The stream that a task of blocks belongs to."""
        return str(self.context.task(digest).params.get("stream", digest))

    def _steps(self, bundle: Bundle) -> dict[str, Any]:
        for digest, blocks in bundle.steps:
            self.current = digest
            kind = self._kind(bundle, digest)
            if self._published(digest, blocks, kind) or (self.rank and kind != "train"):
                continue
            if self._stopped():
                return {"outcome": "stopped", "digest": digest}
            if self.steps and kind != "train" and self.slowest.get(kind, 0.0) > self._left() - SPARE_S:
                return {"outcome": "timeout", "digest": digest, "cause": "timeout", "reason": "its time limit came"}
            if lacking := self._patiently(functools.partial(self._lacking, digest, blocks)):
                return {"outcome": "skipped", "digest": digest, "reason": f"{lacking} is not there"}
            if self.worker is None and self._worker() and blocks and self._published(digest, blocks, kind):
                continue  # somebody else was faster than torch
            self.training = digest if kind == "train" else ""
            self.resumed_at, began = self._checkpoint(), time.time()
            end = self._step(bundle, digest, blocks)
            self.training = ""
            if end["outcome"] != "done":
                return end
            self.steps += 1
            self.slowest[kind] = max(self.slowest.get(kind, 0.0), time.time() - began)
            _say(f"made {kind} {digest} {' '.join(map(str, blocks or ()))} in {time.time() - began:.2f} s")
        return {"outcome": "done"}

    def _step(self, bundle: Bundle, digest: str, blocks: tuple[int, ...] | None) -> dict[str, Any]:
        """One step, with patience for what passes: a store that cannot be written, a lease of somebody who is gone."""
        began = time.monotonic()
        while True:
            self.events.clear()
            message = {"id": 0, "plan": bundle.plan, "steps": [(digest, blocks)], "micro_batch": bundle.micro_batch}
            self._worker().bundle(message)
            end = {"digest": digest, **{k: v for k, v in self.events[-1].items() if k not in ("id", "event")}}
            if end["outcome"] == "failed":
                _say(end.get("traceback") or end["reason"])
            patience = {"environment": PATIENCE_S, "held": HELD_S}.get(end.get("cause") or end["outcome"], 0.0)
            if time.monotonic() - began >= patience or self._warned() or self._stopped():
                return end
            _say(f"{end.get('reason') or end['outcome']}; waiting")
            time.sleep(WAIT_S)

    def _worker(self) -> Worker:
        """The worker of this process, made when there is something to do: torch takes seconds."""
        if self.worker is None:
            import torch

            from orchestrator.execution.worker import Worker

            device = "cuda" if self.gpus and torch.cuda.is_available() else "cpu"
            if device == "cpu":
                torch.set_num_threads(1)
            options = Options(**{"device": device, **worker_options(self.options)})
            self.worker = Worker(self.store, options, self.events.append)
            self.worker.context.warned = self.warned
        return self.worker

    def _kind(self, bundle: Bundle, digest: str) -> str:
        def look() -> str:
            self.context.read_plan(bundle.plan)
            return self.context.task(digest).kind

        return str(self._patiently(look))

    def _published(self, digest: str, blocks: tuple[int, ...] | None, kind: str) -> bool:
        names = [record_name(kind, digest)] if blocks is None else [block_name(digest, number) for number in blocks]
        return self._patiently(lambda: all(map(self.store.exists, names)))

    def _lacking(self, digest: str, blocks: tuple[int, ...] | None) -> str:
        """What a step reads and is not there, because what makes it has failed; empty if all is there."""
        task = self.context.task(digest)
        if blocks is None and "count" in task.params:
            blocks = tuple(range(-(-task.params["count"] // task.params["block"])))
        for need in map(self.context.task, task.inputs):
            numbers = shards(need) if need.kind == "encode" else blocks or ()  # a training reads all latents
            several = [block_name(need.digest, number) for number in numbers]
            for name in several if need.kind in BLOCK_KINDS else [need.record_name]:
                if not self.store.exists(name):
                    return name
        return ""

    def _left(self) -> float:
        """Seconds until Slurm ends this array task."""
        return self.started + self.minutes * 60 - time.time()

    def warn(self, number: int, frame: Any) -> None:
        if number == signal.SIGTERM and self._stopped():
            self._mark_end("stopped")
            os._exit(143)
        self.warned.append(time.monotonic())
        if self._left() < self.options.get("signal_s", 90.0) + WARNED_S:
            threading.Thread(target=self._at_the_end, daemon=True).start()

    def _warned(self) -> bool:
        """Whether this process is about to be ended. A warning that nothing came of is forgotten."""
        return bool(self.warned) and time.monotonic() - self.warned[-1] < FORGOTTEN_S

    def _at_the_end(self) -> None:
        """After the warning for the time limit: begin again just before it."""
        time.sleep(max(0.0, self._left() - SPARE_S / 2))
        end = {"outcome": "timeout", "digest": self.current, "cause": "timeout", "reason": "its time limit came"}
        self.ends.append({"bundle": self.place, **end})
        self._mark_end("timeout")
        self._begin_again()

    def _begin_again(self) -> None:
        """Requeue this array task, if it got on: a run without progress is for the engine to judge."""
        if not self._progress() or self.rank or self.by_hand:
            return
        from orchestrator.backends.slurm.commands import Commands, QueryFailed

        with contextlib.suppress(QueryFailed):
            Commands().requeue([self._id()])
            time.sleep(60)  # until Slurm ends this process

    def _progress(self) -> bool:
        return self.steps > 0 or self._checkpoint() > self.resumed_at

    def _checkpoint(self) -> int:
        """The step of the newest checkpoint of the training that runs."""
        if not self.training:
            return 0
        return int(self._patiently(lambda: attempts.place(self.store, "train", self.training)))

    def _stopped(self) -> bool:
        """Whether the user has ended everything, this wave, or the task of it that is being done."""
        if self.by_hand:
            return False
        with contextlib.suppress(EnvironmentProblem, OSError):
            if self.folder and (Path(self.folder) / STOP).exists():
                return True
            stop = read_stop(self.store, self.wave)
            return stop is not None and stop.covers([self.current])
        return False

    def _patiently(self, look: Callable[[], Any]) -> Any:
        """`look()`, repeated while the store cannot be read."""
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                return look()
            except (OSError, EnvironmentProblem, CorruptFile):
                if time.monotonic() > end:
                    raise
                time.sleep(WAIT_S)

    def _mark_end(self, outcome: str) -> None:
        loads = self.worker.context.loads if self.worker else 0
        record = {"outcome": outcome, "bundles": self.ends, "progress": self._progress(), "networks_loaded": loads}
        self._mark("ends", record)

    def _mark(self, kind: str, record: Mapping[str, Any]) -> None:
        if self.rank or self.by_hand:
            return
        told = {
            "job": self._job(),
            "host": os.environ.get("SLURMD_NODENAME") or platform.node(),
            "gpus": self.gpus,
            "started": round(self.started, 3),
            "time": round(time.time(), 3),
        }
        with contextlib.suppress(EnvironmentProblem):  # a mark only saves questions to Slurm
            self.store.create_record(self.wave.mark(kind, self.array, self.index, self.restart), {**told, **record})


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
    sys.stderr.flush()
