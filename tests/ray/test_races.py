"""A race on a real Ray, with an engine of the user's and as a job, which has only the stored plan."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.ray import jobs as ray_jobs
from orchestrator.backends.ray.settings import RaySettings
from orchestrator.backends.site import Site
from orchestrator.execution import engine
from orchestrator.plan.choices import Choices
from orchestrator.plan.progress import Done, missing
from orchestrator.plan.stored_plan import read_plan
from orchestrator.store.store import Store
from orchestrator.tasks.context import Options
from tests.orchestrator.conftest import Ran, new_process, run_here
from tests.orchestrator.racing import few, result, result_of, steps
from tests.ray.conftest import until


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("race")
    (folder / "sweep.yaml").write_text(few(values="[3, 4, 5, 6]"))
    return run_here(folder / "sweep.yaml", folder / "store")


def test_the_local_race_has_several_rungs(local: Ran) -> None:
    assert len(steps(local.store)) > 1


def test_a_stored_plan_makes_the_same_choices(local: Ran) -> None:
    """At each step it wants the same work as the plan of the sweep's file."""
    stored = read_plan(local.store, engine.plan_checksum(local.plan))
    for done in (Done(Store("memory://empty")), Done(local.store)):
        mine, theirs = (Choices(each, done.store).current(done) for each in (local.plan, stored))
        assert missing(mine, done) == missing(theirs, done)
        assert (mine.goals, mine.blocks) == (theirs.goals, theirs.blocks)


def test_with_a_private_ray(local: Ran, ray_environment: str, tmp_path: Path) -> None:
    where = ("--store", tmp_path / "store", "--tracking", "none", "--workers", "2", "--device", "cpu")
    done = new_process("run", local.plan.sweep.path, *where, "--backend", "ray", timeout=600)
    assert done.returncode == 0, done.stderr
    assert result(local.plan, Store(str(tmp_path / "store"))) == result_of(local)


def test_as_a_job(local: Ran, cluster: Any, tmp_path: Path) -> None:
    site = Site("ray", "ray.yaml", "ray", RaySettings(jobs=f"http://{cluster.webui_url}", python=sys.executable))
    store, name = Store(str(tmp_path / "store")), local.plan.sweep.name
    ray_jobs.submit(local.plan, store, site, Options(device="auto"))
    until(lambda: not ray_jobs.status(name, store, site)[-1].runs, 600)
    log = ray_jobs.logs(name, store, site)
    assert ray_jobs.status(name, store, site)[-1].status == "SUCCEEDED", log
    assert result(local.plan, store) == result_of(local)
