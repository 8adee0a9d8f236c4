"""The backends of one machine hold to the contract. A new backend adds a line to BACKENDS: how it is made, and where
its workers are.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.backends import cards
from orchestrator.backends.inline import Inline
from orchestrator.backends.local import Local
from orchestrator.execution.protocol import Backend
from orchestrator.plan.model import Plan
from orchestrator.store.store import Store
from orchestrator.tasks.context import Options
from tests.orchestrator import contract, nursery
from tests.orchestrator.conftest import Ran
from tests.orchestrator.contract import *  # noqa: F403  (its tests, and what they compare with)
from tests.orchestrator.contract import Kind, Used, using


@contextlib.contextmanager
def here(store: Store, plan: Plan) -> Iterator[Backend]:
    yield Inline(store, Options())


@contextlib.contextmanager
def local(store: Store, plan: Plan) -> Iterator[Backend]:
    with nursery.opened():
        yield Local(store, 2, Options())


@contextlib.contextmanager
def ray(store: Store, plan: Plan) -> Iterator[Backend]:
    from orchestrator.backends.ray.backend import Ray

    yield Ray(store, Options(), cpus=2)


BACKENDS = {
    "here": Kind(here, None),
    "local": Kind(local, lambda backend: [process.process.pid for process in backend.processes]),
    "ray": Kind(ray, lambda backend: [worker.about["pid"] for worker in backend.workers if worker.host]),
}
CASES = {name: pytest.param(name, marks=pytest.mark.cluster if name == "ray" else ()) for name in BACKENDS}
WITH_WORKERS = pytest.mark.parametrize(
    "used", [CASES[name] for name in BACKENDS if BACKENDS[name].workers], indirect=True
)


@pytest.fixture(scope="module", params=CASES.values())
def used(request: pytest.FixtureRequest, truth: Ran, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Used]:
    with using(BACKENDS[request.param], truth, tmp_path_factory.mktemp(request.param)) as made:
        yield made


@WITH_WORKERS
def test_a_worker_that_is_lost(used: Used, truth: Ran) -> None:
    contract.a_worker_that_is_lost(used, truth)


@WITH_WORKERS
def test_what_is_ended_at_work(used: Used, truth: Ran) -> None:
    contract.what_is_ended_at_work(used, truth)


def test_a_worker_that_dies_while_it_is_idle_is_not_blamed(truth: Ran, tmp_path: Path) -> None:
    """Nor is the bundle that it was just being given, where nothing has told of the death yet."""
    with using(BACKENDS["local"], truth, tmp_path) as used:
        samples, _ = used.stream(0)
        first = used.work((samples, (0,)))
        used.backend.submit([first])
        used.until_ended(first.handle)
        (idle,) = used.backend.processes
        idle.process.kill()
        idle.process.wait()
        idle.process.poll = lambda: None  # as it answers while another thread waits for the same process
        second = used.work((samples, (1,)))
        used.backend.submit([second])
        assert contract.ends(used.until_ended(second.handle))[second.handle].outcome == "done"


def test_each_worker_sees_a_card_of_its_own(truth: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default one a card, and one that died is replaced on the card that it had. Nothing is behind the names here,
    so the workers compute on the CPU.
    """
    monkeypatch.setattr("orchestrator.backends.local.subprocess", subprocess)  # their environment is read: not forked
    monkeypatch.setattr(cards, "_torch_has_cuda", lambda: True)
    monkeypatch.setenv(cards.VISIBLE, "0,1")
    assert cards.default_workers("auto") == 2

    @contextlib.contextmanager
    def on_cards(store: Store, plan: Plan) -> Iterator[Backend]:
        yield Local(store, cards.default_workers("auto"), Options(device="auto"))

    def sees(backend: Local) -> dict[str, str]:
        found = {}
        for worker in backend.processes:
            environ = Path(f"/proc/{worker.process.pid}/environ").read_bytes().decode().split("\0")
            found[worker.card] = dict(line.partition("=")[::2] for line in environ)[cards.VISIBLE]
        return found

    with using(Kind(on_cards, None), truth, tmp_path) as used:
        samples, _ = used.stream(0)
        for numbers in ((0, 1), (2, 3)):
            works = [used.work((samples, (number,))) for number in numbers]
            used.backend.submit(works)
            ended = contract.ends(used.until_ended(*(work.handle for work in works)))
            assert [end.outcome for end in ended.values()] == ["done", "done"]
            assert sees(used.backend) == {"0": "0", "1": "1"}
            used.same(truth, samples, *numbers)
            idle = used.backend.processes[0].process
            idle.kill()
            idle.wait()
