"""`doctor --site`, `plan --site` and the GPU hours of a sweep's life, on a real cluster."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.slurm.jobs import jobs_of
from orchestrator.backends.slurm.ledger import gpu_hours
from orchestrator.backends.slurm.waves import close_wave, create_wave, waves
from tests.slurm.cluster import Cluster, wait
from tests.slurm.configuration import Settings
from tests.slurm.running import SMALL, Place, changed

MANY_BLOCKS = changed(SMALL, "{count: 40, block: 20}", "{count: 400, block: 20}")
SHORT = ("throttle: 1", "throttle: 6", "target_minutes: 5", "target_minutes: 2")


@pytest.fixture
def place(slurm: Cluster, tmp_path: Path) -> Place:
    return Place(tmp_path / "me", slurm)


def rows(place: Place, env: dict[str, str] | None = None) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code of `nagbench doctor sweep.yaml --site site.yaml`, and its rows by name, or by what they need."""
    done = place("doctor", "--json", env=env)
    found = json.loads(done.stdout)["rows"]
    needs = [" that it needs" * (row["name"] == "weights" and row["needed"]) for row in found]
    return done.exit_code, {row["name"] + more: row for row, more in zip(found, needs, strict=True)}


def test_doctor_runs_one_job_and_says_what_the_cluster_can_do(place: Place) -> None:
    code, found = rows(place)
    assert code == 0, found
    assert found["site"]["state"] == "ok"
    assert found["arrays"]["detail"].startswith("up to 21 array tasks, ")
    assert found["preemption"]["detail"] == "none on this cluster"
    assert found["accounting"]["detail"] == "sacct answers"
    assert re.fullmatch(r"(c|g)pu: 2 of 4 CPU, \d+ GB, 2 GPU \(idle\)", found["nodes"]["detail"])
    assert set(found["account"]["detail"].split(", ")) == {"lab", "root"}
    assert found["job"]["detail"].startswith("ran on n")
    assert found["torch on the node"]["state"] == "ok"
    assert found["GPUs"]["detail"] in ("1 requested; CUDA_VISIBLE_DEVICES=0, torch sees 0", "1 requested, 1 seen")
    assert found["cores"]["detail"].startswith("1 requested, ")
    assert found["store on the node"]["detail"] == "can be written"
    assert found["clocks"]["state"] == "ok"
    assert found["submission from nodes"]["detail"] == "allowed, so reconcile: job works"
    assert "weights" in found
    assert "weights that it needs" not in found
    assert place.queue() == {}
    assert [path.name for path in (place.folder / "results/store/cluster").iterdir()] == ["code"]
    assert not list((place.folder / "results/store/doctor").glob("*"))


def test_doctor_says_what_is_missing(place: Place) -> None:
    place.sweep(changed(SMALL, "features: [pixels]", "features: [pixels, dinov2]"))
    place.site("reconcile: manual", "reconcile: job\naccount: nobody")
    code, found = rows(place, place.cluster.without("sacct"))
    assert code == 3
    assert "Invalid account or account/partition combination" in found["job"]["detail"]
    assert found["account"]["detail"] == "you have no account 'nobody', but lab, root"
    assert (found["accounting"]["state"], found["accounting"]["detail"]) == ("warning", "no sacct")
    assert found["weights that it needs"]["state"] == "missing"
    assert "dinov2" in found["weights that it needs"]["fix"]
    place.site("partition: gpu\n", "partition: gpus\n")
    code, found = rows(place)
    assert code == 3
    assert "the cluster has no partition 'gpus'. It has: closed" in found["site"]["detail"]
    assert "job" not in found


def test_doctor_says_what_a_node_lacks(place: Place) -> None:
    """A data set that is not where the sweep says, and a node that may not submit."""
    place.sweep(changed(SMALL, "{name: digits}", "{name: image_folder, path: /nowhere/birds, resolution: 8}"))
    elsewhere = place.cluster.without("sbatch")["PATH"]
    place.site("reconcile: manual", "reconcile: job", more=f'setup: ["export PATH={elsewhere}"]\n')
    code, found = rows(place)
    assert code == 3
    assert found["data on the node"]["detail"] == "/nowhere/birds is not there"
    assert found["submission from nodes"]["state"] == "missing"
    assert found["submission from nodes"]["detail"] == "no sbatch on the node"
    assert found["submission from nodes"]["fix"].startswith("Set reconcile: manual")


def test_doctor_knows_preemption(slurm_with: Callable[[Settings], Cluster], tmp_path: Path) -> None:
    place = Place(tmp_path / "me", slurm_with(Settings(preempt=True, accounting=False)))
    code, found = rows(place)
    assert code == 0, found
    assert found["preemption"]["detail"].startswith("REQUEUE")
    assert "a block of samples at most is lost" in found["preemption"]["detail"]
    assert found["accounting"]["state"] == "warning"


def test_plan_says_what_submit_then_queues(place: Place) -> None:
    place.sweep(MANY_BLOCKS)
    place.closed(*SHORT)
    planned = json.loads(place("plan", "--json").stdout)["site"]
    assert planned["guessed"]
    assert place("submit").exit_code == 0
    arrays, tasks = Counter[str](), Counter[str]()
    for wave in waves(place.store, place.name):
        for job in jobs_of(place.store, wave):
            arrays[job.array.kind] += 1
            tasks[job.array.kind] += len(job.array.tasks)
    assert tasks["sample"] > 1
    assert {each["stage"]: (each["arrays"], each["elements"]) for each in planned["stages"]} == {
        kind: (arrays[kind], tasks[kind]) for kind in arrays
    }


def test_a_limit_of_the_account_is_told(place: Place) -> None:
    """Slurm accepts such jobs, but they never start."""
    place.site("kind: slurm", "kind: slurm\nqos: fast")
    place.cluster.out("sacctmgr", "-i", "modify", "qos", "fast", "set", "MaxWall=00:02:00")
    try:
        wait(
            lambda: "MaxWallPJ=2" in place.cluster.out("scontrol", "show", "assoc_mgr", "flags=qos"), "slurmctld knows"
        )
        assert place("submit").exit_code == 0
        wait(lambda: "QOSMaxWall" in place.cluster.out("squeue", "-h", "-o", "%r"), "they wait for ever")
        again = place("submit").output.replace("\n", " ")
        assert "(train) will not start by itself: QOSMaxWallDurationPerJobLimit" in again
    finally:
        place.cluster.out("sacctmgr", "-i", "modify", "qos", "fast", "set", "MaxWall=-1")
    assert place("cancel").exit_code == 0


def test_gpu_hours_of_earlier_lives_count(place: Place) -> None:
    """Two array tasks of waves that are over, one of them by a death that Slurm told: two hours are used."""
    now = time.time()
    for number in (1, 2):
        wave = create_wave(place.store, "small", {"arrays": 0, "stem": f"x{number}", "time": now, "folder": "x"})
        started = {"job": "1", "host": "n1", "gpus": 1, "started": now - 3600, "time": now - 3600}
        place.store.create_record(wave.mark("starts", 0, 0, 0), started)
        place.store.create_record(wave.mark("ends", 0, 0, 0), {**started, "outcome": "ended", "time": now})
        close_wave(place.store, wave)
    assert gpu_hours(place.store, "small") == pytest.approx(2.0, abs=0.01)
    place.closed()
    place.sweep(changed(SMALL, "score: {features: [pixels], metrics: [fid]}\n", ""))
    refused = place("submit", "--max-gpu-hours", "2.0")
    assert refused.exit_code == 3
    assert "GPU hours: 2.00 used, 0.00 queued, of 2" in refused.output
    assert "nothing is queued: what is left waits for GPU hours (--max-gpu-hours)" in refused.output
    assert place("submit", "--max-gpu-hours", "9").exit_code == 0
    assert place.array_tasks()
    place.cluster.run("scancel", "--user=root")
