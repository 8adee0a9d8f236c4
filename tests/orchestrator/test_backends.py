"""What every backend promises (orchestrator/backends/__init__.py), on real workers. A new backend adds a line to
BACKENDS: how it is made, and where its workers are.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import engine
from orchestrator.backends import Backend, Bundle, End, Event, Step, Work
from orchestrator.backends.here import Here
from orchestrator.backends.local import Local
from orchestrator.plan import Plan, plan
from orchestrator.spec import read_sweep
from orchestrator.store import Store
from orchestrator.tasks import Options, block_name
from tests.orchestrator.conftest import TINY, Ran, run_here


@dataclass
class Kind:
    """make: the backend, with two workers. workers: the processes that do its bundles, to be killed."""

    make: Callable[[Store, Plan], contextlib.AbstractContextManager[Any]]
    workers: Callable[[Any], list[int]] | None


@contextlib.contextmanager
def here(store: Store, plan: Plan) -> Iterator[Backend]:
    yield Here(store, Options())


@contextlib.contextmanager
def local(store: Store, plan: Plan) -> Iterator[Backend]:
    yield Local(store, 2, Options())


@contextlib.contextmanager
def ray(store: Store, plan: Plan) -> Iterator[Backend]:
    pytest.importorskip("ray", reason="Ray is not installed")
    from orchestrator.backends.ray import Ray

    yield Ray(store, Options(), cpus=2)


BACKENDS = {
    "here": Kind(here, None),
    "local": Kind(local, lambda backend: [process.process.pid for process in backend.processes]),
    "ray": Kind(ray, lambda backend: [hand.about["pid"] for hand in backend.hands if hand.host]),
}


@dataclass
class Used:
    """A backend on a store of its own. All tests of a kind share one, so each uses handles and tasks of its own."""

    kind: Kind
    backend: Backend
    store: Store
    plan: Plan
    name: str
    handles: int = 0

    def work(self, *steps: tuple[str, tuple[int, ...] | None], after: tuple[int, ...] = ()) -> Work:
        self.handles += 1
        task = self.plan.tasks.get(steps[0][0])
        kind, network = (task.kind, task.params.get("network", "")) if task else ("sample", "")
        return Work(self.handles, Bundle(steps, self.name, kind, network), frozenset(after))

    def of(self, kind: str, **params: Any) -> list[str]:
        tasks = self.plan.tasks.items()
        return [d for d, t in tasks if t.kind == kind and all(t.params.get(k) == v for k, v in params.items())]

    def until_ended(self, *handles: int, seconds: float = 120) -> list[Event]:
        events: list[Event] = []
        end = time.monotonic() + seconds
        while set(handles) - {event.handle for event in events if isinstance(event, End)}:
            assert time.monotonic() < end, f"{handles} did not end; {events}"
            events += self.backend.poll(0.5)
        return events


def ends(events: list[Event]) -> dict[int, End]:
    return {event.handle: event for event in events if isinstance(event, End)}


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The sweep, done in this process; samples of many steps, so that there is time to kill somebody."""
    folder = tmp_path_factory.mktemp("truth")
    text = TINY.replace("{name: euler, steps: 2}", "{name: euler, steps: 60}").replace("steps: 8", "steps: 2")
    (folder / "sweep.yaml").write_text(text.replace("count: 40", "count: 100"))
    return run_here(folder / "sweep.yaml", folder / "store")


@pytest.fixture(scope="module", params=BACKENDS)
def used(request: pytest.FixtureRequest, truth: Ran, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Used]:
    """A backend on a store that has the networks, and no samples."""
    kind: Kind = BACKENDS[request.param]
    folder = tmp_path_factory.mktemp(request.param) / "store"
    shutil.copytree(truth.store.root, folder, ignore=shutil.ignore_patterns("blocks", "score"))
    store, planned = Store(str(folder)), plan(read_sweep(truth.plan.sweep.path))
    with kind.make(store, planned) as backend:
        yield Used(kind, backend, store, planned, engine.keep_plan(planned, store))
        pids = kind.workers(backend) if kind.workers else []
        assert all(map(alive, pids))
        backend.close()
    until = time.monotonic() + 20
    while any(map(alive, pids)):
        assert time.monotonic() < until, "workers outlive their backend"
        time.sleep(0.1)


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def stream(used: Used, number: int) -> tuple[str, str]:
    """A stream, and an extract task of it."""
    digest = used.of("sample")[number]
    return digest, used.of("extract", stream=digest)[0]


def same(used: Used, truth: Ran, digest: str, *numbers: int) -> None:
    for number in numbers:
        ours, theirs = (store.read_arrays(block_name(digest, number))[0] for store in (used.store, truth.store))
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_submit_and_poll_to_done(used: Used, truth: Ran) -> None:
    samples, features = stream(used, 0)
    steps = [(digest, (number,)) for number in (0, 1) for digest in (samples, features)]
    work = used.work(*steps)
    used.backend.submit([work])
    events = used.until_ended(work.handle)
    assert [(e.digest, e.blocks) for e in events if isinstance(e, Step)] == steps, "every step is told, in order"
    assert isinstance(events[-1], End)
    assert events[-1].outcome == "done"
    same(used, truth, samples, 0, 1)
    same(used, truth, features, 0, 1)


def test_what_waits_comes_after(used: Used, truth: Ran) -> None:
    """Features wait for their samples, which are two bundles; on two workers they could all run at once."""
    samples, features = stream(used, 1)
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
    same(used, truth, features, 0, 1)


def test_what_waits_for_a_failure_is_skipped(used: Used) -> None:
    samples, features = stream(used, 2)
    bad = used.work(("0" * 32, (0,)))
    other = used.work((samples, (0,)))
    next_ = used.work((features, (0,)), after=(bad.handle, other.handle))
    last = used.work((features, (1,)), after=(next_.handle,))
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
    assert not used.store.list(f"blocks/{features}")
    late = used.work((features, (2,)), after=(bad.handle,))
    used.backend.submit([late])
    assert ends(used.until_ended(late.handle))[late.handle].outcome == "skipped"


def test_the_same_twice(used: Used, truth: Ran) -> None:
    """Two workers at once on the same blocks, as two engines would have it: both are done, with one result."""
    samples, _ = stream(used, 3)
    twins = [used.work(*((samples, (number,)) for number in range(3))) for _ in range(2)]
    used.backend.submit(twins)
    found = ends(used.until_ended(*(twin.handle for twin in twins)))
    assert [end.outcome for end in found.values()] == ["done", "done"]
    same(used, truth, samples, 0, 1, 2)


@pytest.mark.parametrize("used", [name for name, kind in BACKENDS.items() if kind.workers], indirect=True)
def test_a_worker_that_is_lost(used: Used, truth: Ran) -> None:
    """Its bundle ends with the cause; what it had published stays, and the rest can be done by another."""
    assert used.kind.workers is not None
    samples, _ = stream(used, 4)
    work = used.work(*((samples, (number,)) for number in range(5)))
    used.backend.submit([work])
    events: list[Event] = []
    end = time.monotonic() + 60
    while not used.store.list(f"blocks/{samples}"):
        assert time.monotonic() < end
        events += used.backend.poll(0.02)
    pids = used.kind.workers(used.backend)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    while any(map(alive, pids)):
        assert time.monotonic() < end
    events += used.until_ended(work.handle)
    lost = ends(events)[work.handle]
    assert (lost.outcome, lost.cause, lost.digest) == ("failed", "died", samples)
    assert "died" in lost.reason
    published = len(used.store.list(f"blocks/{samples}"))
    assert 0 < published < 5
    rest = used.work(*((samples, (number,)) for number in range(5)))
    used.backend.submit([rest])
    assert ends(used.until_ended(rest.handle))[rest.handle].outcome == "done"
    same(used, truth, samples, *range(5))


def test_sizes(used: Used) -> None:
    """A bundle has a block at least, and fewer blocks than there are."""
    samples, _ = stream(used, 0)
    assert used.backend.size(used.plan, samples, 1) == 1
    assert 1 <= used.backend.size(used.plan, samples, 1000) <= 250
