"""An array task, and the engine that watches it, where no Slurm is needed."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.backends.slurm import array_task
from orchestrator.backends.slurm import backend as slurm
from orchestrator.backends.slurm.array_task import STOP, ArrayTaskRunner, RunArrayTask
from orchestrator.backends.slurm.arrays import arrays
from orchestrator.backends.slurm.backend import Slurm
from orchestrator.backends.slurm.commands import Commands, Unsupported
from orchestrator.backends.slurm.presence import doubled
from orchestrator.backends.slurm.process import CACHES, prepare
from orchestrator.backends.slurm.queue_state import queue_states
from orchestrator.backends.slurm.settings import SlurmSettings
from orchestrator.backends.slurm.waves import create_wave, record_failed_stream, write_array
from orchestrator.errors import EnvironmentProblem
from orchestrator.execution import engine
from orchestrator.execution import protocol as backends
from orchestrator.execution.protocol import Bundle, Work
from orchestrator.plan.make import plan
from orchestrator.spec.reader import read_sweep
from orchestrator.store.layout import block_name
from orchestrator.store.store import Store
from tests.orchestrator.conftest import Ran
from tests.slurm.running import ROOT, wrapper


@pytest.fixture
def running(done: Ran, tmp_path: Path) -> Callable[..., ArrayTaskRunner]:
    """`running(steps)`: an array task with these steps, on a store that has the network and no samples."""
    shutil.copytree(done.store.root, tmp_path / "store", ignore=shutil.ignore_patterns("blocks"))
    store = Store(str(tmp_path / "store"))
    planned = plan(read_sweep(done.plan.sweep.path))

    def made(*steps: tuple[str, tuple[int, ...]]) -> ArrayTaskRunner:
        bundle = Bundle(steps, engine.keep_plan(planned, store), "sample", "")
        wave = create_wave(store, "small", {"arrays": 1, "stem": "x", "time": time.time(), "folder": str(tmp_path)})
        (array,) = arrays([Work(1, bundle)], SlurmSettings(), lambda each: 1.0, str, {}, 10)
        write_array(store, wave, 0, array)
        return ArrayTaskRunner(store, wave, 0, 0, bundle.plan, {"folder": str(tmp_path)})

    return made


def samples(done: Ran) -> str:
    return next(digest for digest, task in done.plan.tasks.items() if task.kind == "sample")


def test_a_file_stop_ends_it_after_the_block(
    done: Ran, running: Callable[..., ArrayTaskRunner], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stream = samples(done)
    made = running((stream, (0,)), (stream, (1,)))
    step = ArrayTaskRunner._step

    def and_then(self: ArrayTaskRunner, *arguments: Any) -> Any:
        (tmp_path / STOP).touch()
        return step(self, *arguments)

    monkeypatch.setattr(ArrayTaskRunner, "_step", and_then)
    assert made.run() == "stopped"
    assert made.store.list(f"blocks/{stream}") == done.store.list(f"blocks/{stream}")[:1]


def test_a_task_that_no_plan_has_is_bad_input_and_the_rest_is_done(
    done: Ran, running: Callable[..., ArrayTaskRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = running(("0" * 32, (0,)))
    assert made.run() == "done"
    (end,) = made.ends
    assert (end["outcome"], end["cause"], end["digest"]) == ("failed", "bad_input", "0" * 32)
    assert "has the task 000" in end["reason"]


def test_no_other_block_of_a_cell_that_has_failed_is_tried(done: Ran, running: Callable[..., ArrayTaskRunner]) -> None:
    stream = samples(done)
    made = running((stream, (0,)))
    record_failed_stream(made.store, made.wave, stream, "not finite")
    assert made.run() == "done"
    (end,) = made.ends
    assert (end["outcome"], end["reason"]) == ("skipped", "not tried: another block of its cell failed: not finite")
    assert not made.store.list(f"blocks/{stream}")


def away(store: Store, name: str, seconds: float) -> threading.Thread:
    """Hide a file of the store, as caches of a network file system do, and show it after a time."""
    place, aside = Path(store.path(name)), Path(f"{store.root}-aside")
    place.rename(aside)
    timer = threading.Timer(seconds, aside.rename, (place,))
    timer.start()
    return timer


@pytest.mark.parametrize("what", ["records", "files"])
def test_an_input_that_is_not_visible_yet_is_waited_for(
    done: Ran, running: Callable[..., ArrayTaskRunner], what: str
) -> None:
    stream = samples(done)
    made = running((stream, (0,)))
    network = str(done.plan.tasks[stream].params["network"])
    name = f"records/train/{network}.json" if what == "records" else f"files/{network}/network.safetensors"
    made.options = {**made.options, "visible_after_s": 60.0}
    back = away(made.store, name, 1.5)
    assert made.run() == "done"
    back.join()
    assert made.ends == []
    assert made.store.read_arrays(block_name(stream, 0))[0].keys() == {"samples", "labels"}
    assert made.store.list("quarantine/records/train") == []


def test_what_appears_when_the_worker_looks_is_not_said_to_be_made(
    running: Callable[..., ArrayTaskRunner],
    done: Ran,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A file system may hide a new file from the first look."""
    stream = samples(done)
    made = running((stream, (0,)))
    assert made.run() == "done"
    assert f"made sample {stream} 0 in " in capsys.readouterr().err
    before = os.stat(made.store.path(block_name(stream, 0)))
    monkeypatch.setattr(ArrayTaskRunner, "published", lambda *_: False)
    again = ArrayTaskRunner(made.store, made.wave, 0, 0, made.plan, made.options)
    assert again.run() == "done"
    said = capsys.readouterr().err
    assert f"sample {stream} 0: made by another meanwhile" in said
    assert "made sample" not in said
    assert os.stat(made.store.path(block_name(stream, 0))) == before


def test_an_input_that_was_not_made_is_not_waited_for(done: Ran, running: Callable[..., ArrayTaskRunner]) -> None:
    stream = samples(done)
    made = running((stream, (0,)))
    made.options = {**made.options, "visible_after_s": 600.0}
    network = str(done.plan.tasks[stream].params["network"])
    made.store.remove(f"records/train/{network}.json")
    bundle = Bundle(((network, None),), made.plan, "train", "")
    (training,) = arrays([Work(1, bundle)], SlurmSettings(), lambda each: 1.0, str, {}, 10)
    write_array(made.store, made.wave, 1, training)
    failed = {"outcome": "done", "bundles": [{"bundle": 0, "outcome": "failed", "digest": network}]}
    made.store.create_record(made.wave.mark("ends", 1, 0, 0), failed)
    assert made.run() == "done"
    (end,) = made.ends
    assert (end["outcome"], end["reason"]) == ("skipped", f"records/train/{network}.json is not there")


def test_array_tasks_start_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(array_task.time, "sleep", slept.append)
    monkeypatch.setattr(array_task.signal, "signal", lambda *_: signal.SIG_DFL)
    monkeypatch.setattr(ArrayTaskRunner, "run", lambda self: "done")
    for index in (0, 1, 19, 20):
        RunArrayTask("memory://x", "small", 1, 0, "", {"stagger_s": 0.5})(index)
    assert slept == [0.0, 0.5, 9.5, 0.0]


def test_caches_go_to_the_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in CACHES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("NOT_HERE", raising=False)
    prepare("$NOT_HERE/x")
    assert not [name for name in CACHES if name in os.environ]
    monkeypatch.setenv("NODE_DISK", str(tmp_path))
    for name in CACHES:
        monkeypatch.setenv(name, "x")  # so that the patch takes back what comes now
        monkeypatch.delenv(name)
    prepare("$NODE_DISK/me")
    assert {os.environ[name] for name in CACHES} == {f"{tmp_path}/me/nagbench/{name.lower()}" for name in CACHES}


class Asked(Commands):
    """Slurm's commands on a cluster where nothing happens; when they were called."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self.clock, self.times = clock, []

    def queue(self) -> list[Any]:
        self.times.append(self.clock())
        return []

    def accounts(self, *arguments: Any, **options: Any) -> list[Any]:
        raise Unsupported("none here")


def test_who_watches_asks_seldom_and_not_in_step(done: Ran, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def clock() -> float:
        return now

    monkeypatch.setattr(slurm, "time", SimpleNamespace(monotonic=clock, sleep=sleep, time=time.time))
    asked = Asked(clock)
    record = {"owner": "me", "generation": 1, "since": 0.0}
    backend: backends.Backend = Slurm(
        done.store, done.plan, SlurmSettings(), tmp_path, ROOT, asked, lambda text: None, record, {}
    )
    while now < 7200:
        assert backend.poll(0.5) == []
    gaps = [later - sooner for sooner, later in zip(asked.times, asked.times[1:], strict=False)]
    assert min(gaps) >= 60
    assert max(gaps) < 60 * 1.15 + 30 + 1
    assert len({round(gap) for gap in gaps}) > 1


def test_an_array_that_names_another_plan_is_not_done(done: Ran, running: Callable[..., ArrayTaskRunner]) -> None:
    """The array lies in the store, where others can write; the plan came with the job."""
    digest = samples(done)
    runner = running((digest, (0,)))
    forged = replace(runner, plan="0" * 32)
    with pytest.raises(EnvironmentProblem, match=r"waves/small/000001/000.json is not what was submitted"):
        forged.run()
    assert not runner.store.exists(block_name(digest, 0))


def test_one_that_was_given_up_and_went_on_is_counted(
    done: Ran, running: Callable[..., ArrayTaskRunner], tmp_path: Path
) -> None:
    """Two runs of one array task: the first results stay, and `status` tells of it."""
    runner = running((samples(done), (0,)))
    lost = {"outcome": "ended", "cause": "lost", "reason": "gone", "time": time.time()}
    runner.store.create_record(runner.wave.mark("ends", 0, 0, 0), lost)
    assert doubled(runner.store, "small") == 0
    runner.run()
    assert runner.store.exists(block_name(samples(done), 0))
    assert doubled(runner.store, "small") == 1
    runner.store.create_record(runner.wave.job_name(0), {"job": "7"})
    commands = Commands(dict(os.environ) | wrapper(tmp_path / "bin", squeue="exit 0"))
    notes = queue_states(runner.store, "small", commands).notes
    assert [note for note in notes if note.startswith("1 array tasks ran twice, since Slurm did not show them")]
