"""Training by two processes on two nodes of a real Ray: undisturbed, a process killed, a node lost."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load

from orchestrator.backends.ray.backend import Ray
from orchestrator.backends.ray.handles import SETTLE_S, start
from orchestrator.backends.ray.nodes import Request
from orchestrator.backends.ray.settings import RaySettings, RayWorker
from orchestrator.errors import EnvironmentProblem
from orchestrator.execution import engine
from orchestrator.plan.make import plan
from orchestrator.plan.model import Plan
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from orchestrator.tasks.context import Options
from tests.orchestrator.conftest import Quiet, Ran, changed, metrics, run_here
from tests.orchestrator.execution.test_processes import ONCE, TINY, run_locally, trained
from tests.ray.conftest import alive, node, until

ON_CPU = Options(device="cpu", checkpoint_s=0.0)
TWO = RaySettings(worker=RayWorker(gpus=1.0, cpus=1.0), processes=2)


@pytest.fixture(scope="module")
def locally(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """By two processes on this machine."""
    folder = tmp_path_factory.mktemp("locally")
    (folder / "sweep.yaml").write_text(changed(TINY, *ONCE[:-2]))
    return run_locally(plan(read_sweep(folder / "sweep.yaml")), folder / "store")


class Watched:
    """A run on a cluster: which teams of actors trained, and what is done to the first that has left a checkpoint."""

    def __init__(self, cluster: Any, planned: Plan, store: Path, settings: RaySettings = TWO) -> None:
        self.cluster, self.plan, self.store, self.settings = cluster, planned, Store(str(store)), settings
        self.act: Callable[[Any], Any] | None = None
        self.teams: list[Any] = []
        self.acted = 0.0
        self.ended: list[float] = []  # when a team was seen no more

    def run(self) -> Ran:
        observer = Quiet()
        failed = engine.run(self.plan, self.store, self._make, observer)
        return Ran(self.plan, self.store, None, observer, failed)

    def _make(self) -> Ray:
        backend = Ray(self.store, ON_CPU, self.settings, self.cluster.address)
        poll = backend.poll

        def watched(timeout_s: float) -> Any:
            events = poll(min(timeout_s, 0.05))
            self._see(backend)
            return events

        backend.poll = watched  # type: ignore[method-assign]
        return backend

    def _trains(self, digest: str) -> bool:
        """Whether it is the network; the extractor's training is short."""
        return self.plan.tasks[digest].trains == "network"

    def _see(self, backend: Ray) -> None:
        at_work = [worker for worker in backend.workers if worker.peers and worker.work]
        team = next((worker for worker in at_work if self._trains(worker.work.bundle.steps[0][0])), None)
        if team is None:
            self.ended += [time.monotonic()] * (len(self.ended) < len(self.teams))
            return
        if team not in self.teams:
            self.teams.append(team)
        if self.act is not None and list(Path(self.store.root).glob("files/*/checkpoint-*")):
            act, self.act, self.acted = self.act, None, time.monotonic()
            act(team)


def attempts(store: Store) -> list[dict[str, Any]]:
    return [store.read_record(f"attempts/{d}/{n}") for d in store.list("attempts") for n in store.list(f"attempts/{d}")]


def groups() -> list[str]:
    """The placement groups of the cluster that were not removed."""
    from ray.util import placement_group_table

    return [each["placement_group_id"] for each in placement_group_table().values() if each["state"] != "REMOVED"]


@contextlib.contextmanager
def connected(cluster: Any) -> Iterator[None]:
    """This process too, beside the backend's driver, as Ray shows groups to those who are."""
    import ray

    ray.init(address=cluster.address, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def test_on_two_nodes(cluster: Any, locally: Ran, tmp_path: Path) -> None:
    """The bytes of two processes on one machine; those of one process up to rounding. Nothing is left behind."""
    watched = Watched(cluster, locally.plan, tmp_path / "store")
    ran = watched.run()
    assert not ran.failed
    assert not attempts(ran.store)
    (team,) = watched.teams
    nodes = [each.about["node"] for each in team.actors]
    assert sorted(nodes) == sorted(each.node_id for each in cluster.nodes)
    weights, record = trained(ran)
    assert record["processes"] == 2
    assert weights == trained(locally)[0]
    assert metrics(ran.document()) == metrics(locally.document())
    until(lambda: not any(alive(each.about["pid"]) for each in team.actors))

    one = load(trained(run_here(locally.plan.sweep.path, tmp_path / "one"))[0])
    two = load(weights)
    assert 0 < max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4


def test_a_process_is_killed(cluster: Any, locally: Ran, tmp_path: Path) -> None:
    """The other one ends within seconds, and the next two go on from the checkpoint."""
    watched = Watched(cluster, locally.plan, tmp_path / "store")
    watched.act = lambda team: os.kill(team.peers[0].about["pid"], signal.SIGKILL)
    ran = watched.run()
    assert not ran.failed
    assert len(watched.teams) == 2
    assert watched.ended[0] - watched.acted < SETTLE_S, "Ray has said what became of it"
    (attempt,) = attempts(ran.store)
    gone = watched.teams[0].peers[0].about
    assert (attempt["cause"], attempt["pid"], attempt["node"]) == ("died", gone["pid"], gone["node"])
    assert re.match(r"its worker on node \S+ died \(", attempt["reason"])
    weights, record = trained(ran)
    assert (record["processes"], record["resumed_at"] > 0) == (2, True)
    assert weights == trained(locally)[0]
    until(lambda: not any(alive(each.about["pid"]) for team in watched.teams for each in team.actors))


def test_a_node_is_lost(cluster: Any, locally: Ran, tmp_path: Path) -> None:
    """Of two that alone may train; another one comes."""
    pair = {each.node_id: each for each in (node(cluster, "pair"), node(cluster, "pair"))}
    worker = RayWorker(gpus=1.0, cpus=1.0, resources={"pair": 1.0})
    watched = Watched(cluster, locally.plan, tmp_path / "store", dataclasses.replace(TWO, worker=worker))

    def lose(team: Any) -> None:
        cluster.remove_node(pair.pop(team.peers[0].about["node"]))
        added = node(cluster, "pair")
        pair[added.node_id] = added

    watched.act = lose
    try:
        ran = watched.run()
    finally:
        for each in pair.values():
            cluster.remove_node(each)
    assert not ran.failed
    (attempt,) = attempts(ran.store)
    gone = watched.teams[0].peers[0].about
    assert (attempt["cause"], attempt["node"]) == ("node", gone["node"]), attempt
    assert re.fullmatch(r"node \S+ was lost", attempt["reason"])
    assert trained(ran)[0] == trained(locally)[0]


def test_what_the_nodes_cannot_hold_together(cluster: Any, locally: Ran, tmp_path: Path) -> None:
    settings = dataclasses.replace(TWO, processes=4, wait_s=1)
    began = time.monotonic()
    with pytest.raises(EnvironmentProblem) as caught:
        Watched(cluster, locally.plan, tmp_path / "store", settings).run()
    assert time.monotonic() - began < 60
    words = "cannot hold 4 processes that train one network, each of 1 GPU, 1 CPU; it has 1 node of 2 CPU, "
    assert f"the nodes together of the Ray cluster at {cluster.address} {words}" in str(caught.value)


def test_groups(cluster: Any, locally: Ran) -> None:
    """One keeps off the nodes that it is told to, is gone with its actors, and with the backend at the latest."""
    store, (first, second) = locally.store, (each.node_id for each in cluster.nodes)
    name = store.list("plans")[0].removesuffix(".json")
    half, options = Request(gpus=0.5, cpus=0.5, processes=2), dataclasses.asdict(ON_CPU)
    backend = Ray(store, ON_CPU, TWO, cluster.address)

    def pids_of_one(away: str, left: str) -> list[int]:
        worker = start(backend.connection, half, [away], store.url, options, name)
        backend.workers.append(worker)
        until(lambda: backend.poll(1.0) or worker.host, 120)
        assert [each.about["node"] for each in worker.actors] == [left, left]
        with connected(cluster):
            assert len(groups()) == 1
        return [each.about["pid"] for each in worker.actors]

    try:
        pids = pids_of_one(first, second)
        backend._dismiss(backend.workers[0])
        with connected(cluster):
            until(lambda: not groups() and not any(map(alive, pids)), 60)
        pids = pids_of_one(second, first)
    finally:
        backend.close()
    until(lambda: not any(map(alive, pids)), 60)
