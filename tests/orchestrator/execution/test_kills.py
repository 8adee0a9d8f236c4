"""Anything may be killed at any moment; the same command resumes and gives the same numbers. Real signals.

Commands and their workers are forked (tests/orchestrator/forked.py); the last test starts them as a shell does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.store.store import Store
from tests.orchestrator.conftest import TINY, Ran, begun, changed, metrics, nagbench, run_here, started
from tests.orchestrator.forked import Command

LONG = ("count: 40", "count: 200", "{name: euler, steps: 2}", "{name: euler, steps: 12}")
SCORE = next(line for line in TINY.splitlines() if line.startswith("score"))


def workers_of(store: Path) -> list[int]:
    """Processes that work on this store: their errors go to its logs."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(entry / "fd" / "2").startswith(f"{store}/logs/"):
                found.append(int(entry.name))
    return found


def until(what: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def where(store: Path) -> tuple[str | Path, ...]:
    return "--store", store, "--tracking", "none", "--device", "cpu", "--workers", "2"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """`running(sweep, *options)`: the sweep, run on tmp_path/store in the background; ended after the test."""
    commands = []

    def start(sweep: Path, *options: str) -> Command:
        commands.append(begun("run", sweep, *where(tmp_path / "store"), *options))
        return commands[-1]

    yield start
    for command in commands:
        if command.poll() is None:
            command.kill()
    until(lambda: not workers_of(tmp_path / "store"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The longer sweep, never disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "sweep.yaml").write_text(changed(TINY, *LONG))
    return run_here(folder / "sweep.yaml", folder / "store")


def blocks(store: Path) -> int:
    return len(list(store.glob("blocks/*/0*.safetensors")))


def same_numbers(sweep: Path, store: Path, undisturbed: Ran) -> bool:
    again = run_here(sweep, store)
    assert again.backend is None, "the run before was not complete"
    return metrics(again.document()) == metrics(undisturbed.document())


def test_killed_engine(undisturbed: Ran, running: Callable[..., Command], tmp_path: Path) -> None:
    """Killed twice, at different points; its workers end on their own within seconds."""
    sweep, store = Path(undisturbed.plan.sweep.path), tmp_path / "store"
    for more in (1, 20):
        before, command = blocks(store), running(sweep)
        until(lambda enough=before + more: blocks(store) >= enough)
        assert workers_of(store)
        assert command.kill().returncode == -signal.SIGKILL
        until(lambda: not workers_of(store))
    done = nagbench("run", sweep, *where(store))
    assert done.returncode == 0, done.stderr
    assert same_numbers(sweep, store, undisturbed)


def test_killed_training_resumes_to_the_same_weights(
    write: Callable[..., Path], running: Callable[..., Command], tmp_path: Path
) -> None:
    """Killed twice; the newest checkpoint of the first time is damaged, so the second goes on from an older one."""
    one = ("seed: {grid: [0, 1]}", "seed: 3", "count: 40", "count: 20", SCORE, "")
    sweep, store = write("steps: 8", "steps: 700", *one), tmp_path / "store"
    for enough in (100, 250):
        command = running(sweep, "--workers", "1", "--arm", "plain", "--checkpoint-seconds", "0.05")
        until(lambda enough=enough: newest_checkpoint(store) >= enough)
        command.kill()
        until(lambda: not workers_of(store))
        if enough == 100:
            newest = max(store.glob("files/*/checkpoint-*"))
            newest.write_bytes(newest.read_bytes()[:1000])
    assert newest_checkpoint(store) < 700
    done = nagbench("run", sweep, *where(store), "--workers", "1", "--arm", "plain")
    assert done.returncode == 0, done.stderr
    undisturbed = run_here(sweep, tmp_path / "other")
    network = next(d for d, t in undisturbed.plan.tasks.items() if t.trains == "network")
    record = Store(str(store)).read_record(f"records/train/{network}.json")
    assert record["resumed_at"] >= 250
    name = f"files/{network}/network.safetensors"
    assert Store(str(store)).read(name) == undisturbed.store.read(name)
    assert newest_checkpoint(store) == 0, "checkpoints of a finished training are removed"


def newest_checkpoint(store: Path) -> int:
    return max((int(path.stem.removeprefix("checkpoint-")) for path in store.glob("files/*/checkpoint-*")), default=0)


def test_two_engines_on_one_sweep(undisturbed: Ran, tmp_path: Path) -> None:
    """Both succeed, with the numbers of one; no training is done twice."""
    sweep, store = Path(undisturbed.plan.sweep.path), tmp_path / "store"
    for run in [begun("run", sweep, *where(store), "--workers", "1") for _ in range(2)]:
        done = run.end()
        assert done.returncode == 0, done.stderr
    assert same_numbers(sweep, store, undisturbed)


def test_killed_worker(undisturbed: Ran, running: Callable[..., Command], tmp_path: Path) -> None:
    """Another takes its place in the same run."""
    sweep, store = Path(undisturbed.plan.sweep.path), tmp_path / "store"
    command = running(sweep)
    until(lambda: blocks(store) >= 20 and workers_of(store))
    os.kill(workers_of(store)[0], signal.SIGKILL)
    done = command.end()
    assert done.returncode == 0, done.stderr
    assert same_numbers(sweep, store, undisturbed)


def test_a_worker_that_always_dies_fails_its_cell(write: Callable[..., Path], tmp_path: Path) -> None:
    """After three deaths at one bundle it fails with the cause, and the run ends."""
    store = tmp_path / "store"
    process = started("run", write(), "--store", store, "--tracking", "none", "--workers", "1", "--arm", "plain")
    killed: set[int] = set()

    def kill() -> bool:
        for pid in set(workers_of(store)) - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        return process.poll() is not None

    until(kill, 240)
    output, _ = process.communicate()
    assert process.returncode == 1
    assert "its worker died (signal 9; log: " in output
    assert ", for the third time" in output
