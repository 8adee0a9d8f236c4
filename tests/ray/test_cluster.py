"""The sweep on a real Ray cluster, with and without faults: the same numbers, and no finished block made again."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.ray.backend import Ray
from orchestrator.backends.ray.driver import NODES_EVERY_S
from orchestrator.backends.ray.settings import RaySettings, RayWorker
from orchestrator.errors import EnvironmentProblem
from orchestrator.execution import engine
from orchestrator.plan.make import plan
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from orchestrator.tasks.context import Options
from tests.orchestrator.conftest import Quiet, Ran, metrics, run_here
from tests.ray.conftest import alive, made_again, node, until


class Disturber(Quiet):
    """An observer that does something to the cluster while the engine runs: `acts`, one after the other, each when so
    many samples are done that it is due.
    """

    def __init__(self, *acts: tuple[float, Callable[[], bool]]) -> None:
        super().__init__()
        self.acts = list(acts)

    def stages(self, total: dict[str, float]) -> None:
        super().stages(total)
        self.progress("sample", 0)

    def progress(self, kind: str, done: float) -> None:
        if kind == "sample" and self.acts and done >= self.acts[0][0] and self.acts[0][1]():
            del self.acts[0]


class Disturbances:
    """What happens to a cluster. Each is done once it returns True."""

    def __init__(self, cluster: Any) -> None:
        self.cluster, self.backend = cluster, None
        self.added: Any = None
        self.seconds = self.killed = 0.0
        self.stopped = 0

    def kill_an_actor(self) -> bool:
        """Kill a working actor; another one too if the first had already finished its bundle."""
        if self.backend.store.list("attempts"):
            return True
        busy = [worker for worker in self.backend.workers if worker.work and worker.request.gpus]
        if busy and time.monotonic() - self.killed > 2:
            os.kill(busy[0].about["pid"], signal.SIGKILL)
            self.killed = time.monotonic()
        return False

    def stop_an_actor(self) -> bool:
        """As a dead NFS mount does, or a debugger."""
        busy = [worker for worker in self.backend.workers if worker.work and worker.request.gpus]
        if busy:
            self.stopped = busy[0].about["pid"]
            os.kill(self.stopped, signal.SIGSTOP)
        return bool(busy)

    def add_a_node(self) -> bool:
        self.added, self.seconds = node(self.cluster, "n3"), time.monotonic()
        return True

    def lose_it_at_work(self) -> bool:
        working = [worker for worker in self.backend.workers if worker.work and worker.node == self.added.node_id]
        if working:
            self.seconds = time.monotonic() - self.seconds
            self.cluster.remove_node(self.added)
        return bool(working)


def test_faults(cluster: Any, undisturbed: Ran, tmp_path: Path) -> None:
    """A node comes while the sweep runs and works within 30 s; an actor is killed, the node is lost at work, and an
    actor hangs, whose bundle another one does.
    """
    planned, store = plan(read_sweep(undisturbed.plan.sweep.path)), Store(str(tmp_path / "store"))
    faults, settings = Disturbances(cluster), RaySettings(stalled_after_s=20)
    observer = Disturber((0, faults.add_a_node), (200, faults.kill_an_actor), (400, faults.lose_it_at_work))
    observer.acts.append((600, faults.stop_an_actor))
    seen: dict[int, str] = {}  # by the GPUs that an actor asked for, the GPUs that it saw

    def make() -> Ray:
        backend = faults.backend = Ray(store, Options(device="auto"), settings, cluster.address)
        receive = backend._receive

        def watched(worker: Any, answer: Any) -> Any:
            seen[int(worker.request.gpus)] = worker.about["gpus"]
            assert "_ray_pkg_" in worker.about["code"], "nodes run the snapshot"
            return receive(worker, answer)

        backend._receive = watched
        return backend

    failed = engine.run(planned, store, make, observer)
    busy = max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))  # with the work of others
    assert not failed
    assert not observer.acts, "the sweep was over too soon to disturb it"
    assert faults.seconds < 30 * busy, "a node that was added"
    assert seen == {0: "", 1: "0"}
    causes = sorted(
        (record := store.read_record(f"attempts/{digest}/{name}"))["cause"] + " " + record["reason"]
        for digest in store.list("attempts")
        for name in store.list(f"attempts/{digest}")
    )
    assert {cause.partition(" ")[0] for cause in causes} == {"died", "node"}, causes
    assert any("did nothing for" in cause for cause in causes), causes
    until(lambda: not alive(faults.stopped), 60)
    assert not made_again(undisturbed.plan, store)
    again = run_here(undisturbed.plan.sweep.path, store.root)
    assert again.backend is None
    assert metrics(again.document()) == metrics(undisturbed.document())


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        (
            RaySettings(worker=RayWorker(gpus=1.0, gpu_type="H100", resources={"disk": 2.0})),
            "1 GPU H100, 1 CPU, 2 disk",
        ),
        (RaySettings(cpu_worker=RayWorker(memory_gb=9000)), "1 CPU, 9000 GB"),  # of scores, which wait for all samples
    ],
)
def test_what_no_node_can_hold(
    cluster: Any, undisturbed: Ran, tmp_path: Path, settings: RaySettings, asked: str
) -> None:
    """Within a minute, whatever else there is to do first."""
    planned, store = plan(read_sweep(undisturbed.plan.sweep.path)), Store(str(tmp_path / "store"))
    assert settings.wait_s < 60 - NODES_EVERY_S
    settings = dataclasses.replace(settings, wait_s=3)
    began = time.monotonic()
    with pytest.raises(EnvironmentProblem) as caught:
        engine.run(planned, store, lambda: Ray(store, Options(), settings, cluster.address), Quiet())
    assert time.monotonic() - began < 60
    words = rf"no node of the Ray cluster at {cluster.address} can hold a worker of {asked}; it has "
    nodes = r"1 node of 2 CPU, [\d.]+ GB; 1 node of 1 CPU, 1 GPU, [\d.]+ GB, 1 n[12]; "
    assert re.match(words + nodes, str(caught.value))
