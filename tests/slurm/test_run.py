"""A sweep on a real cluster gives the numbers of a local run, bit for bit, whoever dies or looks on meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from nag.checkpoint import load_network
from orchestrator.backends.slurm.ledger import gpu_hours
from tests.slurm.cluster import Cluster, environment, processes, wait
from tests.slurm.configuration import Settings
from tests.slurm.running import ROOT, SMALL, Place, changed

SECRET = "hunter2-and-more"


def checkout(folder: Path) -> Path:
    """The code as a user has it, to be edited."""
    for package in ("nag", "orchestrator"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def worker_process(job_name: str) -> int | None:
    """The process that does the work of an array task of this array, once it has begun."""
    for pid in processes():
        if {f"SLURM_JOB_NAME={job_name}".encode(), b"SLURM_PROCID=0"} <= environment(pid):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"python" in os.path.basename(words[0]) and b"submitit.core._submit" in words:
                return pid
    return None


def started(place: Place, kind: str) -> str | None:
    """The name of an array of this kind that has a running array task."""
    for path in place.folder.glob("results/store/waves/*/*/starts/*.json"):
        array = json.loads((path.parents[1] / f"{path.name[:3]}.json").read_text())
        ended = (path.parents[1] / "ends" / path.name).exists()
        if array["kind"] == kind and not ended and worker_process(array["name"]):
            return str(array["name"])
    return None


def test_reconcile_jobs_finish_a_sweep_by_themselves(slurm: Cluster, tmp_path: Path) -> None:
    odd = tmp_path / 'it\'s $(touch gone) `touch gone` "me" & co'
    place = Place(odd, slurm)
    secrets = odd / "env file; touch gone"
    secrets.write_text(f"NAGBENCH_PASSWORD={SECRET}\n")
    secrets.chmod(0o600)
    place.site(
        *("reconcile: manual", "reconcile: job"),
        more='container: [env, "NOTE=it\'s $(touch gone) `touch gone`"]\n'
        "setup: [\"export ODD='$(touch gone)'\"]\n"
        f"env_file: {json.dumps(str(secrets))}\n"
        f"scratch: {json.dumps(str(tmp_path / '$(touch gone) scratch'))}\n",
    )
    code = checkout(tmp_path / "checkout")
    database = tmp_path / "mlflow.db"
    options = ("--tracking", f"sqlite:///{database}")
    submitted = place.run("submit", *options, env={"PYTHONPATH": str(code)})  # and this process ends
    assert submitted.returncode == 0, submitted.stderr
    for edited in ("orchestrator/tasks/score.py", "orchestrator/backends/slurm/array_task.py", "nag/sampling.py"):
        (code / edited).write_text("raise SystemExit('edited')")

    wait(lambda: started(place, "score"), "scores are made", 100)
    victims: list[int] = []

    def last_at_work() -> list[int]:
        if len(place.array_tasks()) == 1 and (name := started(place, "score")) and (pid := worker_process(name)):
            victims.append(pid)
        return victims

    wait(last_at_work, "the last scores are made", 100, 0.02)
    (victim,) = victims
    seen = environment(victim)
    assert {f"NAGBENCH_PASSWORD={SECRET}".encode(), b"ODD=$(touch gone)", b"OMP_NUM_THREADS=1"} <= seen
    assert b"NOTE=it's $(touch gone) `touch gone`" in seen
    os.kill(victim, signal.SIGKILL)
    place.wait(150)

    assert place.metrics() == place.local_metrics()
    assert place.open_waves() == []
    assert json.loads(place("status", "--json").output)["cells"] == {"total": 2, "done": 2, "failed": 0, "missing": 0}
    (attempt,) = [json.loads(path.read_text()) for path in place.folder.glob("results/store/attempts/*/*.json")]
    assert (attempt["kind"], attempt["cause"]) == ("score", "died")
    assert "signal 9" in attempt["reason"]
    assert (place.folder / "results" / "reports" / "small" / "report.html").exists()  # by the last reconcile job
    assert not database.exists()  # a file is written on the user's host only

    assert not [path for path in odd.parent.rglob("*") if path.name == "gone"]
    assert not (Path.cwd() / "gone").exists()
    holding = [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert holding == [secrets]

    # Each network was loaded once by an array task; array tasks that need no GPU had none.
    ends = [end for end in place.marks("ends") if end["outcome"] == "done"]
    assert sorted(end["networks_loaded"] for end in ends if end["gpus"]) == [0, 1]
    assert Counter(end["gpus"] for end in ends) == {1: 2, 0: 3}


def test_cancelled_while_it_runs_and_resumed_by_two_who_watch(slurm: Cluster, tmp_path: Path) -> None:
    place = Place(tmp_path / "me", slurm, slurm.without("sacct"))
    place.site("throttle: 1", "throttle: 2")
    assert place.run("submit").returncode == 0
    wait(lambda: started(place, "sample"), "samples are made", 100)
    assert place("cancel").exit_code == 0
    assert (place.queue(), place.open_waves()) == ({}, [])
    assert started(place, "sample") is None

    watching = [place.start("run")[1] for _ in range(2)]
    ended = [wait_for() for wait_for in watching]
    for each in ended:
        assert each.returncode == 0, each.stderr
        assert "Report: " in each.stdout
        assert "score: all" in each.stderr
    assert sum("queued sample" in each.stderr for each in ended) == 1
    assert place.metrics() == place.local_metrics()
    trained = [mark for mark in place.marks("starts") if mark["gpus"]]
    assert 2 <= len(trained) <= 4  # one training; samples before and after
    seconds = sum(mark["time"] - mark["started"] for mark in place.marks("ends") if mark["gpus"])
    assert gpu_hours(place.store, "small") == pytest.approx(seconds / 3600, abs=10 / 3600)
    place.wait()


def test_two_processes_on_two_nodes_without_accounts(slurm_with: Callable[[Settings], Cluster], tmp_path: Path) -> None:
    place = Place(tmp_path / "me", slurm_with(Settings(accounting=False)))
    sweep = changed(SMALL, "score: {features: [pixels], metrics: [fid]}\n", "", "  nag: {nag: {scale: 1.0}}\n", "")
    place.sweep(sweep)
    place.site("train: {minutes: 6, memory_gb: 2, cpus: 1}", "train: {minutes: 6, memory_gb: 2, cpus: 1, nodes: 2}")
    done = place.run("run")
    assert done.returncode == 0, done.stderr + place.logs()
    (record,) = place.folder.glob("results/store/records/train/*.json")
    assert json.loads(record.read_text())["processes"] == 2
    place.local_metrics()
    name = f"files/{record.stem}/network.safetensors"
    two, one = (load_network(str(folder / name)) for folder in (place.folder / "results/store", place.folder / "local"))
    for first, second in zip(two.module.parameters(), one.module.parameters(), strict=True):
        assert (first - second).abs().max() < 1e-4

    # An array task that has half a minute and wants half a minute to spare: it comes back for the second block.
    place.sweep(changed(sweep, "count: 40", "count: 80"))
    place.site("sample: {minutes: 6", "sample: {minutes: 0.5", "target_minutes: 5", "target_minutes: 0.4")
    done = place.run("run")
    assert done.returncode == 0, done.stderr + place.logs()
    assert "queued sample: 1 array tasks" in done.stderr
    last = place.folder / "results" / "store" / "waves" / "small" / "000002"
    assert sorted(path.name for path in (last / "starts").iterdir()) == ["000-000000-000.json", "000-000000-001.json"]
