"""A process of a training that hangs on a real cluster: the others notice, the job ends, and the training goes on."""

from __future__ import annotations

import json
import os
import platform
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nag.heartbeat import LOOKS
from tests.slurm.cluster import Cluster, alive, environment, processes, wait
from tests.slurm.configuration import Settings
from tests.slurm.faults import SWEEP, Trial
from tests.slurm.running import changed
from tests.slurm.test_run import checkout

pytestmark = pytest.mark.timeout(900)

HUNG_S = 20.0  # instead of five minutes; long enough for a busy machine
KILLED_S = 40.0  # until srun has ended the rest of the step, and Slurm the job
ALONE = ("score: {features: [pixels], metrics: [fid]}\n", "", "  nag: {nag: {scale: 1.0}}\n", "")
TWO_NODES = ("train: {minutes: 6, memory_gb: 2, cpus: 1}", "train: {minutes: 6, memory_gb: 2, cpus: 1, nodes: 2}")


def process_of(trial: Trial, rank: int) -> int:
    """The process of a rank of the training, once it takes steps."""
    for pid in processes():
        known = environment(pid)
        if {f"SLURM_CONF={trial.env['SLURM_CONF']}".encode(), f"SLURM_PROCID={rank}".encode()} <= known:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"python" in os.path.basename(words[0]) and b"submitit.core._submit" in words:
                return pid
    raise OSError(f"no process of rank {rank}")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_hangs(slurm_with: Callable[[Settings], Cluster], tmp_path: Path, rank: int) -> None:
    made = slurm_with(Settings(accounting=False))
    text = changed(SWEEP, *ALONE, SWEEP[SWEEP.index("  late:") :], "")
    trial = Trial(tmp_path / "me", made, trained=False, changes=TWO_NODES, text=text)
    code = checkout(tmp_path / "checkout")
    place = code / "nag" / "heartbeat.py"
    place.write_text(changed(place.read_text(), "HUNG_S = 300.0", f"HUNG_S = {HUNG_S}"))
    trial.says(step=0.1)
    _, over = trial.start("run", "--checkpoint-seconds", "0.5", env={"PYTHONPATH": str(code)})
    trial.wait_for(lambda: trial.checkpoint() > 0, "there is a checkpoint")
    time.sleep(2 * HUNG_S / LOOKS)  # by then each has told the other where it runs
    stopped, other = process_of(trial, rank), process_of(trial, 1 - rank)
    os.kill(stopped, signal.SIGSTOP)
    began = time.monotonic()
    wait(lambda: not alive(other), "the other process has ended", HUNG_S + KILLED_S)
    assert time.monotonic() - began > HUNG_S / 2, "it ended before it could know"
    wait(lambda: not alive(stopped), "srun has ended the one that hung", KILLED_S)
    trial.says(step=0)
    done = over()
    assert done.returncode == 0, done.stderr + trial.logs()[-3000:]
    words = f"process {rank} of the training on {platform.node()} hangs: no sign of life for {HUNG_S:g} s"
    assert words in trial.logs()
    (attempt,) = trial.attempts()
    assert attempt["cause"] == "died"
    woken = "PeerFailed" in attempt["reason"]  # by srun, which ends it, and it had the time to look around
    assert words in attempt["reason"] or (rank == 0 and woken), attempt
    assert trial.resumed_at()[0] > 0
    (record,) = trial.folder.glob("results/store/records/train/*.json")
    assert json.loads(record.read_text())["processes"] == 2
