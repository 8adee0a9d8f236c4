"""What runs where the work is done. `run` does one task; `main` is a process that takes bundles from the one that
started it.

The conversation is one JSON object a line. In: {"id", "plan", "steps": [[digest, blocks or null], ...],
"micro_batch"}. Out: {"id", "event": "progress" | "step" | "end", ...}. When the other side is gone, however it went,
the input ends and this process ends with it.
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
from orchestrator.tasks.context import Context, Held, Options
from orchestrator.tasks.context import run as run_task

TELL_EVERY_S = 0.2
LOG_EVERY_S = 5.0


def run(store_url: str, digest: str, blocks: list[int] | None = None, options: Options | None = None) -> None:
    """Do a task that the store knows, or some blocks of it. Raises the errors of orchestrator.errors."""
    run_task(Context(Store(store_url), options or Options()), digest, blocks)


def outcome(error: BaseException) -> dict[str, Any]:
    """An error as what the engine acts on: who is to blame, in one line, and the traceback for the log."""
    if isinstance(error, Held):
        return {"outcome": "held"}
    if isinstance(error, CorruptFile) and not isinstance(error, Unreadable):
        return {"outcome": "corrupt", "reason": str(error)}
    if isinstance(error, EnvironmentProblem | Unreadable):
        return {"outcome": "environment", "reason": str(error), "cause": "environment"}
    known = isinstance(error, NagbenchError | FloatingPointError)  # nag says FloatingPointError where nothing is finite
    reason = str(error) if known else f"{type(error).__name__}: {error}"
    if (place := user_code.place(error)) is not None:
        reason = f"{place}: {reason}"
    told = "".join(traceback.format_exception(error))
    return {"outcome": "failed", "reason": reason, "cause": cause_of(error), "traceback": told}


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
        self.send, self.logs, self.raises, self.options = send, logs, raises, options
        self.context = Context(store, options, tell=self._tell)
        self.current, self.told, self.logged = 0, 0.0, 0.0

    def _tell(self, digest: str, done: int, of: int) -> None:
        if time.monotonic() - self.told >= TELL_EVERY_S:
            self.told = time.monotonic()
            if self.logs and self.told - self.logged >= LOG_EVERY_S:
                self.logged = self.told
                _write(f"{done:,} of {of:,}")
            self.send({"id": self.current, "event": "progress", "digest": digest, "done": done, "of": of})

    def bundle(self, message: dict[str, Any]) -> None:
        """Do {"id", "plan", "steps", "micro_batch"}; the last event is its end, whatever happens."""
        self.current = message["id"]
        micro_batch = message["micro_batch"] or self.options.micro_batch
        self.context.options = dataclasses.replace(self.options, micro_batch=micro_batch)
        for digest, blocks in message["steps"]:
            try:
                self.context.read_plan(message["plan"])
                with logged(self.logs, digest, blocks) as made, self._together(digest, message):
                    made += run_task(self.context, digest, blocks)
            except Exception as error:
                end = outcome(error)
                if self.raises and end["outcome"] == "failed":
                    raise
                end["micro_batch"] = self._at_once(digest)
                self.send({"id": self.current, "event": "end", "digest": digest, **end})
                return
            self.send({"id": self.current, "event": "step", "digest": digest, "blocks": blocks})
        self.send({"id": self.current, "event": "end", "outcome": "done"})

    @contextlib.contextmanager
    def _together(self, digest: str, message: dict[str, Any]) -> Iterator[None]:
        """While a network is trained, the others that train it are there."""
        train = self.context.task(digest).params.get("train")
        if self.options.processes == 1 or train is None:
            yield
            return
        from nag.training import Training

        World(0, self.options.processes).part(Training(**train["fields"]).batch)  # ValueError before anybody is called
        step = {**message, "steps": [(digest, None)]}
        with beside(self.context.store, self.options, step) as ours, variables(ours):
            yield

    def _at_once(self, digest: str) -> int:
        """How many samples a task has had in the network at once, as far as there is one."""
        from nag.training import Training

        most = self.context.options.micro_batch
        params = self.context.tasks[digest].params if digest in self.context.tasks else {}
        if "train" in params:
            return min(most, Training(**params["train"]["fields"]).batch // max(world().size, self.options.processes))
        return min(most, params.get("block", most))


@contextlib.contextmanager
def beside(store: Store, options: Options, message: dict[str, Any]) -> Iterator[Mapping[str, str]]:
    """Other processes of this machine, which do what the message says; what this one is to have in its environment
    meanwhile (nag.distributed). They end with it, however it ends.
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
                raise RuntimeError(
                    f"a process that was to train with this one did not start (exit code {other.wait()})"
                )
            other.stdin.write(json.dumps(message) + "\n")
            other.stdin.flush()
        yield environment(0, size, port)
    finally:  # none of them writes anything, so each may be ended anywhere
        for other in others:
            other.kill()
        for other in others:
            with contextlib.suppress(BrokenPipeError):
                other.communicate()


@contextlib.contextmanager
def logged(store: Store | None, digest: str, blocks: list[int] | None) -> Iterator[list[int | None]]:
    """While a task runs, all that this process prints goes to the end of the task's own log in the store, with what
    became of it: what was made is put into the list.
    """
    made: list[int | None] = []
    if store is None:
        yield made
        return
    log = store.open_log(f"{digest}.log")
    kept = os.dup(2)
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        started = time.monotonic()
        _write(f"started by process {os.getpid()}" + ("" if blocks is None else f", blocks {blocks}"))
        try:
            yield made
        except BaseException as error:
            _write("".join(traceback.format_exception(error)))
            raise
        if made:
            what = "" if made == [None] else f", blocks {made}"
            _write(f"done in {time.monotonic() - started:.1f} s by process {os.getpid()}{what}")
        else:
            _write("it is there already")
    finally:
        os.dup2(kept, 1)
        os.dup2(kept, 2)
        os.close(log)
        os.close(kept)


def _write(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
    sys.stderr.flush()


def main() -> None:
    """`python -m orchestrator.execution.worker STORE OPTIONS_AS_JSON`, started by a backend."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the engine, which ends this process
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints goes to the log, not into the conversation
    bundles: queue.Queue[dict[str, Any]] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            bundles.put(json.loads(line))
        os._exit(0)  # the engine is gone; nothing half-written is ever visible in the store

    threading.Thread(target=listen, daemon=True).start()
    import torch

    torch.set_num_threads(1)
    options = Options(**json.loads(sys.argv[2]))

    def send(event: dict[str, Any]) -> None:
        out.write(json.dumps(event) + "\n")
        out.flush()

    store = Store(sys.argv[1])
    worker = Worker(store, options, send, store)
    if world().size > 1:
        send({"event": "ready"})  # to the first process of a training, which has started this one
    while True:
        worker.bundle(bundles.get())


if __name__ == "__main__":
    main()
