"""The tests' own cluster: it breaks as told, and nothing of it is left."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, absent, alive, cluster, environment, processes, wait
from tests.slurm.configuration import Settings
from tests.slurm.conftest import up

SHORT = Settings(accounting=False, slurmd_timeout_s=4, kill_wait_s=2)


def test_a_node_without_its_daemon_and_one_without_power() -> None:
    with up(SHORT) as made:
        script = 'echo $$ > "$SLURMD_NODENAME"; sleep 120'
        for node in made.nodes:
            made.submit(script, f"--chdir={made.folder}", f"--nodelist={node}")
        places = [made.folder / node for node in made.nodes]
        wait(lambda: all(place.exists() and place.read_text() for place in places), "both run")
        first, second = (int(place.read_text()) for place in places)
        made.kill_slurmd("n1", with_tasks=False)
        assert alive(first)
        made.kill_slurmd("n2", with_tasks=True)
        assert not alive(second)
        for node in made.nodes:
            made.start_slurmd(node)
        assert alive(first)  # a daemon that comes back in time finds it running


def test_nothing_is_left_of_a_cluster() -> None:
    with up(SHORT) as made:
        job = made.submit("trap '' TERM; srun sleep 300 & sleep 300")
        wait(lambda: made.jobs().get(job) == "RUNNING", "it runs")
        mark, folder = f"SLURM_CONF={made.conf}".encode(), made.folder
        wait(lambda: sum(mark in environment(pid) for pid in processes()) > 5, "its processes are there")
        made.kill_slurmd("n1", with_tasks=False)  # its tasks are nobody's now
    left = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in processes() if mark in environment(pid)}
    assert not left
    assert not folder.exists()


def test_a_cluster_that_does_not_come_up_says_why(tmp_path: Path) -> None:
    reason = absent(accounting=False)
    if reason:
        pytest.skip(reason)
    began = time.monotonic()
    with (
        pytest.raises(Exception, match="nosuch"),
        cluster(tmp_path / "c", Settings(accounting=False, extra="nosuch=1")),
    ):
        pass
    assert time.monotonic() - began < 60  # it does not wait for what has ended


def test_two_clusters_at_once_do_not_meet(slurm: Cluster) -> None:
    with up(SHORT) as other:
        job = other.submit("sleep 60")
        assert job in other.jobs()
        assert slurm.jobs() == {}
        assert other.env["SLURM_CONF"] != slurm.env["SLURM_CONF"]
        assert os.environ.get("SLURM_CONF") not in (other.env["SLURM_CONF"], slurm.env["SLURM_CONF"])
