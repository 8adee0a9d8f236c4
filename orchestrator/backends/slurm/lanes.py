"""Several processes of one array task that share a GPU (`per_gpu`), each with bundles of its own. The numbers are those
of one process, since a sample belongs to its index.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

from nag.distributed import alone
from orchestrator.backends.cards import VISIBLE, cards
from orchestrator.backends.slurm.process import say
from orchestrator.execution.worker import WARNED
from orchestrator.tasks.context import Options

MPS = "nvidia-cuda-mps-control"
# Slurm signals every process of a job; a worker that still starts must not die of a warning.
DEAF = 'trap "" USR2 TERM; exec "$@"'


class LaneWorker:
    """A worker in a process of its own. card: its GPU, as CUDA_VISIBLE_DEVICES names it; "" for all that it sees."""

    def __init__(self, store: str, options: Options, card: str, send: Callable[[dict[str, Any]], None]) -> None:
        self.store, self.options, self.card, self.send = store, options, card, send
        self.context = SimpleNamespace(loads=0, warned=[])
        self.process: subprocess.Popen[str] | None = None

    def _start(self) -> subprocess.Popen[str]:
        options = json.dumps(asdict(self.options))
        command = [sys.executable, "-m", "orchestrator.execution.worker", self.store, options, WARNED]
        env = alone() | ({VISIBLE: self.card} if self.card else {})
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen(["sh", "-c", DEAF, "sh", *command], env=env, **pipes)

    def bundle(self, message: dict[str, Any]) -> None:
        """As Worker.bundle; the death of the process is a failure of its bundle."""
        if self.process is None:
            self.process = self._start()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            event = json.loads(line)
            self.send(event)
            if event["event"] == "end":
                return
        code = self.close()
        end = {"outcome": "failed", "cause": "died", "reason": f"its process ended with exit code {code}"}
        self.send({"id": message["id"], "event": "end", "digest": message["steps"][0][0], **end})

    def warn(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGUSR2)

    def close(self) -> int:
        """End the process; its exit code."""
        process, self.process = self.process, None
        if process is None:
            return 0
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]
        return process.wait()


def lane_cards(count: int) -> list[str]:
    """The GPU of each lane: the visible ones in turn."""
    every = cards("cuda") if VISIBLE in os.environ else ()
    return [every[number % len(every)] if every else "" for number in range(count)]


def lane_options(options: Options, gpus: int) -> Options:
    return replace(options, device="auto" if gpus else "cpu")


@contextlib.contextmanager
def mps(wanted: bool) -> Iterator[None]:
    """NVIDIA's multi-process service for the processes that start meanwhile, where this node has it. Without it, they
    take turns on the GPU.
    """
    if not wanted or shutil.which(MPS) is None:
        if wanted:
            say(f"mps: there is no {MPS} on this node, so processes take turns on the GPU")
        yield
        return
    with tempfile.TemporaryDirectory(prefix="nagbench-mps-") as folder:
        places = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        os.environ.update(places)
        started = subprocess.run([MPS, "-d"], check=False).returncode == 0
        if not started:
            say(f"mps: {MPS} does not start, so processes take turns on the GPU")
        try:
            yield
        finally:
            if started:
                subprocess.run([MPS], input="quit\n", text=True, check=False)
            for name in places:
                os.environ.pop(name, None)
