"""Looking at what is queued, and ending it. Nothing runs here: the partition is closed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.commands.app import app
from orchestrator.plan.make import plan
from orchestrator.plan.model import find_cell, needs_only
from orchestrator.spec.reader import read_sweep
from tests.slurm.cluster import Cluster
from tests.slurm.running import SMALL, Place, changed, counting

# One cell an array task, so that arms can be told apart in the queue.
ONE_EACH = ("throttle: 1", "throttle: 6", "target_minutes: 5", "target_minutes: 1")
THREE_ARMS = changed(SMALL, "  nag: {nag: {scale: 1.0}}\n", "  nag: {nag: {scale: {grid: [1.0, 2.0]}}}\n")


@pytest.fixture
def place(slurm: Cluster, tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "me", slurm)
    made.sweep(THREE_ARMS)
    made.closed(*ONE_EACH)
    yield made
    slurm.run("scancel", "--user=root")


def queued(place: Place) -> dict[str, int]:
    """How many array tasks are in the queue, by the number of their array."""
    found: dict[str, int] = {}
    for name, _ in place.queue().values():
        number = name.rpartition(".")[2]
        found[number] = found.get(number, 0) + 1
    return found


def test_status_joins_store_and_scheduler_and_writes_nothing(place: Place, tmp_path: Path) -> None:
    names = ("sbatch", "squeue", "sacct", "scontrol", "sinfo", "scancel")
    path, calls = counting(tmp_path / "bin", *names)
    empty = place("status", env=path)
    assert (empty.exit_code, calls()) == (0, {})  # nothing was ever queued
    assert place("submit").exit_code == 0
    before = place.files()
    told = json.loads(place("status", "--json", env=path).output)
    assert told["queue"]["sample"] == {"pending": 3}
    assert told["queue"]["train"] == {"pending": 1}
    assert told["queue_unknown"] is None
    assert told["cells"] == {"total": 3, "done": 0, "failed": 0, "missing": 3}
    assert calls() == {"squeue": 1}
    assert place.files() == before
    words = place("status").output
    assert "Slurm, sample: 3 pending (array tasks)" in words
    assert place.files() == before


def test_status_where_slurm_says_little(place: Place) -> None:
    assert place("submit").exit_code == 0
    without = place.cluster.without("sacct")
    assert "Slurm, sample: 3 pending (array tasks)" in place("status", env=without).output
    failing = place.cluster.failing("squeue", "slurm_load_jobs error: Unable to contact slurm controller")
    told = place("status", env=failing)
    assert told.exit_code == 0
    assert "Slurm cannot tell what is queued: squeue failed: slurm_load_jobs error: Unable to contact" in told.output
    assert "Cells: 0 of 3 done, 0 failed, 3 to do." in told.output


def test_what_was_ended_behind_our_back_is_told_and_queued_again(place: Place) -> None:
    assert place("submit").exit_code == 0
    training = next(job for job, (name, _) in place.queue().items() if name.endswith(".0"))
    place.cluster.out("scancel", training)
    before = place.files()
    told = json.loads(place("status", "--json").output)["queue"]
    assert told["train"] == {"failed": 1}
    assert place.files() == before
    again = place("submit")
    assert "train" in again.output
    assert "somebody ended it (CANCELLED); trying again" in again.output
    assert "queued train: 1 array tasks" in again.output
    assert json.loads(place("status", "--json").output)["queue"]["train"] == {"pending": 1}


def test_cancel_ends_all_and_leaves_a_store_that_resumes(place: Place) -> None:
    other = Place(place.folder.parent / "other", place.cluster)
    other.sweep(changed(SMALL, "name: small", "name: other"))
    other.closed()
    assert other("submit").exit_code == place("submit").exit_code == 0
    count, theirs = len(place.queue()), other.queue()
    ended = place("cancel")
    assert (ended.exit_code, place.queue(), place.open_waves()) == (0, {}, [])
    assert f"Ended: {count} array tasks." in ended.output
    assert other.queue() == theirs
    assert "Ended: 0 array tasks." in place("cancel").output
    assert place("submit").exit_code == 0
    assert len(place.queue()) == count


def test_cancel_an_arm_and_then_a_cell(place: Place) -> None:
    assert place("submit").exit_code == 0
    all_queued = queued(place)
    assert all_queued["2"] == 3  # the samples of three cells
    planned = plan(read_sweep(str(place.folder / "sweep.yaml")))
    ended = place("cancel", "--arm", "nag")
    assert ended.exit_code == 0
    assert queued(place)["2"] == 1
    assert queued(place)["0"] == all_queued["0"]
    assert place("cancel", "--arm", "ngag").exit_code == 2
    again = place("submit")  # resumes what was cancelled
    assert again.exit_code == 0, again.output
    assert sum(queued(place).values()) == sum(all_queued.values())
    cell = next(each for each in planned.cells if each.cell.arm == "plain")
    assert place("cancel", "--cell", cell.digest[:10]).exit_code == 0
    only = needs_only(planned, None, cell.digest[:10])
    assert find_cell(planned, cell.digest[:10]).stream in only
    left = {job for job, (name, _) in place.queue().items()}
    assert 0 < len(left) < sum(all_queued.values())
    assert place("cancel").exit_code == 0
    assert (place.queue(), place.open_waves()) == ({}, [])


def test_what_another_sweep_relies_on_stays(place: Place) -> None:
    sharing = changed(SMALL, "name: small", "name: sharing")  # has the training and two of the three streams too
    assert place("submit").exit_code == 0
    (place.folder / "sharing.yaml").write_text(sharing)
    with place.inside():
        words = ["submit", "sharing.yaml", "--site", "site.yaml", "--tracking", "none"]
        assert CliRunner().invoke(app, words).exit_code == 0
    ended = place("cancel")
    assert ended.exit_code == 0
    left = queued(place)
    assert left["0"] == 1  # the training
    assert left["2"] == 2  # of three those of the shared streams
    with place.inside():
        assert CliRunner().invoke(app, ["cancel", "sharing.yaml"]).exit_code == 0
    assert place("cancel").exit_code == 0
    assert place.queue() == {}
