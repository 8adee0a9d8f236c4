"""The digits sweep on a cluster gives the numbers of a laptop, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.orchestrator.conftest import metrics
from tests.slurm.cluster import Cluster
from tests.slurm.running import ROOT, Place


@pytest.mark.skipif(os.environ.get("CI") != "true", reason="takes a minute or two; .ci/run does it")
def test_the_digits_sweep(slurm: Cluster, tmp_path: Path) -> None:
    place = Place(tmp_path / "me", slurm)
    shutil.copy(ROOT / "sweeps" / "digits.yaml", place.folder / "sweep.yaml")
    place.site("throttle: 1", "throttle: 2")
    done = place.run("run", "--smoke")
    assert done.returncode == 0, done.stderr + place.logs()
    local = [sys.executable, "-m", "orchestrator.cli", *place.command("run", "--smoke", "--store", "local")]
    local = [word for word in local if word not in ("--site", "site.yaml")]
    assert subprocess.run(local, env=place.env, cwd=place.folder, capture_output=True, check=False).returncode == 0
    told = [
        json.loads(place.run("report", "--smoke", "--json", "--store", store).stdout)
        for store in ("results/store", "local")
    ]
    assert metrics(told[0]) == metrics(told[1])
    assert len(told[0]["cells"]) > 4
