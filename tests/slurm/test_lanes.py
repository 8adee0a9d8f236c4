"""Processes of one array task that share a GPU; here without Slurm, and without a GPU."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.backends.cards import VISIBLE
from orchestrator.backends.slurm import lanes
from orchestrator.backends.slurm.array_task import ArrayTaskRunner
from orchestrator.backends.slurm.arrays import Array, ArrayTask
from orchestrator.backends.slurm.lanes import MPS, lane_cards, mps
from orchestrator.backends.slurm.settings import Resources
from orchestrator.backends.slurm.waves import create_wave, write_array
from orchestrator.execution import engine
from orchestrator.execution.protocol import Bundle
from orchestrator.plan.make import plan
from orchestrator.spec.reader import read_sweep
from orchestrator.store.layout import block_name
from orchestrator.store.store import Store
from tests.orchestrator.conftest import Ran
from tests.slurm.cluster import alive

Running = Callable[[int], ArrayTaskRunner]


@pytest.fixture
def running(done: Ran, tmp_path: Path) -> Running:
    """`running(4)`: an array task whose bundles are so many blocks of the sweep, done by two processes."""
    shutil.copytree(done.store.root, tmp_path / "store", ignore=shutil.ignore_patterns("blocks"))
    store, planned = Store(str(tmp_path / "store")), plan(read_sweep(done.plan.sweep.path))
    streams = [digest for digest, task in planned.tasks.items() if task.kind == "sample"]

    def made(count: int) -> ArrayTaskRunner:
        name = engine.keep_plan(planned, store)
        bundles = tuple(Bundle(((digest, (n,)),), name, "sample") for digest in streams for n in range(2))[:count]
        record = {"arrays": 1, "stem": "x", "time": time.time(), "folder": str(tmp_path)}
        wave, resources = create_wave(store, "small", record), Resources(60, 1, 1, 0, 1, per_gpu=2)
        write_array(store, wave, 0, Array("x.0", "sample", "", resources, (), (), (ArrayTask(bundles),), 1))
        return ArrayTaskRunner(store, wave, 0, 0, name, {"folder": str(tmp_path)})

    return made


def test_two_processes_make_the_bits_of_one_and_no_warning_ends_them(
    done: Ran, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm signals all processes of a job, also those that have just started."""
    start = lanes.LaneWorker._start

    def and_warn(self: lanes.LaneWorker) -> Any:
        process = start(self)
        for wait in (0.5, 1.0, 3.0):
            threading.Timer(wait, warn, (process,)).start()
        return process

    def warn(process: Any) -> None:
        for number in (signal.SIGUSR2, signal.SIGTERM):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    monkeypatch.setattr(lanes.LaneWorker, "_start", and_warn)
    runner = running(4)
    assert runner.run() == "done"
    assert (runner.ends, runner.steps, len(runner.lanes)) == ([], 4, 2)
    made = [(digest, n) for digest in runner.store.list("blocks") for n in range(2)]
    assert len(made) == 4
    for name in (block_name(digest, number) for digest, number in made):
        ours, theirs = (store.read_arrays(name)[0] for store in (runner.store, done.store))
        for key in theirs:
            np.testing.assert_array_equal(ours[key], theirs[key])
    (mark,) = runner.store.list(f"{runner.wave.folder}/ends")
    assert runner.store.read_record(f"{runner.wave.folder}/ends/{mark}")["outcome"] == "done"


def test_the_death_of_a_process_is_a_failure_of_its_bundle(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others do the rest. None is left."""
    started: list[Any] = []
    start = lanes.LaneWorker._start

    def and_note(self: lanes.LaneWorker) -> Any:
        process = start(self)
        started.append(process)
        if len(started) == 1:
            process.kill()
        return process

    monkeypatch.setattr(lanes.LaneWorker, "_start", and_note)
    runner = running(2)
    assert runner.run() == "done"
    (end,) = runner.ends
    assert (end["outcome"], end["cause"], end["reason"]) == ("failed", "died", "its process ended with exit code -9")
    assert len([n for digest in runner.store.list("blocks") for n in runner.store.list(f"blocks/{digest}")]) == 1
    assert not [process.pid for process in started if process.poll() is None or alive(process.pid)]


def test_lanes_share_the_cards_that_slurm_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "2,5")
    assert lane_cards(4) == ["2", "5", "2", "5"]
    monkeypatch.delenv(VISIBLE)
    assert lane_cards(2) == ["", ""]


def test_mps_runs_for_as_long_as_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = tmp_path / "calls"
    (tmp_path / MPS).write_text(
        f'#!/bin/sh\nif [ "$1" = -d ]; then echo "start $CUDA_MPS_PIPE_DIRECTORY" >> {calls}; else\n'
        f'read word; echo "$word $CUDA_MPS_PIPE_DIRECTORY" >> {calls}; fi\n'
    )
    (tmp_path / MPS).chmod(0o755)
    with mps(True):  # not on this node
        assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with mps(False):
        assert not calls.exists()
    with mps(True):
        folder = os.environ["CUDA_MPS_PIPE_DIRECTORY"]
        assert Path(folder).is_dir()
        assert calls.read_text() == f"start {folder}\n"
    assert calls.read_text() == f"start {folder}\nquit {folder}\n"
    assert not Path(folder).exists()
    assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ
