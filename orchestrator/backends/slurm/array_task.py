"""Run one array task on its node: its bundles, block by block, each published as soon as it is made.

The job carries only strings: a store, the name of an array in it, and an index. The rest is read from the store. Marks
record its start and its end; only the records of the tasks say what is done.

Signals: Slurm warns before the time limit and, on some sites, before a preemption (USR2), and before it ends a job
(TERM). On a warning, a training writes a checkpoint, and work goes on: Slurm requeues a job that it preempts, but not
one that has exited. Shortly before its time limit, an array task that has made progress requeues itself.
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
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.backends.slurm.earlier_run import record_earlier
from orchestrator.backends.slurm.hidden_inputs import is_there
from orchestrator.backends.slurm.lanes import LaneWorker, lane_cards, lane_options, mps
from orchestrator.backends.slurm.patience import PATIENCE_S, WAIT_S, patiently
from orchestrator.backends.slurm.presence import beating
from orchestrator.backends.slurm.process import prepare, say, say_started
from orchestrator.backends.slurm.rerun_command import rerun_command, worker_options
from orchestrator.backends.slurm.waves import (
    Wave,
    failed_streams,
    read_array,
    read_job_id,
    read_or_empty,
    read_stop,
    record_failed_stream,
)
from orchestrator.errors import EnvironmentProblem
from orchestrator.execution.retries import ALIKE_AT_MOST, HOPELESS, hopeless
from orchestrator.plan.stored_plan import read_plan
from orchestrator.store.layout import block_name, record_name
from orchestrator.store.store import Store
from orchestrator.tasks import attempts
from orchestrator.tasks.context import Context, Options, input_names
from orchestrator.tasks.task import kind_of, makes_blocks

if TYPE_CHECKING:
    from orchestrator.execution.protocol import Bundle
    from orchestrator.execution.worker import Worker

STOP = "STOP"  # while the shared folder has a file of this name, nothing is queued, and array tasks stop
STAGGER_AT_MOST = 20  # array tasks whose starts are spread
HELD_S = 300.0  # how long to wait for the lease of a training, which a dead node may still hold
SPARE_S = 30.0  # kept free before the time limit
FORGOTTEN_S = 600.0  # after this time, a warning that nothing followed no longer counts
WARNED_S = 90.0  # how much too early Slurm may warn of the time limit; an earlier warning has another reason
REPAIRS = 3  # attempts at a bundle in which a damaged file was found


@dataclass(frozen=True)
class RunArrayTask:
    """Called by submitit on the node, in every process of the array task. It does tasks of `plan` only."""

    store: str
    sweep: str
    wave: int
    array: int
    plan: str
    # Fields of Options, and scratch, stagger_s, signal_s, folder, command; group: the processes train one network.
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, index: int) -> str:
        """The outcome, for the log only."""
        prepare(self.options.get("scratch"), self.options.get("group", False), self.options.get("umask"))
        wave = Wave(self.sweep, self.wave)
        runner = ArrayTaskRunner(Store(self.store), wave, self.array, index, self.plan, self.options)
        for number in (signal.SIGUSR2, signal.SIGTERM):  # submitit's handlers would end the process
            signal.signal(number, runner.warn)
        beat, lost_after = wave.mark("beats", self.array, index, runner.restart), self.options.get("lost_after_s", 0.0)
        with beating(runner.store, beat, lost_after) if lost_after and not runner.rank else contextlib.nullcontext():
            time.sleep(index % STAGGER_AT_MOST * self.options.get("stagger_s", 0.0))
            return runner.run()


@dataclass
class ArrayTaskRunner:
    """One process of one run of an array task; only the first process (rank 0) writes marks."""

    store: Store
    wave: Wave
    array: int
    index: int
    plan: str
    options: Mapping[str, Any]
    by_hand: bool = False  # run by a person, outside the queue: writes no marks and ignores stops
    started: float = field(default_factory=time.time)
    warned: list[float] = field(default_factory=list)  # times (monotonic)
    ends: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    slowest: dict[str, float] = field(default_factory=dict)  # seconds of the longest step so far, by kind
    steps: int = 0  # done by this run
    worker: Worker | LaneWorker | None = None
    card: str | None = None  # of one of several processes that share the GPUs
    lanes: list[ArrayTaskRunner] = field(default_factory=list)  # those processes; empty: this one works alone
    place: int = 0  # number of the current bundle
    current: str = ""  # digest of the current task
    training: str = ""  # the same, if it is a training
    resumed_at: int = 0  # step of the checkpoint that it started from
    minutes: float = float("inf")
    gpus: int = 0

    def __post_init__(self) -> None:
        self.restart = 0 if self.by_hand else int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        self.rank = 0 if self.by_hand else int(os.environ.get("SLURM_PROCID", "0"))
        self.folder = self.options.get("folder")
        self.context = Context(self.store)  # to read plans; the worker is made when there is work

    def run(self) -> str:
        if not self._is_queued():
            say("nothing to do: its submitter was killed, and the work was queued again as another array")
            return "given up"
        name = self.wave.array_name(self.array)
        array = self.patiently(lambda: read_array(self.store, name))
        self.minutes, self.gpus = array.resources.minutes, array.resources.gpus * array.resources.nodes
        bundles = array.tasks[self.index].bundles
        if any(bundle.plan != self.plan for bundle in bundles):
            raise EnvironmentProblem(f"{self.store.path(name)} is not what was submitted: it names another plan")
        if self.restart and not self.rank:
            record_earlier(self, array)
        self._mark("starts", {})
        say_started()
        with mps(bool(self.options.get("mps")) and array.lanes > 1):
            outcome = self._all(bundles, array.lanes)
        self._mark_end(outcome)
        if outcome == "timeout":
            self._requeue()
        say(f"{outcome}: {self.steps} steps done, {len(self.ends)} bundles not done")
        if any(end["outcome"] == "failed" for end in self.ends):
            say(f"to run it by hand: {self.rerun_command()}")
        return outcome

    def _all(self, bundles: Sequence[Bundle], count: int) -> str:
        """Do the bundles, `count` at the same time. Returns the outcome."""
        todo = deque(enumerate(bundles))
        if count == 1:
            return self._one_by_one(todo)
        self.lanes = [replace(self, card=card, events=[], slowest={}, lanes=[]) for card in lane_cards(count)]
        with ThreadPoolExecutor(count) as pool:
            outcomes = list(pool.map(lambda lane: lane._one_by_one(todo), self.lanes))
        self.steps = sum(lane.steps for lane in self.lanes)
        return next((outcome for outcome in outcomes if outcome != "done"), "done")

    def _one_by_one(self, todo: deque[tuple[int, Bundle]]) -> str:
        while todo:
            try:
                self.place, bundle = todo.popleft()
            except IndexError:  # another lane was faster
                break
            end = self._bundle(bundle)
            if end["outcome"] != "done":
                self.ends.append({"bundle": self.place, **end})
                if end["outcome"] in ("stopped", "timeout"):
                    return str(end["outcome"])
        if isinstance(self.worker, LaneWorker):
            self.worker.close()
        return "done"

    def rerun_command(self) -> str:
        array, command = self.wave.array_name(self.array), self.options.get("command", sys.executable)
        return rerun_command(command, self.store.url, array, self.index, self.plan, self.options)

    def _is_queued(self) -> bool:
        """Whether this job counts: if its submitter was killed before recording the id, another may replace it."""
        recorded, job = self.patiently(lambda: read_job_id(self.store, self.wave, self.array))
        return self.by_hand or not recorded or self._job() == job

    def _job(self) -> str:
        return os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID", "")

    def job_id(self) -> str:
        """The id of the job or array task. Not SLURM_JOB_ID: in the last array task, that is the id of the array."""
        index = os.environ.get("SLURM_ARRAY_TASK_ID")
        return f"{self._job()}_{index}" if index else self._job()

    def _bundle(self, bundle: Bundle) -> dict[str, Any]:
        """Do the missing steps of a bundle. Returns how it ended."""
        if why := self._hopeless(bundle):
            return {"outcome": "skipped", "reason": why}
        end: dict[str, Any] = {"outcome": "corrupt"}
        try:
            for _ in range(REPAIRS):
                if end["outcome"] == "corrupt":
                    end = self._steps(bundle)
        except ValueError as error:  # a task that no plan of the store has, or that another version of the code wrote
            from orchestrator.execution.worker import outcome

            say(str(error))
            return {"digest": self.current, **outcome(error)}
        if end.get("cause") in HOPELESS and makes_blocks(bundle.kind) and not self.by_hand:
            with contextlib.suppress(EnvironmentProblem):
                record_failed_stream(self.store, self.wave, self.context.task(end["digest"]).stream, end["reason"])
        return end

    def _hopeless(self, bundle: Bundle) -> str:
        """Why not to begin a bundle: its cell has failed for good, or several cells of its arm have; or ""."""
        if not makes_blocks(bundle.kind) or self.by_hand:
            return ""
        failed = self.patiently(lambda: failed_streams(self.store, self.wave))
        if not failed:
            return ""
        self.kind(bundle, bundle.steps[0][0])  # reads the plan
        stream = self.context.task(bundle.steps[0][0]).stream
        if reason := failed.get(stream):
            return f"not tried: another block of its cell failed: {reason}"
        arms = self.patiently(lambda: read_plan(self.store, bundle.plan).arms) if len(failed) >= ALIKE_AT_MOST else {}
        for arm, (count, left) in hopeless(arms, failed).items():
            if stream in left:
                return f"not tried: {count} cells of arm {arm} failed alike"
        return ""

    def _steps(self, bundle: Bundle) -> dict[str, Any]:
        for digest, blocks in bundle.steps:
            self.current = digest
            kind = self.kind(bundle, digest)
            if self.published(digest, blocks, kind) or (self.rank and not kind_of(kind).distributed):
                continue
            if self._stopped():
                return {"outcome": "stopped", "digest": digest}
            if self.steps and not kind_of(kind).resumes and self.slowest.get(kind, 0.0) > self._left() - SPARE_S:
                return {
                    "outcome": "timeout",
                    "digest": digest,
                    "cause": "timeout",
                    "reason": "it reached its time limit",
                }
            if missing := self.patiently(functools.partial(self._missing_input, digest, blocks)):
                return {"outcome": "skipped", "digest": digest, "reason": f"{missing} is not there"}
            if self.worker is None and self._worker() and blocks and self.published(digest, blocks, kind):
                continue  # published while torch was loading
            self.training = digest if kind_of(kind).resumes else ""
            self.resumed_at, began = self._checkpoint(), time.time()
            end = self._step(bundle, digest, blocks)
            self.training = ""
            if end["outcome"] != "done":
                return end
            self.steps += 1
            self.slowest[kind] = max(self.slowest.get(kind, 0.0), time.time() - began)
            what = f"{kind} {digest} {' '.join(map(str, blocks or ()))}"
            made = any(event.get("made") for event in self.events)
            say(f"made {what} in {time.time() - began:.2f} s" if made else f"{what}: made by another meanwhile")
        return {"outcome": "done"}

    def _step(self, bundle: Bundle, digest: str, blocks: tuple[int, ...] | None) -> dict[str, Any]:
        """Do one step; retry for a while if the store cannot be written or somebody else holds the lease."""
        began = time.monotonic()
        while True:
            self.events.clear()
            message = {"id": 0, "plan": bundle.plan, "steps": [(digest, blocks)], "micro_batch": bundle.micro_batch}
            self._worker().bundle(message)
            end = {"digest": digest, **{k: v for k, v in self.events[-1].items() if k not in ("id", "event")}}
            if end["outcome"] == "failed":
                say(end.get("traceback") or end["reason"])
            patience = {"environment": PATIENCE_S, "held": HELD_S}.get(end.get("cause") or end["outcome"], 0.0)
            if time.monotonic() - began >= patience or self._warned() or self._stopped():
                return end
            say(f"{end.get('reason') or end['outcome']}; waiting")
            time.sleep(WAIT_S)

    def _worker(self) -> Worker | LaneWorker:
        """The worker of this process, made when there is work, as importing torch takes seconds."""
        if self.worker is None and self.card is not None:
            options = lane_options(Options(**worker_options(self.options)), self.gpus)
            self.worker = LaneWorker(self.store.url, options, self.card, self.events.append)
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

    def kind(self, bundle: Bundle, digest: str) -> str:
        def read() -> str:
            self.context.read_plan(bundle.plan)
            return self.context.task(digest).kind

        return str(self.patiently(read))

    def published(self, digest: str, blocks: tuple[int, ...] | None, kind: str) -> bool:
        names = [record_name(kind, digest)] if blocks is None else [block_name(digest, number) for number in blocks]
        return self.patiently(lambda: all(map(self.store.exists, names)))

    def _missing_input(self, digest: str, blocks: tuple[int, ...] | None) -> str:
        """The first input of a step that is not there, because the task that makes it failed; or ""."""
        names = input_names(self.context, self.context.task(digest), blocks)
        until = self.started + self.options.get("visible_after_s", 0.0)
        return next((name for name in names if not is_there(self.store, self.wave, name, until)), "")

    def _left(self) -> float:
        """Seconds until Slurm ends this array task."""
        return self.started + self.minutes * 60 - time.time()

    def warn(self, number: int, frame: Any) -> None:
        if number == signal.SIGTERM and self._stopped():
            self._mark_end("stopped")
            os._exit(143)
        self.warned.append(time.monotonic())
        for lane in self.lanes:
            if isinstance(lane.worker, LaneWorker):
                lane.worker.warn()
        if self._left() < self.options.get("signal_s", 90.0) + WARNED_S:
            threading.Thread(target=self._at_the_end, daemon=True).start()

    def _warned(self) -> bool:
        """Whether Slurm is about to end this process."""
        return bool(self.warned) and time.monotonic() - self.warned[-1] < FORGOTTEN_S

    def _at_the_end(self) -> None:
        """After the warning of the time limit: requeue just before it."""
        time.sleep(max(0.0, self._left() - SPARE_S / 2))
        end = {"outcome": "timeout", "cause": "timeout", "reason": "it reached its time limit"}
        self.ends += [{"bundle": each.place, "digest": each.current, **end} for each in self.lanes or [self]]
        self._mark_end("timeout")
        self._requeue()

    def _requeue(self) -> None:
        """Requeue this array task if it has made progress; otherwise the engine decides."""
        if not self._progress() or self.rank or self.by_hand:
            return
        from orchestrator.backends.slurm.commands import Commands, QueryFailed

        with contextlib.suppress(QueryFailed):
            Commands().requeue([self.job_id()])
            time.sleep(60)  # until Slurm ends this process

    def _progress(self) -> bool:
        every = self.lanes or [self]
        return any(each.steps > 0 or each._checkpoint() > each.resumed_at for each in every)

    def _checkpoint(self) -> int:
        """The step of the current training's newest checkpoint."""
        if not self.training:
            return 0
        return int(self.patiently(lambda: attempts.position(self.store, "train", self.training)))

    def _stopped(self) -> bool:
        """Whether the user has stopped everything, this wave, or its current task."""
        if self.by_hand:
            return False
        with contextlib.suppress(EnvironmentProblem, OSError):
            if self.folder and (Path(self.folder) / STOP).exists():
                return True
            stop = read_stop(self.store, self.wave)
            return stop is not None and stop.covers([self.current])
        return False

    def patiently(self, read: Callable[[], Any]) -> Any:
        return patiently(self.store, read)

    def _mark_end(self, outcome: str) -> None:
        loads = self.worker.context.loads if self.worker else 0
        record = {"outcome": outcome, "bundles": self.ends, "progress": self._progress(), "networks_loaded": loads}
        self._mark("ends", record)

    def _mark(self, kind: str, record: Mapping[str, Any]) -> None:
        if self.rank or self.by_hand:
            return
        about = {
            "job": self._job(),
            "host": os.environ.get("SLURMD_NODENAME") or platform.node(),
            "gpus": self.gpus,
            "started": round(self.started, 3),
            "time": round(time.time(), 3),
        }
        key = (self.array, self.index, self.restart)
        with contextlib.suppress(EnvironmentProblem):  # without a mark, engines ask Slurm
            name = self.wave.mark(kind, *key)
            late = not self.store.create_record(name, {**about, **record}) and kind == "ends"
            if late and read_or_empty(self.store, name).get("cause") == "lost":  # an engine gave it up while it ran
                self.store.create_record(self.wave.mark("doubled", *key), about)
