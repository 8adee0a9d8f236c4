"""A federation of two real clusters, with one slurmdbd: `clusters: a,b` in all commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator.backends.slurm.arrays import Array
from orchestrator.backends.slurm.jobs import jobs_of
from orchestrator.backends.slurm.waves import waves
from tests.slurm.cluster import Cluster, cluster, wait
from tests.slurm.configuration import Settings
from tests.slurm.conftest import up
from tests.slurm.running import Place
from tests.slurm.test_clusters import submit_look_and_cancel

pytestmark = pytest.mark.timeout(900)
ONE_EACH = ("throttle: 1", "throttle: 6", "target_minutes: 5", "target_minutes: 1")


@dataclass
class Federated(Place):
    """A user's folder at a federation; `cluster` is that of the login node."""

    other: Cluster = field(kw_only=True)

    def __post_init__(self) -> None:
        Place(self.folder, self.other)  # its partitions
        super().__post_init__()

    @property
    def clusters(self) -> str:
        return f"{self.cluster.name},{self.other.name}"

    def queue(self) -> dict[str, tuple[str, str]]:
        lines = self.cluster.out("squeue", f"--clusters={self.clusters}", "-h", "-r", "-o", "%i %j %T").splitlines()
        rows = [words for line in lines if len(words := line.split()) == 3]
        return {job: (name, state) for job, name, state in rows}

    def arrays(self) -> list[Array]:
        return [job.array for wave in waves(self.store, self.name, closed=True) for job in jobs_of(self.store, wave)]

    def states(self) -> list[str]:
        """Of the sweep's jobs and array tasks."""
        return [state for name, state in self.queue().values() if name.startswith("nb.")]


@pytest.fixture(scope="module")
def federation() -> Iterator[tuple[Cluster, Cluster]]:
    settings = Settings(nodes=1)
    with up(settings) as one, cluster(one.folder / "other", settings, beside=one) as two:
        one.out("sacctmgr", "-i", "add", "federation", "both", f"clusters={one.name},{two.name}")
        for each in (one, two):
            wait(lambda each=each: "Synced:Yes" in each.out("scontrol", "show", "federation"), "they know each other")
        yield one, two


@pytest.fixture
def place(federation: tuple[Cluster, Cluster], tmp_path: Path) -> Iterator[Federated]:
    one, two = federation
    made = Federated(tmp_path / "me", one, other=two)
    yield made
    one.run("scancel", f"--clusters={made.clusters}", "--user=root")
    for each in federation:
        each.wait_idle()


def test_what_waits_there_is_seen_and_cancelled(place: Federated) -> None:
    place.closed(more=f"clusters: {place.clusters}\n")
    submit_look_and_cancel(place, {})
    assert (place.cluster.jobs(), place.other.jobs()) == ({}, {})


def test_what_runs_there_is_cancelled(place: Federated) -> None:
    """Also a job that began on the cluster to which it was not submitted."""
    place.site(*ONE_EACH, more=f"clusters: {place.clusters}\nsetup: [sleep 300]\n")
    for on in (place.cluster, place.other):  # the only node of the one is busy, then that of the other
        busy = on.submit("sleep 300", "--exclusive", f"--clusters={on.name}").partition(";")[0]
        wait(lambda busy=busy, on=on: on.jobs().get(busy) == "RUNNING", "the node is busy")
        assert place("submit").exit_code == 0
        wait(lambda: "RUNNING" in place.states(), "a job of ours runs")
        queued = len(place.states())
        gone = place("cancel")
        assert gone.exit_code == 0, gone.output
        assert f"Ended: {queued} array tasks." in gone.output
        assert set(place.queue()) == {busy}
        on.out("scancel", busy)
        wait(lambda: not place.queue(), "nothing is queued")


@pytest.fixture
def shared_out(federation: tuple[Cluster, Cluster]) -> Iterator[None]:
    """What needs a GPU starts on the one cluster only, and the rest on the other."""
    closed = list(zip(federation, ("cpu", "gpu"), strict=True))
    for each, partition in closed:
        each.out("scontrol", "update", f"PartitionName={partition}", "State=DOWN")
    yield
    for each, partition in closed:
        each.out("scontrol", "update", f"PartitionName={partition}", "State=UP")


@pytest.mark.usefixtures("shared_out")
def test_a_sweep_on_both_has_the_numbers_of_a_local_run(place: Federated) -> None:
    """Jobs wait for those of the other cluster. (An array stays where it was submitted; here are none.)"""
    place.site("reconcile: manual", "reconcile: job", more=f"clusters: {place.clusters}\n")
    checked = place("doctor")
    assert "ran on n1" in checked.output, checked.output
    done = place("submit")
    assert done.exit_code == 0, done.output
    again = place("submit")
    assert again.exit_code == 0, again.output
    assert set(place.steps_queued().values()) == {1}
    wait(lambda: place.marks("starts"), "an array task has begun", 120)
    told = json.loads(place("status", "--json").output)
    assert told["queue_unknown"] is None
    assert not [states for states in told["queue"].values() if {"failed", "not shown by squeue"} & states.keys()]
    wait(lambda: not place.queue(), "nothing is queued", 400, 0.5)
    assert json.loads(place("status", "--json").output)["cells"]["done"] == 2, place.logs()
    assert place.metrics() == place.local_metrics()
    assert not list(place.folder.glob("results/store/attempts/*/*"))
    logs = place("logs")
    assert logs.exit_code == 0, logs.output
    assert {line.split()[0] for line in logs.output.splitlines()} >= {"train", "sample", "score", "reconcile"}
    assert ran_on(place, place.cluster) == {"train", "sample"}
    assert ran_on(place, place.other) == {"reference", "score", "reconcile"}


def ran_on(place: Federated, cluster: Cluster) -> set[str]:
    """The kinds of the sweep's jobs that ran on a cluster."""
    options = ("-nPX", f"--clusters={cluster.name}", "--starttime=now-1hour", "--endtime=now", "--state=COMPLETED")
    names = place.cluster.out("sacct", *options, "--format=JobName%200").split()
    kinds = {array.name: array.kind for array in place.arrays()}
    return {kinds.get(name, name.rpartition(".")[2]) for name in names if f".{place.name}." in name}
