"""Worker processes on this machine, one thread each. They end with the process that started them, however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nag.distributed import alone
from orchestrator.execution.protocol import Bundle, End, Event, Step, Work, event_of, message_of
from orchestrator.plan.model import StoredPlan
from orchestrator.store.store import Store
from orchestrator.tasks.context import Options
from orchestrator.tasks.task import kind_of

BLOCKS_A_BUNDLE = 16  # at most; fewer where there is little to do, so that all workers end together

DYING_S = 1.0  # a worker that was killed while idle takes a moment to be gone, and its pipe is open till then

ONE_THREAD = {
    name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
}


@dataclass
class Process:
    process: subprocess.Popen[str]
    log: str
    handle: int | None = None
    stepped: int = 0  # steps of that bundle that are published
    given: float = 0.0  # when it got that bundle
    proven: bool = False  # it has ended a bundle before
    networks: set[str] = field(default_factory=set)  # networks that it has loaded


class Local:
    """`workers` processes on one store."""

    def __init__(self, store: Store, workers: int, options: Options) -> None:
        self.store, self.workers, self.options = store, workers, options
        self.events: queue.Queue[tuple[Process, dict[str, Any] | None]] = queue.Queue()
        self.waiting: dict[int, Work] = {}
        self.running: dict[int, Work] = {}
        self.ended: dict[int, str] = {}
        self.processes: list[Process] = []

    def _start(self) -> Process:
        log = f"worker-{uuid.uuid4().hex[:8]}.log"
        with os.fdopen(self.store.open_log(log), "w") as stderr:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "orchestrator.execution.worker",
                    self.store.url,
                    json.dumps(asdict(self.options)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=alone() | ONE_THREAD,
                start_new_session=True,  # Ctrl-C reaches the engine alone
            )
        started = Process(process, log)
        threading.Thread(target=self._listen, args=(started,), daemon=True).start()
        return started

    def _listen(self, process: Process) -> None:
        assert process.process.stdout is not None
        with process.process.stdout as lines:
            for line in lines:
                self.events.put((process, json.loads(line)))
        process.process.wait()
        self.events.put((process, None))

    def size(self, plan: StoredPlan, stream: str, blocks: int) -> int:
        return max(1, min(BLOCKS_A_BUNDLE, blocks // (4 * self.workers)))

    def adopt(self) -> list[Bundle]:
        return []

    def submit(self, work: Sequence[Work]) -> None:
        self.waiting |= {each.handle: each for each in work}

    def poll(self, timeout_s: float) -> list[Event]:
        found: list[Event] = self._dispatch()
        try:
            message = self.events.get(timeout=0 if found else timeout_s)
            while True:
                found += self._handle(*message)
                message = self.events.get_nowait()
        except queue.Empty:
            return found + self._dispatch()

    def _handle(self, process: Process, message: dict[str, Any] | None) -> list[Event]:
        if message is None:
            return self._died(process)
        event = event_of(message)
        process.stepped += isinstance(event, Step)
        if isinstance(event, End):
            process.handle, process.proven = None, True
            self.running.pop(event.handle)
            self.ended[event.handle] = event.outcome
        return [event]

    def _died(self, process: Process) -> list[Event]:
        """A worker is gone, and with it its bundle; one that was dying when it got it has not begun it."""
        if process not in self.processes:
            return []
        self.processes.remove(process)
        self._close(process)
        if process.handle is None:
            return []
        work = self.running.pop(process.handle)
        if process.proven and not process.stepped and time.monotonic() - process.given < DYING_S:
            self.waiting = {work.handle: work, **self.waiting}
            return []
        self.ended[process.handle] = "failed"
        reason = f"its worker died ({_cause(process.process.returncode)}; log: {self.store.logs / process.log})"
        at = work.bundle.steps[min(process.stepped, len(work.bundle.steps) - 1)][0]
        return [End(process.handle, "failed", at, reason, cause="died")]

    def _dispatch(self) -> list[Event]:
        """Give every idle worker a bundle, one whose network it has loaded if there is one; end bundles that can never
        start.
        """
        skipped: list[Event] = []
        for handle, work in list(self.waiting.items()):  # in the order of submission, so one pass is enough
            if any(self.ended.get(needed, "done") != "done" for needed in work.after):
                del self.waiting[handle]
                self.ended[handle] = "skipped"
                skipped.append(End(handle, "skipped"))
        for process in [each for each in self.processes if each.handle is None and each.process.poll() is not None]:
            self._died(process)  # an idle one: no bundle is given to it
        while len(self.processes) < min(self.workers, len(self.waiting) + len(self.running)):
            self.processes.append(self._start())
        for process in list(self.processes):
            if process.handle is None and self.waiting:
                chosen = self._choose(process)
                if chosen is not None:
                    self._give(process, chosen)
        return skipped

    def _choose(self, process: Process) -> int | None:
        first = None
        for handle, work in self.waiting.items():
            if all(needed in self.ended for needed in work.after) and self._has_room(work):
                if not work.bundle.network or work.bundle.network in process.networks:
                    return handle
                first = first or handle
        return first

    def _has_room(self, work: Work) -> bool:
        """A training of several processes takes as many of the workers' places."""
        trained = sum(kind_of(each.bundle.kind).distributed for each in self.running.values())
        together = self.options.processes
        alone = not kind_of(work.bundle.kind).distributed
        return alone or not trained or (trained + 1) * together <= max(self.workers, together)

    def _give(self, process: Process, handle: int) -> None:
        work = self.running[handle] = self.waiting.pop(handle)
        process.handle, process.stepped, process.given = handle, 0, time.monotonic()
        if work.bundle.network:
            process.networks.add(work.bundle.network)
        assert process.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died just now; its end arrives as an event
            process.process.stdin.write(json.dumps(message_of(handle, work.bundle)) + "\n")
            process.process.stdin.flush()

    def close(self) -> None:
        processes, self.processes = self.processes, []
        for process in processes:
            process.process.kill()
        for process in processes:
            process.process.wait()
            self._close(process)

    def _close(self, process: Process) -> None:
        """Let go of a process that has ended; a log in which nothing was written is not kept."""
        assert process.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.process.stdin.close()
        self.store.delete_empty_log(process.log)


def _cause(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
