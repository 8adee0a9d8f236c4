"""Slurm holds to the contract of all backends (tests/orchestrator/contract.py)."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.slurm.backend import Slurm
from orchestrator.backends.slurm.commands import Commands
from orchestrator.backends.slurm.jobs import ArrayJobs
from orchestrator.backends.slurm.ledger import cancel_jobs
from orchestrator.backends.slurm.settings import SlurmSettings, Stage, Stages
from orchestrator.plan.model import Plan
from orchestrator.store.store import Store
from tests.orchestrator import contract
from tests.orchestrator.conftest import Ran
from tests.orchestrator.contract import *  # noqa: F403  (its tests, and what they compare with)
from tests.orchestrator.contract import Kind, Used, using
from tests.slurm.cluster import Cluster, environment, processes
from tests.slurm.running import ROOT

WHO = "me"
SHORT = Stage(minutes=6, memory_gb=1, cpus=1)
SITE = SlurmSettings(
    partition="gpu",
    cpu_partition="cpu",
    stages=Stages(sample=SHORT, extract=SHORT),
    target_minutes=0.0001,  # an array task for each bundle, so that they could all run at once
    throttle=4,
    poll_s=0.5,
    signal_s=5,
)


@contextlib.contextmanager
def slurm(store: Store, plan: Plan) -> Iterator[Slurm]:
    folder = Path(store.path("cluster"))
    record = {"owner": WHO, "uid": os.getuid(), "host": "here", "generation": 1, "since": time.time(), "site": "test"}
    options = {"signal_s": 5, "stagger_s": 0}
    yield Slurm(store, plan, SITE, folder, ROOT, Commands(), lambda text: None, record, options)


def workers(backend: Slurm) -> list[int]:
    """The processes that do the work of this backend's array tasks."""
    found = []
    for pid in processes():
        names = [each for each in environment(pid) if each.startswith(b"SLURM_JOB_NAME=" + backend.stem.encode())]
        if names and b"SLURM_PROCID=0" in environment(pid):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if b"python" in os.path.basename(words[0]) and b"submitit.core._submit" in words:
                    found.append(pid)
    return found


def cancel(backend: Slurm) -> Any:
    """`nagbench cancel`."""
    count, gone = cancel_jobs(ArrayJobs(backend.store, backend.plan.sweep.name, Commands()), WHO, None)
    assert count
    assert gone
    backend.close()


@pytest.fixture(scope="module")
def used(whole_session: Cluster, truth: Ran, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Used]:
    """The session's cluster; a sampling array task has one of the fake GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(whole_session.conf))
        with using(Kind(slurm, workers, cancel, gpus=1), truth, tmp_path_factory.mktemp("slurm")) as made:
            yield made
    whole_session.wait_idle()


def test_a_worker_that_is_lost(used: Used, truth: Ran) -> None:
    contract.a_worker_that_is_lost(used, truth)


def test_what_is_ended_at_work(used: Used, truth: Ran) -> None:
    contract.what_is_ended_at_work(used, truth)
