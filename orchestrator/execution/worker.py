"""Worker: does tasks on the machine where it runs. `run` does one task; `main` is a worker process, which takes bundles
from the process that started it.

They exchange lines of JSON. In: {"id", "plan", "steps": [[digest, blocks or null], ...], "micro_batch"}. Out: {"id",
"event": "progress" | "step" | "end", ...}. When the other process ends, for whatever reason, the input ends and so
does this process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nag.distributed import World, environment, free_port, world
from orchestrator.errors import CorruptFile, EnvironmentProblem, NagbenchError, Unreadable
from orchestrator.execution.failure_causes import cause_of
from orchestrator.execution.variables import variables
from orchestrator.spec import user_code
from orchestrator.store.store import Store
from orchestrator.tasks.context import Context, HeldElsewhere, Options
from orchestrator.tasks.context import run as run_task
from orchestrator.tasks.task import Task
from orchestrator.tasks.used import gpu_load

REPORT_EVERY_S = 0.2
LOG_EVERY_S = 5.0
WARNED = "warned"  # argument of a worker that gets Slurm's warnings as signals


def run(store_url: str, digest: str, blocks: list[int] | None = None, options: Options | None = None) -> None:
    """Do a task of a plan in the store, or some blocks of it. Raises the errors of orchestrator.errors."""
    run_task(Context(Store(store_url), options or Options()), digest, blocks)


def outcome(error: BaseException) -> dict[str, Any]:
    """Convert an exception to an outcome for the engine: cause, one line for the user, traceback for the log."""
    if isinstance(error, HeldElsewhere):
        return {"outcome": "held"}
    if isinstance(error, CorruptFile) and not isinstance(error, Unreadable):
        return {"outcome": "corrupt", "reason": str(error)}
    if isinstance(error, EnvironmentProblem | Unreadable):
        return {"outcome": "environment", "reason": str(error), "cause": "environment"}
    known = isinstance(error, NagbenchError | FloatingPointError)  # nag's error for values that are not finite
    reason = str(error) if known else f"{type(error).__name__}: {error}"
    if (place := user_code.user_line(error)) is not None:
        reason = f"{place}: {reason}"
    text = "".join(traceback.format_exception(error))
    return {"outcome": "failed", "reason": reason, "cause": cause_of(error), "traceback": text}


class Worker:
    """Bundles in, events out; networks and references stay loaded between bundles."""

    def __init__(
        self,
        store: Store,
        options: Options,
        send: Callable[[dict[str, Any]], None],
        logs: Store | None = None,
        raises: bool = False,
    ) -> None:
        options = options.here()
        store.visible_after_s = options.visible_after_s
        self.send, self.logs, self.raises, self.options = send, logs, raises, options
        self.context = Context(store, options, tell=self._tell)
        self.current, self.reported, self.logged = 0, 0.0, 0.0

    def _tell(self, digest: str, done: int, of: int, loss: float | None = None) -> None:
        if time.monotonic() - self.reported >= REPORT_EVERY_S:
            self.reported = time.monotonic()
            if self.logs and self.reported - self.logged >= LOG_EVERY_S:
                self.logged = self.reported
                _write(f"{done:,} of {of:,}")
            more = {} if loss is None else {"loss": loss}
            self.send({"id": self.current, "event": "progress", "digest": digest, "done": done, "of": of, **more})

    def bundle(self, message: dict[str, Any]) -> None:
        """Do the bundle of a message {"id", "plan", "steps", "micro_batch"}; the last event is always its end."""
        self.current = message["id"]
        gpu_load(self.options.device)  # begins to measure
        micro_batch = message["micro_batch"] or self.options.micro_batch
        self.context.options = dataclasses.replace(self.options, micro_batch=micro_batch)
        for digest, blocks in message["steps"]:
            self.reported = 0.0  # the first report of each task goes out at once
            try:
                self.context.read_plan(message["plan"])
                with logged(self.logs, digest, blocks) as blocks_made, self._training_group(digest, message):
                    blocks_made += run_task(self.context, digest, blocks)
            except Exception as error:
                end = outcome(error)
                if self.raises and end["outcome"] == "failed":
                    raise
                end["micro_batch"] = self._micro_batch(digest)
                self.send({"id": self.current, "event": "end", "digest": digest, **end})
                return
            made = {"digest": digest, "blocks": blocks, "made": bool(blocks_made)}  # else it was there already
            self.send({"id": self.current, "event": "step", **made})
        self.send({"id": self.current, "event": "end", "outcome": "done"})

    @contextlib.contextmanager
    def _training_group(self, digest: str, message: dict[str, Any]) -> Iterator[None]:
        """For the training of a network, start the other processes that take part in it; else do nothing."""
        task = self.context.task(digest)
        if self.options.processes == 1 or task.trains != "network":
            yield
            return
        World(0, self.options.processes).part(_batch(task))  # ValueError before another process is started
        step = {**message, "steps": [(digest, None)]}
        with peers(self.context.store, self.options, step) as ours, variables(ours):
            yield

    def _micro_batch(self, digest: str) -> int:
        """The micro-batch that a task really had: at most its batch, or its block."""
        most, task = self.context.options.micro_batch, self.context.tasks.get(digest)
        if task is None:
            return most
        if task.trains == "network":
            return min(most, _batch(task) // max(world().size, self.options.processes))
        return min(most, task.params.get("block", most))


def _batch(task: Task) -> int:
    """The batch of the training of a network."""
    from nag.training import Training

    return Training(**task.params["train"]["fields"]).batch


@contextlib.contextmanager
def peers(store: Store, options: Options, message: dict[str, Any]) -> Iterator[Mapping[str, str]]:
    """Start the other processes of a distributed training on this machine, with the same message. Yields the
    environment variables for this process (nag.distributed). The others end with this process, however it ends.
    """
    size, port = options.processes, free_port()
    alone = json.dumps(dataclasses.asdict(dataclasses.replace(options, processes=1)))
    command = [sys.executable, "-m", "orchestrator.execution.worker", store.url, alone]
    ours = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])),
    }
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    others = [
        subprocess.Popen(command, env={**ours, **environment(rank, size, port)}, start_new_session=True, **pipes)
        for rank in range(1, size)
    ]
    try:
        for other in others:
            assert other.stdin is not None
            assert other.stdout is not None
            if not other.stdout.readline():
                raise RuntimeError(f"another process of this training did not start (exit code {other.wait()})")
            other.stdin.write(json.dumps(message) + "\n")
            other.stdin.flush()
        yield environment(0, size, port)
    finally:  # they write nothing, so they may be killed at any point
        for other in others:
            other.kill()
        for other in others:
            with contextlib.suppress(BrokenPipeError):
                other.communicate()


@contextlib.contextmanager
def logged(store: Store | None, digest: str, blocks: list[int] | None) -> Iterator[list[int | None]]:
    """While this process runs a task, append all that it prints, and the outcome, to the task's log in the store.
    Yields a list to which the caller adds the blocks that were made ([None] for a small task).
    """
    blocks_made: list[int | None] = []
    if store is None:
        yield blocks_made
        return
    log = store.open_log(f"{digest}.log")
    kept = os.dup(2)
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        started = time.monotonic()
        _write(f"started by process {os.getpid()}" + ("" if blocks is None else f", blocks {blocks}"))
        try:
            yield blocks_made
        except BaseException as error:
            _write("".join(traceback.format_exception(error)))
            raise
        if blocks_made:
            what = "" if blocks_made == [None] else f", blocks {blocks_made}"
            _write(f"done in {time.monotonic() - started:.1f} s by process {os.getpid()}{what}")
        else:
            _write("already done")
    finally:
        os.dup2(kept, 1)
        os.dup2(kept, 2)
        os.close(log)
        os.close(kept)


def _write(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
    sys.stderr.flush()


def main() -> None:
    """`python -m orchestrator.execution.worker STORE OPTIONS_AS_JSON [warned]`, started by a backend."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the engine, which kills this process
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints goes to the log, not to the engine
    bundles: queue.Queue[dict[str, Any]] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            bundles.put(json.loads(line))
        os._exit(0)  # the engine is gone; the store never shows half-written files

    threading.Thread(target=listen, daemon=True).start()
    import torch

    torch.set_num_threads(1)
    options = Options(**json.loads(sys.argv[2]))

    def send(event: dict[str, Any]) -> None:
        out.write(json.dumps(event) + "\n")
        out.flush()

    store = Store(sys.argv[1])
    worker = Worker(store, options, send, store)
    for number in (signal.SIGUSR2, signal.SIGTERM) if WARNED in sys.argv[3:] else ():
        signal.signal(number, lambda *_: worker.context.warned.append(time.monotonic()))
    if world().size > 1:
        send({"event": "ready"})  # to the first process of the training, which started this one
    while True:
        worker.bundle(bundles.get())


if __name__ == "__main__":
    main()
