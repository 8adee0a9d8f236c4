"""What every backend promises (orchestrator/backends/__init__.py), on real workers: submit, poll, cancel, resources,
loss, duplicates. test_backends.py holds those of one machine to it, tests/slurm/test_contract.py Slurm.

All tests of a kind share one backend, so each uses handles and streams of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.execution import engine
from orchestrator.execution.protocol import Bundle, End, Event, Step, Work
from orchestrator.plan.make import plan
from orchestrator.plan.model import Plan
from orchestrator.spec.reader import read_sweep
from orchestrator.store.layout import block_name
from orchestrator.store.store import Store
from tests.orchestrator.conftest import TINY, Ran, changed, run_here

BLOCKS = 5  # of a stream
SEEN = """\
import json
import os
import time
from pathlib import Path

from nag.registry import method
from nag.samplers.euler import Euler


@method
class Seen(Euler):
    def __call__(self, field, y, noise, *, observe=None):
        import torch

        told = {"samples": len(y), "threads": torch.get_num_threads(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}
        Path("NOTES", f"{os.getpid()}-{time.time_ns()}").write_text(json.dumps(told))
        if Path("PACE").exists():
            time.sleep(PACED)
        return super().__call__(field, y, noise, observe=observe)
"""
PACED_S = 1.0  # how long a block then takes, so that there is time to kill somebody


@dataclass
class Kind:
    """make: the backend, with two workers. workers: the processes that do its bundles, to be killed; None: this one.
    cancel: how a person ends what it does. gpus: how many a worker that samples sees; None: nobody hands them out.
    """

    make: Callable[[Store, Plan], contextlib.AbstractContextManager[Any]]
    workers: Callable[[Any], list[int]] | None
    cancel: Callable[[Any], Any] = lambda backend: backend.close()
    gpus: int | None = None


@dataclass
class Used:
    """A backend on a store of its own."""

    kind: Kind
    store: Store
    plan: Plan
    name: str
    notes: Path
    handles: int = 0
    backend: Any = None
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def begin(self) -> None:
        self.backend = self.stack.enter_context(self.kind.make(self.store, self.plan))

    def work(self, *steps: tuple[str, tuple[int, ...] | None], after: tuple[int, ...] = (), **more: Any) -> Work:
        self.handles += 1
        task = self.plan.tasks.get(steps[0][0])
        kind, network = (task.kind, task.params.get("network", "")) if task else ("sample", "")
        return Work(self.handles, Bundle(steps, self.name, kind, network, **more), frozenset(after))

    def of(self, kind: str, **params: Any) -> list[str]:
        tasks = self.plan.tasks.items()
        return [d for d, t in tasks if t.kind == kind and all(t.params.get(k) == v for k, v in params.items())]

    def stream(self, number: int) -> tuple[str, str]:
        """A stream, and an extract task of it."""
        digest = self.of("sample")[number]
        return digest, self.of("extract", stream=digest)[0]

    def until_ended(self, *handles: int, seconds: float = 240) -> list[Event]:
        events: list[Event] = []
        end = time.monotonic() + seconds
        while set(handles) - {event.handle for event in events if isinstance(event, End)}:
            assert time.monotonic() < end, f"{handles} did not end; {events}"
            events += self.backend.poll(0.5)
        return events

    def until_published(self, digest: str, seconds: float = 240) -> list[Event]:
        """Until the first block of a stream is there."""
        events: list[Event] = []
        end = time.monotonic() + seconds
        while not self.published(digest):
            assert time.monotonic() < end, events
            events += self.backend.poll(0.02)
        return events

    @contextlib.contextmanager
    def slowly(self) -> Iterator[None]:
        """While it lasts, a block takes its time."""
        pace = self.notes.parent / "pace"
        pace.touch()
        try:
            yield
        finally:
            pace.unlink()

    def published(self, digest: str) -> int:
        return len(self.store.list(f"blocks/{digest}"))

    def same(self, truth: Ran, digest: str, *numbers: int) -> None:
        for number in numbers:
            ours, theirs = (store.read_arrays(block_name(digest, number))[0] for store in (self.store, truth.store))
            for name in theirs:
                np.testing.assert_array_equal(ours[name], theirs[name])


def ends(events: list[Event]) -> dict[int, End]:
    return {event.handle: event for event in events if isinstance(event, End)}


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The sweep, done in this process; its sampler tells what it works with."""
    folder = tmp_path_factory.mktemp("truth")
    (folder / "notes").mkdir()
    places = ("NOTES", str(folder / "notes"), "PACED", str(PACED_S), "PACE", str(folder / "pace"))
    (folder / "seen.py").write_text(changed(SEEN, *places))
    sampler = ("{name: euler, steps: 2}", "{use: ./seen.py:Seen, steps: 2}")
    (folder / "sweep.yaml").write_text(changed(TINY, *sampler, "steps: 8", "steps: 2", "count: 40", "count: 100"))
    return run_here(folder / "sweep.yaml", folder / "store")


@contextlib.contextmanager
def using(kind: Kind, truth: Ran, folder: Path) -> Iterator[Used]:
    """A backend of a kind on a store that has the networks, and no samples."""
    shutil.copytree(truth.store.root, folder / "store", ignore=shutil.ignore_patterns("blocks", "score"))
    store, planned = Store(str(folder / "store")), plan(read_sweep(truth.plan.sweep.path))
    notes = Path(truth.plan.sweep.path).parent / "notes"
    used = Used(kind, store, planned, engine.keep_plan(planned, store), notes)
    with used.stack:
        used.begin()
        yield used
        pids = kind.workers(used.backend) if kind.workers else []
        assert all(map(alive, pids))
        used.backend.close()
        until_gone(pids, "workers outlive their backend")


def until_gone(pids: list[int], words: str) -> None:
    until = time.monotonic() + 90
    while any(map(alive, pids)):
        assert time.monotonic() < until, words
        time.sleep(0.1)


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_submit_and_poll_to_done(used: Used, truth: Ran) -> None:
    samples, features = used.stream(0)
    steps = [(digest, (number,)) for number in (0, 1) for digest in (samples, features)]
    work = used.work(*steps)
    used.backend.submit([work])
    events = used.until_ended(work.handle)
    assert [(e.digest, e.blocks) for e in events if isinstance(e, Step)] == steps, "every step is told, in order"
    assert isinstance(events[-1], End)
    assert events[-1].outcome == "done"
    used.same(truth, samples, 0, 1)
    used.same(truth, features, 0, 1)


def test_what_waits_comes_after(used: Used, truth: Ran) -> None:
    """Features wait for their samples, which are two bundles; on two workers they could all run at once."""
    samples, features = used.stream(1)
    first, second = used.work((samples, (0,))), used.work((samples, (1,)))
    last = used.work((features, (0,)), (features, (1,)), after=(first.handle, second.handle))
    used.backend.submit([first, second, last])
    events = used.until_ended(last.handle)
    assert {end.outcome for end in ends(events).values()} == {"done"}
    order = [event.handle for event in events if isinstance(event, End)]
    assert order[-1] == last.handle
    assert next(i for i, e in enumerate(events) if e.handle == last.handle) > max(
        i for i, e in enumerate(events) if e.handle in (first.handle, second.handle)
    )
    used.same(truth, features, 0, 1)


def test_what_waits_for_a_failure_is_skipped(used: Used) -> None:
    samples, features = used.stream(2)
    bad = used.work(("0" * 32, (0,)))
    other = used.work((samples, (0,)))
    next_ = used.work((features, (1,)), after=(bad.handle, other.handle))
    last = used.work((features, (2,)), after=(next_.handle,))
    used.backend.submit([bad, other, next_, last])
    found = ends(used.until_ended(bad.handle, other.handle, next_.handle, last.handle))
    assert {handle: end.outcome for handle, end in found.items()} == {
        bad.handle: "failed",
        other.handle: "done",
        next_.handle: "skipped",
        last.handle: "skipped",
    }
    assert found[bad.handle].cause == "bad_input"
    assert "0" * 32 in found[bad.handle].reason
    assert not used.published(features)
    late = used.work((features, (3,)), after=(bad.handle,))
    used.backend.submit([late])
    assert ends(used.until_ended(late.handle))[late.handle].outcome == "skipped"


def test_the_same_twice(used: Used, truth: Ran) -> None:
    """Two workers at once on the same blocks, as two engines would have it: both are done, with one result."""
    samples, _ = used.stream(3)
    twins = [used.work(*((samples, (number,)) for number in range(3))) for _ in range(2)]
    used.backend.submit(twins)
    found = ends(used.until_ended(*(twin.handle for twin in twins)))
    assert [end.outcome for end in found.values()] == ["done", "done"]
    used.same(truth, samples, 0, 1, 2)


def test_it_works_with_what_it_is_given(used: Used) -> None:
    """One thread, the GPUs of its kind, and no more samples at once than its bundle says."""
    samples, _ = used.stream(4)
    before = set(used.notes.iterdir())
    work = used.work((samples, (0,)), micro_batch=8)
    used.backend.submit([work])
    assert ends(used.until_ended(work.handle))[work.handle].outcome == "done"
    told = [json.loads(path.read_text()) for path in set(used.notes.iterdir()) - before]
    assert sorted(each["samples"] for each in told) == [4, 8, 8]
    assert {each["threads"] for each in told} == {1}
    if used.kind.gpus is not None:
        assert {len(list(filter(None, each["gpus"].split(",")))) for each in told} == {used.kind.gpus}


def test_sizes(used: Used) -> None:
    """A bundle has a block at least, and no more blocks than there are."""
    samples, _ = used.stream(0)
    assert used.backend.size(used.plan, samples, 1) == 1
    assert 1 <= used.backend.size(used.plan, samples, 1000) <= 250


def a_worker_that_is_lost(used: Used, truth: Ran) -> None:
    """Its bundle ends with the cause; what it had published stays, and the rest can be done by another."""
    assert used.kind.workers is not None
    samples, _ = used.stream(5)
    work = used.work(*((samples, (number,)) for number in range(BLOCKS)))
    with used.slowly():
        used.backend.submit([work])
        events = used.until_published(samples)
        pids = used.kind.workers(used.backend)
        assert pids
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until_gone(pids, "a process that cannot be killed")
        events += used.until_ended(work.handle)
    lost = ends(events)[work.handle]
    assert (lost.outcome, lost.cause, lost.digest) == ("failed", "died", samples)
    assert re.search(r"died|signal 9", lost.reason)
    assert 0 < used.published(samples) < BLOCKS
    the_rest(used, truth, samples)


def what_is_ended_at_work(used: Used, truth: Ran) -> None:
    """It is gone at once, and so is what waits behind it; what was published stays, and another backend goes on."""
    assert used.kind.workers is not None
    samples, features = used.stream(6)
    work = used.work(*((samples, (number,)) for number in range(BLOCKS)))
    behind = used.work(*((features, (number,)) for number in range(BLOCKS)), after=(work.handle,))
    with used.slowly():
        used.backend.submit([work, behind])
        used.until_published(samples)
        pids = used.kind.workers(used.backend)
        assert pids
        used.kind.cancel(used.backend)
        until_gone(pids, "workers outlive their end")
        made = used.published(samples)
        time.sleep(2 * PACED_S)
    assert 0 < used.published(samples) == made < BLOCKS
    assert not used.published(features)
    used.begin()
    the_rest(used, truth, samples)


def the_rest(used: Used, truth: Ran, samples: str) -> None:
    rest = used.work(*((samples, (number,)) for number in range(BLOCKS)))
    used.backend.submit([rest])
    end = ends(used.until_ended(rest.handle))[rest.handle]
    assert end.outcome == "done", end
    used.same(truth, samples, *range(BLOCKS))


__all__ = [
    "test_it_works_with_what_it_is_given",
    "test_sizes",
    "test_submit_and_poll_to_done",
    "test_the_same_twice",
    "test_what_waits_comes_after",
    "test_what_waits_for_a_failure_is_skipped",
    "truth",
]
