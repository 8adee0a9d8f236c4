"""An engine with one Ray, a cluster with another and other libraries: `make lower-bounds`, which has both, runs it.

LOWEST_PYTHON=FOLDER/bin/python python -m pytest tests/ray/unlike_versions.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from orchestrator.backends.ray.private import Private
from orchestrator.execution.variables import variables
from tests.orchestrator.conftest import new_process
from tests.ray.test_oldest import SWEEP


@pytest.mark.timeout(900)
def test_a_cluster_with_another_ray(tmp_path: Path) -> None:
    """Without `python` in the site file the message asks for it; with it the sweep is done."""
    other = os.environ["LOWEST_PYTHON"]
    theirs = subprocess.check_output([other, "-c", "import ray; print(ray.__version__)"], text=True).strip()
    ours = version("ray")
    assert theirs != ours
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    words = ("run", "sweep.yaml", "--site", "ray.yaml", "--store", "store", "--tracking", "none")
    cluster = Private(1, other)
    try:
        site = f"kind: ray\naddress: {cluster.address}\n"
        with variables(cluster.environment):
            (tmp_path / "ray.yaml").write_text(site)
            refused = new_process(*words, cwd=tmp_path, timeout=300)
            (tmp_path / "ray.yaml").write_text(f"{site}python: {other}\n")
            done = new_process(*words, cwd=tmp_path, timeout=600)
    finally:
        cluster.close()
    assert refused.returncode == 3, refused.stdout
    assert f"has Ray {theirs} on Python " in refused.stderr
    assert f"here is Ray {ours} on Python {sys.version.split()[0]}" in refused.stderr
    assert "Name a Python with the cluster's Ray as `python` in the site file" in " ".join(refused.stderr.split())
    assert done.returncode == 0, done.stderr
    assert "2 of 2 cells" in done.stdout
