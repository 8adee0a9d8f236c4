"""Checkpoints of a running training, and the points of its curves so far.

In files/<digest>, by step: `checkpoint-<step>.safetensors`, of which the last few are kept, and `progress-<step>.json`
with the points since the previous one. Both are deleted when the training is done.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

from orchestrator.errors import CorruptFile, MissingFile, NagbenchError
from orchestrator.store.layout import file_name
from orchestrator.store.store import Store
from orchestrator.tasks.context import Context

if TYPE_CHECKING:
    from nag.training import Training
    from nag.training_state import State

KEPT = 2  # checkpoints
POINTS = 200  # points of a training's curves
COPYING_AT_MOST = 0.05  # share of a training's time that may go into copying its state for checkpoints
COLUMNS = ("step", "time", "loss", "gradient_norm", "images_per_s", "memory_gb", "device_hours")


class Telemetry:
    """The points of a training's curves, each a row with the values of COLUMNS. device_hours: of all processes, in this
    attempt and in earlier ones up to the checkpoint that it resumes from.
    """

    def __init__(self, training: Training, processes: int, device: str, rows: Iterable[list[float]] = ()) -> None:
        self.training, self.processes, self.device = training, processes, device
        self.rows = list(rows)
        self.every = max(1, training.steps // POINTS)
        self.began = self.last = time.monotonic()
        self.step = int(self.rows[-1][0]) if self.rows else 0
        self.hours = self.rows[-1][-1] if self.rows else 0.0

    def add(self, step: int, loss: float, gradient: float) -> None:
        """Call after each step; most steps add no point."""
        if step % self.every and step != self.training.steps:
            return
        now = time.monotonic()
        speed = self.training.batch * (step - self.step) / max(now - self.last, 1e-9)
        hours = self.hours + self.processes * (now - self.began) / 3600
        self.rows.append([step, time.time(), loss, gradient, speed, memory_gb(self.device), hours])
        self.step, self.last = step, now

    def record(self) -> dict[str, Any]:
        return {"columns": list(COLUMNS), "rows": self.rows}


def memory_gb(device: str) -> float:
    """Peak memory of this process: of the GPU, or of the machine if it runs on a CPU."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(device) / 1e9
    import resource
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def training_progress(store: Store, digest: str) -> list[dict[str, float]]:
    """The points so far of a training that runs or was interrupted. Damaged files are left where they are."""
    return [dict(zip(COLUMNS, row, strict=True)) for row in _rows(store, digest, repair=False)]


def _names(store: Store, digest: str, kind: str) -> list[str]:
    return [file_name(digest, name) for name in store.list(f"files/{digest}") if name.startswith(f"{kind}-")]


def _step(name: str) -> int:
    return int(name.rpartition("-")[2].partition(".")[0])


def _rows(store: Store, digest: str, repair: bool = True) -> list[list[float]]:
    rows: dict[float, list[float]] = {}
    for name in _names(store, digest, "progress"):
        try:
            rows |= {row[0]: row for row in store.read_record(name, repair=repair)["rows"]}
        except (CorruptFile, MissingFile):  # leaves a gap in the curve
            continue
    return [rows[step] for step in sorted(rows)]


class Checkpoints:
    """Writes checkpoints in a thread, one at a time, while the training goes on; a context manager around the training.
    A training resumes from the newest checkpoint that is whole.
    """

    def __init__(self, context: Context, digest: str) -> None:
        self.store, self.digest, self.every_s = context.store, digest, context.options.checkpoint_s
        self.warned, self.warnings_seen = context.warned, 0
        self.resumed_at = 0
        self.telemetry: Telemetry | None = None
        self.stored = 0  # points of the curves
        self.begun = time.monotonic()  # start of the last checkpoint or, before the first one, of the training
        self.copying_s = 0.0
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.writing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: object) -> None:
        """Finish the checkpoint that is being written, however the training ended."""
        try:
            self.wait()
        except NagbenchError:
            if error is None:
                raise
        finally:
            self.thread.shutdown()

    def latest(self) -> State | None:
        """The newest checkpoint that is whole; damaged ones are set aside."""
        import torch

        for name in reversed(_names(self.store, self.digest, "checkpoint")):
            try:
                arrays, record = self.store.read_arrays(name)
            except (CorruptFile, MissingFile):
                continue
            if "rounded" not in record:  # an early version did not record it: unusable
                self.store.delete(name)
                continue
            state = {key: torch.from_numpy(array) for key, array in arrays.items()}
            state |= {key: state[key].view(torch.bfloat16) for key in record["rounded"]}
            self.resumed_at = _step(name)
            return state
        return None

    def resume_telemetry(self, training: Training, processes: int, device: str) -> Telemetry:
        """The curves up to the checkpoint that the training resumes from; later points are deleted and made again."""
        for name in _names(self.store, self.digest, "progress"):
            if _step(name) > self.resumed_at:
                self.store.delete(name)
        rows = _rows(self.store, self.digest) if self.resumed_at else []
        self.telemetry, self.stored = Telemetry(training, processes, device, rows), len(rows)
        return self.telemetry

    def due(self) -> bool:
        """Whether to save now: at intervals, and once after each warning that this process will be killed."""
        if self.writing is not None and self.writing.done():
            self.wait()
        if len(self.warned) > self.warnings_seen:
            self.warnings_seen, self.begun = len(self.warned), time.monotonic()
            return True
        wanted_s = max(self.every_s, self.copying_s / COPYING_AT_MOST)
        if self.writing is not None or time.monotonic() - self.begun < wanted_s:
            return False
        self.begun = time.monotonic()
        return True

    def save(self, step: int, state: State) -> None:
        """Start writing a state, which the caller must not change any more. Raises the error of the previous write."""
        self.copying_s = time.monotonic() - self.begun
        self.wait()
        rows = self.telemetry.rows[self.stored :] if self.telemetry is not None else []
        self.stored += len(rows)
        self.writing = self.thread.submit(self._write, step, state, rows)

    def _write(self, step: int, state: State, rows: list[list[float]]) -> None:
        import torch

        rounded = sorted(key for key, tensor in state.items() if tensor.dtype == torch.bfloat16)  # numpy lacks it
        arrays = {key: (t.view(torch.int16) if key in rounded else t).numpy() for key, t in state.items()}
        path = file_name(self.digest, f"checkpoint-{step:09d}.safetensors")
        self.store.create_arrays(path, arrays, {"step": step, "rounded": rounded})
        self.store.create_record(file_name(self.digest, f"progress-{step:09d}.json"), {"rows": rows})
        for name in _names(self.store, self.digest, "checkpoint")[:-KEPT]:
            self.store.delete(name)

    def wait(self) -> None:
        """Wait until nothing is being written. Raises the error of the last write."""
        writing, self.writing = self.writing, None
        if writing is not None:
            writing.result()

    def newest(self) -> str:
        """The newest checkpoint, for messages."""
        names = _names(self.store, self.digest, "checkpoint")
        return f"the last checkpoint is {names[-1]}" if names else "there is no checkpoint yet"

    def clear(self) -> None:
        """Delete the checkpoints and points of a training that is done."""
        for kind in ("checkpoint", "progress"):
            for name in _names(self.store, self.digest, kind):
                self.store.delete(name)
