"""Reconcile jobs take a race from rung to rung by themselves, to the same choice as a local run, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.plan.make import plan
from orchestrator.spec.reader import read_sweep
from tests.orchestrator.conftest import run_here
from tests.orchestrator.racing import few, result, result_of, steps
from tests.slurm.cluster import Cluster
from tests.slurm.running import Place


def test_submitted_once_and_logged_out(slurm: Cluster, tmp_path: Path) -> None:
    place = Place(tmp_path / "me", slurm)
    place.sweep(few(values="[3, 4, 5, 6]"))
    place.site("reconcile: manual", "reconcile: job", "throttle: 1", "throttle: 4")
    submitted = place.run("submit")  # and this process ends
    assert submitted.returncode == 0, submitted.stderr
    place.wait(400)

    local = run_here(place.folder / "sweep.yaml", place.folder / "local")
    assert len(steps(local.store)) > 1
    found = plan(read_sweep(str(place.folder / "sweep.yaml")))
    assert result(found, place.store) == result_of(local), place.logs()
    assert place.open_waves() == []
    assert json.loads(place("status", "--json").output)["cells"] == {"total": 3, "done": 3, "failed": 0, "missing": 0}
    assert set(place.steps_queued().values()) == {1}
    assert not list(place.folder.glob("results/store/attempts/*/*"))
    assert (place.folder / "results" / "reports" / "race" / "report.html").exists()  # by the last reconcile job
