"""Anything may be killed at any moment; the same command goes on and ends in the same numbers. Real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.store.store import Store
from tests.orchestrator.conftest import Ran, metrics, nagbench, run_here, started

LONG = ("count: 40", "count: 400", "{name: euler, steps: 2}", "{name: euler, steps: 40}")


def workers_of(store: Path) -> list[int]:
    """Processes that work on this store (`python -m orchestrator.execution.worker STORE ...`)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode().split("\0")
            except (OSError, UnicodeDecodeError):
                continue
            if "orchestrator.execution.worker" in words and str(store) in words:
                found.append(int(entry.name))
    return found


def until(what: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`running(sweep, *options)`: the sweep, run on tmp_path/store in the background; ended after the test."""
    processes = []

    def start(sweep: Path, *options: str) -> subprocess.Popen[str]:
        arguments = ("--store", tmp_path / "store", "--tracking", "none", "--device", "cpu", "--workers", "2")
        processes.append(started("run", sweep, *arguments, *options))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()
    until(lambda: not workers_of(tmp_path / "store"), 20)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The longer sweep, never disturbed."""
    from tests.orchestrator.conftest import TINY

    folder = tmp_path_factory.mktemp("undisturbed")
    text = TINY
    for old, new in zip(LONG[::2], LONG[1::2], strict=True):
        text = text.replace(old, new)
    (folder / "sweep.yaml").write_text(text)
    return run_here(folder / "sweep.yaml", folder / "store")


def blocks(store: Path) -> int:
    return len(list(store.glob("blocks/*/0*.safetensors")))


def same_numbers(sweep: Path, store: Path, undisturbed: Ran) -> bool:
    again = run_here(sweep, store)
    assert again.backend is None, "the run before was not complete"
    return metrics(again.document()) == metrics(undisturbed.document())


def test_killed_engine(undisturbed: Ran, running: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """Killed three times, at different points; its workers end by themselves within seconds."""
    sweep, store = Path(undisturbed.plan.sweep.path), tmp_path / "store"
    for enough in (1, 40, 120):
        process = running(sweep)
        until(lambda enough=enough: blocks(store) >= enough)
        assert workers_of(store)
        process.kill()
        process.wait()
        until(lambda: not workers_of(store), 10)
    process = running(sweep)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert same_numbers(sweep, store, undisturbed)


def test_killed_worker(undisturbed: Ran, running: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """Another takes its place in the same run."""
    sweep, store = Path(undisturbed.plan.sweep.path), tmp_path / "store"
    process = running(sweep)
    for enough in (1, 100):
        until(lambda enough=enough: blocks(store) >= enough and workers_of(store))
        os.kill(workers_of(store)[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert same_numbers(sweep, store, undisturbed)


def test_a_worker_that_always_dies_fails_its_cell(write: Callable[..., Path], tmp_path: Path) -> None:
    """Three deaths at one bundle are enough: it fails with the cause, and the run ends."""
    store = tmp_path / "store"
    process = started("run", write(), "--store", store, "--tracking", "none", "--workers", "1", "--arm", "plain")
    killed: set[int] = set()

    def kill() -> bool:
        for pid in set(workers_of(store)) - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        return process.poll() is not None

    until(kill, 120)
    output, _ = process.communicate()
    assert process.returncode == 1
    assert "its worker died (signal 9; log: " in output
    assert ", the third time" in output


def test_killed_training_resumes_to_the_same_weights(
    write: Callable[..., Path], running: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    sweep = write("steps: 8", "steps: 900", "seed: {grid: [0, 1]}", "seed: 3", "count: 40", "count: 20")
    store = tmp_path / "store"
    for enough in (1, 4):
        process = running(sweep, "--checkpoint-seconds", "0.05")
        until(lambda enough=enough: newest_checkpoint(store) >= enough * 100)
        process.kill()
        process.wait()
        until(lambda: not workers_of(store), 10)
    assert newest_checkpoint(store) < 900
    process = running(sweep)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    undisturbed = run_here(sweep, tmp_path / "other")
    network = next(d for d, t in undisturbed.plan.tasks.items() if t.kind == "train" and "train" in t.params)
    record = Store(str(store)).read_record(f"records/train/{network}.json")
    assert record["resumed_at"] >= 400
    name = f"files/{network}/network.safetensors"
    assert Store(str(store)).read(name) == undisturbed.store.read(name)
    assert newest_checkpoint(store) == 0, "checkpoints of a finished training are removed"


def newest_checkpoint(store: Path) -> int:
    return max((int(path.stem.removeprefix("checkpoint-")) for path in store.glob("files/*/checkpoint-*")), default=0)


def test_a_damaged_checkpoint_is_passed_over(
    write: Callable[..., Path], running: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    sweep = write("steps: 8", "steps: 700", "seed: {grid: [0, 1]}", "seed: 3", "count: 40", "count: 20")
    store = tmp_path / "store"
    process = running(sweep, "--checkpoint-seconds", "0.05")
    until(lambda: newest_checkpoint(store) >= 200)
    process.kill()
    process.wait()
    until(lambda: not workers_of(store), 10)
    newest = max(store.glob("files/*/checkpoint-*"))
    newest.write_bytes(newest.read_bytes()[:1000])
    process = running(sweep)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    undisturbed = run_here(sweep, tmp_path / "other")
    assert same_numbers(sweep, store, undisturbed)


def test_ctrl_c(undisturbed: Ran, running: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    sweep, store = Path(undisturbed.plan.sweep.path), tmp_path / "store"
    process = running(sweep)
    until(lambda: blocks(store) >= 20)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Finished work stays" in output
    assert "Traceback" not in output
    assert not workers_of(store)
    assert blocks(store) >= 20
    done = nagbench("status", sweep, "--store", store)
    assert done.returncode == 0


def test_two_engines_on_one_sweep(
    undisturbed: Ran, running: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Both end well, with the numbers of one; no training is done twice."""
    sweep, store = Path(undisturbed.plan.sweep.path), tmp_path / "store"
    both = [running(sweep, "--workers", "1") for _ in range(2)]
    for process in both:
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output
    assert same_numbers(sweep, store, undisturbed)
