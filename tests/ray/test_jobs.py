"""A sweep as a job of a Ray cluster: submit, status, cancel, and submit again."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.ray import jobs as ray_jobs
from orchestrator.backends.ray.settings import RaySettings
from orchestrator.backends.site import Site
from orchestrator.execution import engine
from orchestrator.plan.make import plan
from orchestrator.plan.progress import Done, missing
from orchestrator.plan.stored_plan import read_plan
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from orchestrator.tasks.context import Options
from tests.orchestrator.conftest import Ran, metrics, run_here
from tests.ray.conftest import alive, made_again, processes, until


@pytest.fixture
def site(cluster: Any) -> Site:
    return Site("ray", "ray.yaml", "ray", RaySettings(jobs=f"http://{cluster.webui_url}", python=sys.executable))


def drivers(folder: str) -> list[int]:
    """The processes that run the engine of a job."""
    return processes(b"orchestrator.backends.ray.jobs", folder)


def blocks(store: Store) -> int:
    return sum(len(store.list(f"blocks/{digest}")) for digest in store.list("blocks"))


def test_a_plan_from_the_store(undisturbed: Ran) -> None:
    """Without the sweep's file, an engine on the cluster has the same tasks, and gives up the same arms."""
    plan, store = undisturbed.plan, undisturbed.store
    stored = read_plan(store, engine.plan_checksum(plan))
    assert (stored.tasks, stored.blocks, stored.goals, stored.arms) == (plan.tasks, plan.blocks, plan.goals, plan.arms)
    assert engine.plan_checksum(stored) == engine.plan_checksum(plan)
    empty = Done(Store("memory://empty"))
    assert missing(stored, empty) == missing(plan, empty)
    seen = set()
    for digest, task in stored.tasks.items():
        assert seen.issuperset(task.inputs)
        seen.add(digest)

    def of(cells: Any) -> Any:
        return sorted((c.arm, c.stream, {*c.extracts}, {scored.task for scored in c.scores}) for c in cells)

    assert of(stored.cells) == of(plan.cells)


def test_detached(site: Site, undisturbed: Ran, ray_environment: str, tmp_path: Path) -> None:
    """Submitted twice is once; its driver dies, the next is cancelled, the third finishes. No block is made again."""
    planned, store = plan(read_sweep(undisturbed.plan.sweep.path)), Store(str(tmp_path / "store"))
    name, options = planned.sweep.name, Options(device="auto")
    assert ray_jobs.status(name, store, site) == []
    first, new = ray_jobs.submit(planned, store, site, options)
    assert new
    again, new = ray_jobs.submit(planned, store, site, options)
    assert not new
    assert [again.id] == [job.id for job in ray_jobs.status(name, store, site)] == [first.id]
    until(lambda: blocks(store), 300)
    (driver,) = drivers(ray_environment)
    os.kill(driver, signal.SIGSTOP)  # else so small a sweep may be done before its state is read
    assert ray_jobs.status(name, store, site)[0].status == "RUNNING"
    until(lambda: processes(b"ray::Actor", ray_environment))
    os.kill(driver, signal.SIGKILL)
    until(lambda: not ray_jobs.status(name, store, site)[0].runs)
    assert ray_jobs.status(name, store, site)[0].status == "FAILED"
    until(lambda: not processes(b"ray::Actor", ray_environment))

    second, new = ray_jobs.submit(planned, store, site, options)
    assert new
    assert second.id == f"{first.id}-2"
    pids = until(lambda: drivers(ray_environment))
    assert [job.id for job in ray_jobs.cancel(name, store, site)] == [second.id]
    assert not any(map(alive, pids))
    assert [job.status for job in ray_jobs.status(name, store, site)] == ["FAILED", "STOPPED"]
    assert ray_jobs.cancel(name, store, site) == []

    third, new = ray_jobs.submit(planned, store, site, options)
    assert third.id == f"{first.id}-3"
    until(lambda: not ray_jobs.status(name, store, site)[-1].runs, 600)
    log = ray_jobs.logs(name, store, site)
    assert ray_jobs.status(name, store, site)[-1].status == "SUCCEEDED", log
    assert "all done" in log
    assert not made_again(undisturbed.plan, store)
    here = run_here(undisturbed.plan.sweep.path, store.root)
    assert here.backend is None
    assert metrics(here.document()) == metrics(undisturbed.document())
