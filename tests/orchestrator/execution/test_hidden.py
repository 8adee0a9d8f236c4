"""Files that a worker has written, and that caches of the file system hide from the engine for a while."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.backends.inline import Inline
from orchestrator.errors import MissingFile
from orchestrator.execution import engine
from orchestrator.execution.protocol import End, Event, Work
from orchestrator.plan.make import plan
from orchestrator.plan.progress import Done, missing
from orchestrator.spec.reader import read_sweep
from orchestrator.store.layout import block_name, record_name
from orchestrator.store.store import Store
from orchestrator.tasks.context import Options
from orchestrator.tasks.outputs import read_output
from tests.orchestrator.conftest import Quiet, Ran

HIDDEN_S = 1.5


class Hiding(Inline):
    """Whenever it has nothing left to do, the last file that it has made is hidden for a while."""

    visible_after_s = 60.0

    def __init__(self, store: Store, options: Options) -> None:
        super().__init__(store, options)
        self.done: Counter[tuple[str, tuple[int, ...] | None]] = Counter()
        self.late: list[threading.Timer] = []

    def submit(self, work: Sequence[Work]) -> None:
        super().submit(work)
        self.done.update(step for each in work for step in each.bundle.steps)

    def poll(self, timeout_s: float) -> list[Event]:
        handle = next(iter(self.waiting), None)
        work = self.waiting.get(handle) if handle is not None else None
        events = super().poll(timeout_s)
        if work is not None and isinstance(events[-1], End) and events[-1].outcome == "done" and not self.waiting:
            digest, blocks = work.bundle.steps[-1]
            name = block_name(digest, blocks[0]) if blocks else record_name(work.bundle.kind, digest)
            place, aside = (
                Path(self.worker.context.store.path(name)),
                Path(f"{self.worker.context.store.root}-{handle}"),
            )
            place.rename(aside)
            self.late.append(threading.Timer(HIDDEN_S, aside.rename, (place,)))
            self.late[-1].start()
        return events


def test_the_engine_does_not_make_again_what_appears(finished: Ran, tmp_path: Path) -> None:
    planned, store, made = plan(read_sweep(finished.plan.sweep.path)), Store(str(tmp_path / "store")), list[Hiding]()

    def backend() -> Hiding:
        made.append(Hiding(store, Options()))
        return made[0]

    engine.run(planned, store, backend, Quiet())
    assert made[0].late
    assert not missing(planned, Done(store))
    assert set(made[0].done.values()) == {1}


def test_what_does_not_appear_in_time_is_made_again(finished: Ran, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    store.open()
    store.visible_after_s = 0.5
    began = time.monotonic()
    assert not store.appears("records/train/x.json")
    assert 0.5 <= time.monotonic() - began < 30
    with pytest.raises(MissingFile):
        read_output(store, "train", "0" * 32, "network.safetensors")
