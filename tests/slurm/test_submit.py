"""What `nagbench submit` queues on a real cluster: once, whoever else does and whenever it is killed. Nothing runs: the
partition is closed.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.store.folders import umask
from tests.slurm.cluster import Cluster
from tests.slurm.running import SMALL, Place, changed, counting

TWO_NETWORKS = changed(SMALL, "class_dropout: 0.2}", "class_dropout: 0.2, seed: {grid: [0, 1]}}")
# 60 blocks, each of which is guessed to take longer than an array task should
MANY_BLOCKS = changed(SMALL, "{count: 40, block: 20}", "{count: 60, block: 1}", "  nag: {nag: {scale: 1.0}}\n", "")
SHORT = ("throttle: 1", "throttle: 6", "target_minutes: 5", "target_minutes: 0.1")


@pytest.fixture
def place(slurm: Cluster, tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "me", slurm)
    made.closed()
    yield made
    slurm.run("scancel", "--user=root")


def scripts(place: Place) -> dict[str, str]:
    """The batch scripts by the number of their array."""
    found = {path.parent.name: path.read_text() for path in place.folder.rglob("*_submission.sh")}
    return {name.rpartition(".")[2]: text for name, text in found.items()}


def test_a_sweep_becomes_chained_arrays_with_few_calls(place: Place, tmp_path: Path) -> None:
    place.sweep(TWO_NETWORKS)
    path, calls = counting(tmp_path / "bin", "sbatch", "squeue", "sacct", "scontrol", "sinfo", "sacctmgr", "scancel")
    submitted = place("submit", env=path)
    assert submitted.exit_code == 0, submitted.output
    assert "bundles are on their way" in submitted.output
    assert set(place.steps_queued().values()) == {1}

    show = place.cluster.out("scontrol", "--oneliner", "show", "job")
    waiting = [line for line in show.splitlines() if ".small." in line and "JobState=PENDING" in line]
    jobs = [dict(word.partition("=")[::2] for word in line.split()) for line in waiting]
    arrays: dict[str, dict[str, str]] = {job["JobName"].rpartition(".")[2]: job for job in jobs}
    train, reference, first, second, *scores = (arrays[str(number)] for number in range(len(arrays)))
    assert calls()["sbatch"] == len(arrays)
    assert sum(calls().values()) <= len(arrays) + 5
    assert all(re.fullmatch(r"nb\.root\.small\.[0-9a-f]{6}-[0-9a-f]{6}\.\d", job["JobName"]) for job in jobs)

    # CPU-only work is on the CPU partition and asks for no GPU
    assert all(job["Partition"] == "closed_cpu" and "TresPerNode" not in job for job in (reference, *scores))
    assert all(job["Partition"] == "closed" and job["TresPerNode"] == "gres:gpu:1" for job in (train, first, second))
    # sampling of each network waits for its own training, and scores for the samples and the reference
    waits = {re.sub(r"\(.*?\)", "", job["Dependency"]) for job in (first, second)}
    trainings = train["ArrayJobId"]
    assert waits == {f"afterany:{trainings}_0", f"afterany:{trainings}_1"}
    needs = [set(re.findall(r":(\d+)", re.sub(r"\(.*?\)", "", job["Dependency"]))) for job in scores]
    made_by = {first["JobId"], second["JobId"]}
    assert [len(need & made_by) for need in needs] == [1, 1, 0]  # the last is the floor: the held-out images
    assert all(reference["JobId"] in need for need in needs)

    for text in scripts(place).values():
        assert "#SBATCH --kill-on-invalid-dep=yes" in text
        assert "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK" in text
    assert "--array=0-1%1" in scripts(place)["0"]
    cluster = place.folder / "results" / "store" / "cluster"
    code = next((cluster / "code").iterdir())
    assert stat.S_IMODE(cluster.stat().st_mode) == stat.S_IMODE(code.stat().st_mode) == 0o777 & ~umask()

    again = place("submit", env=path)
    assert again.exit_code == 0
    assert calls()["sbatch"] == len(arrays)
    assert set(place.steps_queued().values()) == {1}


# A wrapper of sbatch: the `at`-th call kills who called it, before it hands the job over, after, or a while before.
KILLS = {
    "before": "kill -9 $PPID; exit 1",
    "after": 'out=$(sbatch "$@"); kill -9 $PPID; exit 0',
    "late": 'kill -9 $PPID; sleep 7; exec sbatch "$@"',
}


def killing(folder: Path, how: str, at: int) -> dict[str, str]:
    folder.mkdir()
    (folder / "sbatch").write_text(
        f'#!/bin/sh\nPATH="${{PATH#*:}}"\necho x >> {folder}/n\n'
        f'[ "$(wc -l < {folder}/n)" -eq {at} ] || exec sbatch "$@"\n{KILLS[how]}\n'
    )
    (folder / "sbatch").chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.parametrize(("how", "at"), [("before", 3), ("after", 3), ("after", 5), ("late", 2)])
def test_a_killed_submission_goes_on_and_queues_nothing_twice(place: Place, tmp_path: Path, how: str, at: int) -> None:
    env = killing(tmp_path / "bin", how, at)
    killed = place.run("submit", env=env)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = len(place.array_tasks())
    assert before == (at if how == "after" else at - 1)
    again = place("submit")
    assert again.exit_code == 0, again.output
    assert set(place.steps_queued().values()) == {1}
    names = [name for name, _ in place.queue().values()]
    if how == "late":  # the one that comes after all, when it was given up, has no task that engines know of
        from tests.slurm.cluster import wait

        wait(lambda: len(place.array_tasks()) == 6, "the orphan is in the queue")
        assert len(set(names)) == 5
    else:
        assert len(names) == len(set(names)) == 5
    assert place("submit").exit_code == 0
    assert set(place.steps_queued().values()) == {1}


def test_who_stood_still_for_too_long_gives_way(place: Place, tmp_path: Path) -> None:
    """While it hands over its second array, another engine takes it for dead and gives that array up."""
    folder, name = tmp_path / "bin", "waves/small/000001/001.job.json"
    folder.mkdir()
    record = f"Store({place.store.path('')!r}).create_record({name!r}, {{'job': None}})"
    give_up = f"from orchestrator.store.store import Store; {record}"
    (folder / "sbatch").write_text(
        f'#!/bin/sh\nPATH="${{PATH#*:}}"\necho x >> {folder}/n\n'
        f'[ "$(wc -l < {folder}/n)" -eq 2 ] && {sys.executable} -c "{give_up}"\n'
        'exec sbatch "$@"\n'
    )
    (folder / "sbatch").chmod(0o755)
    refused = place("submit", env={"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"})
    assert refused.exit_code == 3
    assert "this process was suspended for so long that another nagbench has taken over" in refused.output
    assert len(place.queue()) == 1  # the first array, which the other one knows
    assert place("submit").exit_code == 0
    assert set(place.steps_queued().values()) == {1}
    assert len(place.queue()) == 5


def test_two_at_once(place: Place) -> None:
    waits = [place.start("submit")[1] for _ in range(3)]
    for wait in waits:
        done = wait()
        assert done.returncode == 0, done.stderr
    assert set(place.steps_queued().values()) == {1}
    assert len(place.queue()) == 5


def test_an_array_over_the_limits_of_the_cluster_is_split(place: Place) -> None:
    place.sweep(MANY_BLOCKS)  # MaxArraySize is 21
    place.closed(*SHORT)
    submitted = place("submit")
    assert submitted.exit_code == 0, submitted.output
    arrays = [found[1] for text in scripts(place).values() if (found := re.search(r"--array=(\S+)", text))]
    assert sorted(arrays) == ["0-17%2", "0-20%2", "0-20%2"]
    assert len(place.array_tasks()) == 60 + 4
    assert set(place.steps_queued().values()) == {1}


def test_what_does_not_fit_into_the_queue_waits_at_home(place: Place) -> None:
    place.sweep(MANY_BLOCKS)
    place.closed(*SHORT, more="max_submit: 15\n")
    submitted = place("submit")
    assert submitted.exit_code == 0, submitted.output
    assert "49 bundles wait for room in the queue (max_submit)" in submitted.output
    assert "\n15 bundles are on their way" in submitted.output
    queued = place.queue()
    assert len(queued) == 15  # training, reference, floor, and 12 of the 60 array tasks
    assert "waiting for room: 15 of 15 of your jobs are queued (max_submit); 49 bundles wait" in place("status").output
    assert place("submit").exit_code == 0
    assert place.queue() == queued
    full = Place(place.folder.parent / "other", place.cluster)
    full.sweep(changed(MANY_BLOCKS, "name: small", "name: other"))
    full.closed(*SHORT, more="max_submit: 3\n")
    refused = full("submit")
    assert refused.exit_code == 3
    assert "nothing is queued: what is left waits for room in the queue (max_submit)" in refused.output
    assert not full.queue()
    assert not full.open_waves()


def test_gpu_hours_over_the_life_of_a_sweep(place: Place) -> None:
    place.sweep(changed(TWO_NETWORKS, "score: {features: [pixels], metrics: [fid]}\n", ""))
    refused = place("submit", "--max-gpu-hours", "0")
    assert refused.exit_code == 3
    assert "nothing is queued: what is left waits for GPU hours (--max-gpu-hours)" in refused.output
    assert not place.queue()
    place.sweep(TWO_NETWORKS)  # of each network four blocks, whose features are guessed to take 25 s each
    half = place("submit", "--max-gpu-hours", "0.04")
    assert half.exit_code == 0
    assert "GPU hours: 0.00 used, 0.00 queued, of 0.04" in half.output
    assert "bundles wait for GPU hours" in half.output
    assert half.output.count("queued sample") == 1
    queued = place.array_tasks()
    again = place("submit", "--max-gpu-hours", "0.04")
    assert "GPU hours: 0.00 used, 0.03 queued, of 0.04" in again.output
    assert place.array_tasks() == queued


def test_a_file_stop_keeps_everything_out_of_the_queue(place: Place) -> None:
    stop = place.folder / "results" / "store" / "cluster" / "STOP"
    stop.parent.mkdir(parents=True)
    stop.touch()
    refused = place("submit")
    assert (refused.exit_code, place.queue()) == (3, {})
    assert f"{stop} is there, so nothing is queued. Remove it to go on." in refused.output
    stop.unlink()
    assert place("submit").exit_code == 0
    assert len(place.queue()) == 5


def test_reconcile_jobs(place: Place, tmp_path: Path) -> None:
    place.closed("reconcile: manual", "reconcile: job")
    killed = place.run("submit", env=killing(tmp_path / "bin", "before", 6))  # when all but that job is queued
    assert killed.returncode == -signal.SIGKILL

    def reconcilers() -> list[str]:
        return [job for job, (name, _) in place.queue().items() if name.endswith(".reconcile")]

    assert (len(place.array_tasks()), reconcilers()) == (5, [])
    assert place("submit").exit_code == 0  # nothing is left to queue but the job that goes on
    assert (len(place.array_tasks()), len(reconcilers())) == (5, 1)
    assert place("submit").exit_code == 0
    assert (len(place.array_tasks()), len(reconcilers())) == (5, 1)
    shown = place.cluster.out("scontrol", "show", "job", reconcilers()[0])
    assert "Partition=closed_cpu" in shown
    assert "gres/gpu" not in shown
    assert shown.count("afterany:") == 5

    place("cancel")
    assert place.queue() == {}
    place.closed("reconcile: manual", "reconcile: job\ngenerations_at_most: 1")
    last = place("submit")
    assert "generation 1 is the last (generations_at_most); run the same command to go on" in last.output
    assert (len(place.array_tasks()), reconcilers()) == (5, [])
