"""Run bundles in worker processes on this machine, one thread and at most one GPU each. They end with the process that
started them.
"""

from __future__ import annotations

import contextlib
import dataclasses
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
from orchestrator.backends.cards import VISIBLE, cards, least_used, visible
from orchestrator.execution.protocol import Bundle, End, Event, Step, Work, event_of, message_of
from orchestrator.plan.model import StoredPlan
from orchestrator.store.store import Store
from orchestrator.tasks.context import Options
from orchestrator.tasks.task import kind_of

BLOCKS_A_BUNDLE = 16  # at most; fewer if there is little to do, so that all workers end together

DYING_S = 1.0  # a worker that was killed while idle dies within this time; until then its pipe is open

ONE_THREAD = {
    name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
}


@dataclass
class WorkerProcess:
    process: subprocess.Popen[str]
    log: str
    card: str = ""  # its GPU
    handle: int | None = None  # of the bundle that it does
    stepped: int = 0  # published steps of that bundle
    given: float = 0.0  # when it got that bundle
    proven: bool = False  # whether it has finished a bundle before
    networks: set[str] = field(default_factory=set)  # that it has loaded


class Local:
    """`workers` processes on one store, spread over the GPUs."""

    visible_after_s = 0.0

    def __init__(self, store: Store, workers: int, options: Options) -> None:
        self.cards = cards(options.device)
        if self.cards and options.device != "auto":
            options = dataclasses.replace(options, device="cuda")  # of those that a worker sees, its own is the first
        self.store, self.workers, self.options = store, workers, options
        self.events: queue.Queue[tuple[WorkerProcess, dict[str, Any] | None]] = queue.Queue()
        self.waiting: dict[int, Work] = {}
        self.running: dict[int, Work] = {}
        self.ended: dict[int, str] = {}
        self.processes: list[WorkerProcess] = []

    def _start(self) -> WorkerProcess:
        log = f"worker-{uuid.uuid4().hex[:8]}.log"
        card, env = "", alone() | ONE_THREAD
        if self.cards:
            card = least_used(self.cards, [process.card for process in self.processes])
            env |= {VISIBLE: visible(card, self.cards, self.options.processes)}
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
                env=env,
                start_new_session=True,  # Ctrl-C reaches the engine alone
            )
        started = WorkerProcess(process, log, card)
        threading.Thread(target=self._listen, args=(started,), daemon=True).start()
        return started

    def _listen(self, process: WorkerProcess) -> None:
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
        events: list[Event] = self._dispatch()
        try:
            message = self.events.get(timeout=0 if events else timeout_s)
            while True:
                events += self._handle(*message)
                message = self.events.get_nowait()
        except queue.Empty:
            return events + self._dispatch()

    def _handle(self, process: WorkerProcess, message: dict[str, Any] | None) -> list[Event]:
        if message is None:
            return self._died(process)
        event = event_of(message)
        process.stepped += isinstance(event, Step)
        if isinstance(event, End):
            process.handle, process.proven = None, True
            self.running.pop(event.handle)
            self.ended[event.handle] = event.outcome
        return [event]

    def _died(self, process: WorkerProcess) -> list[Event]:
        """Handle a worker's death. Its bundle has failed; one that it got while dying is given to another worker."""
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
        """Give idle workers bundles, preferably of networks that they have loaded; skip those that can never start."""
        skipped: list[Event] = []
        for handle, work in list(self.waiting.items()):  # in order of submission, so one pass is enough
            if any(self.ended.get(needed, "done") != "done" for needed in work.after):
                del self.waiting[handle]
                self.ended[handle] = "skipped"
                skipped.append(End(handle, "skipped"))
        for process in [each for each in self.processes if each.handle is None and each.process.poll() is not None]:
            self._died(process)
        while len(self.processes) < min(self.workers, len(self.waiting) + len(self.running)):
            self.processes.append(self._start())
        for process in list(self.processes):
            if process.handle is None and self.waiting:
                chosen = self._choose(process)
                if chosen is not None:
                    self._give(process, chosen)
        return skipped

    def _choose(self, process: WorkerProcess) -> int | None:
        first = None
        for handle, work in self.waiting.items():
            if all(needed in self.ended for needed in work.after) and self._has_room(work):
                if not work.bundle.network or work.bundle.network in process.networks:
                    return handle
                first = first or handle
        return first

    def _has_room(self, work: Work) -> bool:
        """Whether a bundle may start: a training by several processes counts as that many workers."""
        trained = sum(kind_of(each.bundle.kind).distributed for each in self.running.values())
        together = self.options.processes
        alone = not kind_of(work.bundle.kind).distributed
        return alone or not trained or (trained + 1) * together <= max(self.workers, together)

    def _give(self, process: WorkerProcess, handle: int) -> None:
        work = self.running[handle] = self.waiting.pop(handle)
        process.handle, process.stepped, process.given = handle, 0, time.monotonic()
        if work.bundle.network:
            process.networks.add(work.bundle.network)
        assert process.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has just died; the event will come
            process.process.stdin.write(json.dumps(message_of(handle, work.bundle)) + "\n")
            process.process.stdin.flush()

    def close(self) -> None:
        processes, self.processes = self.processes, []
        for process in processes:
            process.process.kill()
        for process in processes:
            process.process.wait()
            self._close(process)

    def _close(self, process: WorkerProcess) -> None:
        """Clean up after a process that has ended; delete its log if it is empty."""
        assert process.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.process.stdin.close()
        self.store.delete_empty_log(process.log)


def _cause(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
