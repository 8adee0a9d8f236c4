"""`run --processes`: several processes of this machine, started and ended by a worker, train one network. The worker is
forked here; the others are started as a user's are.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load

from nag.distributed import ALONE, world
from orchestrator.backends.local import Local
from orchestrator.execution import engine
from orchestrator.execution.worker import Worker, peers
from orchestrator.plan.make import plan
from orchestrator.plan.model import Plan
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from orchestrator.tasks.context import Options
from tests.nag.together import sockets
from tests.orchestrator import nursery
from tests.orchestrator.conftest import TINY, Quiet, Ran, nagbench, run_here

SCORE = next(line for line in TINY.splitlines() if line.startswith("score"))
ONCE = ("seed: {grid: [0, 1]}", "seed: 0", "steps: 8", "steps: 40", "lr: 1e-2", "lr: 1e-3", SCORE, "")
TWO = Options(processes=2, checkpoint_s=0.0)


@pytest.fixture
def sweep(write: Callable[..., Path]) -> Path:
    return write(*ONCE)


def run_locally(planned: Plan, store: Path, tell: Callable[[Local], None] = lambda backend: None) -> Ran:
    """With one worker that starts another process for the training. tell: called at every poll."""
    opened, observer = Store(str(store)), Quiet()

    def make() -> Local:
        backend = Local(opened, 1, TWO)
        poll = backend.poll

        def watched(timeout_s: float) -> Any:
            tell(backend)
            return poll(min(timeout_s, 0.05))

        backend.poll = watched  # type: ignore[method-assign]
        return backend

    with nursery.opened():
        failed = engine.run(planned, opened, make, observer)
    return Ran(planned, opened, None, observer, failed)


def trained(ran: Ran) -> tuple[bytes, dict[str, Any]]:
    """The file of the one network that is trained, and its record."""
    (task,) = [t for t in ran.plan.tasks.values() if t.trains == "network"]
    return ran.store.read(f"files/{task.digest}/network.safetensors"), ran.store.read_record(task.record_name)


def peers_of(backend: Local) -> list[int]:
    """The processes that the workers have started."""
    workers = {process.process.pid for process in backend.processes}
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = place.read_text().rpartition(")")[2].split()[:2]
            theirs = int(parent) in workers and state != "Z"
            if theirs and b"orchestrator.execution.worker" in (place.parent / "cmdline").read_bytes():
                found.append(int(place.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="it looks for processes in /proc")
def test_one_of_two_is_killed(sweep: Path, tmp_path: Path) -> None:
    """In the middle: the training resumes from its checkpoint, and gives what an undisturbed one gives."""
    planned, killed, seen = plan(read_sweep(sweep)), [], []

    def kill(backend: Local) -> None:
        seen.extend(peers_of(backend))
        if not killed and list((tmp_path / "store").glob("files/*/checkpoint-*")) and (found := peers_of(backend)):
            os.kill(found[0], signal.SIGKILL)
            killed.append(found[0])

    ran = run_locally(planned, tmp_path / "store", kill)
    assert not ran.failed
    assert killed
    assert seen[-1] != killed[0], "another one, after the kill"
    (attempt,) = [ran.store.read_record(f"attempts/{d}/{n}") for d in ran.store.list("attempts")
                  for n in ran.store.list(f"attempts/{d}")]  # fmt: skip
    assert (attempt["cause"], "another process of the training died" in attempt["reason"]) == ("died", True)
    weights, record = trained(ran)
    assert record["processes"] == 2
    assert record["resumed_at"] > 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in seen)

    alone = run_here(sweep, tmp_path / "alone")
    assert trained(alone)[1]["processes"] == 1
    one, two = load(trained(alone)[0]), load(weights)
    assert 0 < max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4
    again = run_here(sweep, tmp_path / "again", TWO)
    assert world() == ALONE, "the environment is as before"
    assert trained(again)[0] == weights


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="it looks for sockets in /proc")
def test_whoever_left_a_rank_in_the_environment(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of torchrun, a notebook server or `srun`: nothing of it counts, for one process and for two; and the two can be
    reached from this machine alone.
    """
    for name, value in (
        *(("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1"), ("MASTER_ADDR", "192.0.2.1"), ("MASTER_PORT", "9")),
        *(("SLURM_PROCID", "1"), ("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_LOCALID", "1"), ("NAGBENCH_RANK", "7")),
        *(("NAGBENCH_WORLD_SIZE", "8"), ("GLOO_SOCKET_IFNAME", "nothing0")),
    ):
        monkeypatch.setenv(name, value)
    sweep.write_text(sweep.read_text().replace("steps: 40", "steps: 8"))
    planned, seen = plan(read_sweep(sweep)), set()

    def look(backend: Local) -> None:
        for pid in [*(process.process.pid for process in backend.processes), *peers_of(backend)]:
            with contextlib.suppress(OSError):  # it has ended
                seen.update(sockets(pid))

    ran = run_locally(planned, tmp_path / "two", look)
    assert not ran.failed
    assert trained(ran)[1]["processes"] == 2
    assert ("listens", "127.0.0.1") in seen
    assert {address for _, address in seen} == {"127.0.0.1"}
    done = nagbench("run", sweep, "--store", tmp_path / "one", "--workers", "1", "--tracking", "none")
    assert done.returncode == 0, done.stderr
    assert trained(Ran(planned, Store(str(tmp_path / "one")), None, Quiet(), []))[1]["processes"] == 1


def test_a_process_that_does_not_start(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    began = time.monotonic()
    words = r"another process of this training did not start \(exit code 1\)"
    with pytest.raises(RuntimeError, match=words), peers(Store(str(tmp_path)), TWO, {}):
        pytest.fail("it has started")
    assert time.monotonic() - began < 120


def test_nobody_is_called_for_a_batch_that_does_not_divide(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run` reports it before anything starts, and so does a worker."""
    for options in (("--processes", "3"), ("--site", tmp_path / "three.yaml")):
        (tmp_path / "three.yaml").write_text("kind: local\nprocesses: 3\n")
        done = nagbench("run", sweep, *options, "--store", tmp_path / "none", "--tracking", "none")
        assert done.returncode == 2
        words = "and networks.sit.train.batch: a global batch of 16 cannot be divided equally among 3 processes"
        assert words in done.stderr.replace("\n", " ")
        assert not (tmp_path / "none").exists()
    done = nagbench("run", sweep, "--processes", "2", "--device", "cuda:1", "--tracking", "none")
    assert "--device cuda:1: 2 processes need a GPU each; use --device cuda" in done.stderr

    ran, sent = run_here(sweep, tmp_path / "store"), []
    (task,) = [t for t in ran.plan.tasks.values() if t.trains == "network"]
    monkeypatch.setattr("orchestrator.execution.worker.peers", lambda *told: pytest.fail("called"))
    worker = Worker(ran.store, Options(processes=3), sent.append)
    worker.bundle({"id": 1, "plan": ran.store.list("plans")[0].removesuffix(".json"), "steps": [(task.digest, None)],
                   "micro_batch": 0})  # fmt: skip
    assert (sent[-1]["outcome"], sent[-1]["cause"]) == ("failed", "bad_input")
