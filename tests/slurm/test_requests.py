"""What sites ask for, as a real Slurm understands it: memory, GPUs, a reservation, licenses, mail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.configuration import Settings
from tests.slurm.running import CLOSED, Place

pytestmark = pytest.mark.timeout(300)

CASES = {
    "memory: none\ngpus: --gpus\n": ("MinMemoryCPU=500M ", "TresPerJob=gres:gpu:1 "),
    "memory: per_gpu\ngpus: --gpus-per-node\n": ("MemPerTres=gres:gpu:2048 ", "TresPerNode=gres:gpu:1 "),
    "memory: per_cpu\ngpus: --gpus-per-task\n": ("MinMemoryCPU=2G ", "TresPerTask=gres:gpu:1 "),
    "reservation: lab\nlicenses: matlab:2\n": ("Reservation=lab ", "Licenses=matlab:2 ", "MinMemoryNode=2G "),
    "mail_user: me@lab.org\nextra: [--mail-type=FAIL]\n": ("MailUser=me@lab.org ", "MailType=FAIL "),
}


def test_what_a_site_asks_for(slurm_with: Callable[[Settings], Cluster], tmp_path: Path) -> None:
    """Of the training, which waits in a partition where nothing starts."""
    made = slurm_with(Settings(nodes=1, accounting=False, extra="Licenses=matlab:4"))
    reservation = ("ReservationName=lab", "Users=root", "StartTime=now", "Duration=60", "Nodes=n1")
    made.out("scontrol", "create", "reservation", *reservation)
    for number, (lines, words) in enumerate(CASES.items()):
        place = Place(tmp_path / f"me{number}", made)
        place.closed(more=lines)
        done = place("submit")
        assert done.exit_code == 0, done.output
        shown = [made.out("scontrol", "--oneliner", "show", "job", job) for job in place.queue()]
        training = next(f"{job.strip()} " for job in shown if f"Partition={CLOSED[0]} " in job and "Array" not in job)
        assert [each for each in words if each not in training] == [], training
        assert place("cancel").exit_code == 0
