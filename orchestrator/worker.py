"""What runs where the work is done. `run` does one task; `main` is a process that takes bundles from the one that
started it.

The conversation is one JSON object a line. In: {"id", "steps": [[digest, blocks or null], ...]}. Out: {"id", "event":
"progress" | "step" | "end", ...}. When the other side is gone, however it went, the input ends and this process ends
with it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from orchestrator.errors import CorruptFile, EnvironmentProblem, NagbenchError
from orchestrator.store import Store
from orchestrator.tasks import Context, Held, Options
from orchestrator.tasks import run as run_task

TELL_EVERY_S = 0.2


def run(store_url: str, digest: str, blocks: list[int] | None = None, options: Options | None = None) -> None:
    """Do a task that the store knows, or some blocks of it. Raises the errors of orchestrator.errors."""
    run_task(Context(Store(store_url), options or Options()), digest, blocks)


def outcome(error: BaseException) -> dict[str, Any]:
    """An error as what the engine acts on: who is to blame, in one line, and the traceback for the log."""
    if isinstance(error, Held):
        return {"outcome": "held"}
    if isinstance(error, CorruptFile):
        return {"outcome": "corrupt", "reason": str(error)}
    if isinstance(error, EnvironmentProblem):
        return {"outcome": "environment", "reason": str(error)}
    known = isinstance(error, NagbenchError | FloatingPointError)  # nag says FloatingPointError where nothing is finite
    reason = str(error) if known else f"{type(error).__name__}: {error}"
    return {"outcome": "failed", "reason": reason, "traceback": "".join(traceback.format_exception(error))}


class Worker:
    """Bundles in, events out; networks and references stay loaded between bundles."""

    def __init__(self, store: Store, options: Options, send: Callable[[dict[str, Any]], None]) -> None:
        self.send = send
        self.context = Context(store, options, tell=self._tell)
        self.current, self.told = 0, 0.0

    def _tell(self, digest: str, done: int, of: int) -> None:
        if time.monotonic() - self.told >= TELL_EVERY_S:
            self.told = time.monotonic()
            self.send({"id": self.current, "event": "progress", "digest": digest, "done": done, "of": of})

    def bundle(self, message: dict[str, Any]) -> None:
        """Do {"id", "steps"}; the last event is its end, whatever happens."""
        self.current = message["id"]
        for digest, blocks in message["steps"]:
            try:
                run_task(self.context, digest, blocks)
            except Exception as error:  # noqa: BLE001  (whatever a task raises is the outcome of this bundle)
                end = outcome(error)
                sys.stderr.write(end.get("traceback", ""))
                sys.stderr.flush()
                self.send({"id": self.current, "event": "end", "digest": digest, **end})
                return
            self.send({"id": self.current, "event": "step", "digest": digest, "blocks": blocks})
        self.send({"id": self.current, "event": "end", "outcome": "done"})


def main() -> None:
    """`python -m orchestrator.worker STORE OPTIONS_AS_JSON`, started by a backend."""
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
    if options.device == "auto":
        options = dataclasses.replace(options, device="cuda" if torch.cuda.is_available() else "cpu")

    def send(event: dict[str, Any]) -> None:
        out.write(json.dumps(event) + "\n")
        out.flush()

    worker = Worker(Store(sys.argv[1]), options, send)
    while True:
        worker.bundle(bundles.get())


if __name__ == "__main__":
    main()
