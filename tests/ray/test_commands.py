"""The commands, as a user types them, with a site on a real Ray cluster, and with a private Ray."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.ray import jobs as ray_jobs
from orchestrator.backends.site import read_site
from orchestrator.store.store import Store
from tests.orchestrator.conftest import TINY, Ran, command, metrics, new_process, run_here
from tests.orchestrator.store.conftest import bucket, s3_port  # noqa: F401  (fixtures)
from tests.ray.conftest import made_again, until

ROOT = Path(__file__).parents[2]
HALF = "worker: {gpus: 0.5, cpus: 0.5}\nworkers: 2\n"  # so that two engines have room side by side


class User:
    """A user with a site file, and a token in a private file."""

    def __init__(self, folder: Path, cluster: Any) -> None:
        self.folder, self.store = folder, Store(str(folder / "store"))
        self.token = os.environ["RAY_AUTH_TOKEN"]
        (folder / "token").write_text(self.token)
        (folder / "token").chmod(0o600)
        self.text = (
            f"kind: ray\naddress: {cluster.address}\njobs: http://{cluster.webui_url}\n"
            f"token_file: {folder}/token\npython: {sys.executable}\n"
        )
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
        self.env["HOME"] = str(folder)  # no token is there
        self.site("")

    def site(self, more: str) -> None:
        (self.folder / "ray.yaml").write_text(self.text + more)

    def words(self, name: str, sweep: str | Path, *options: str) -> list[str | Path]:
        tracking = ("--tracking", "none") if name in ("run", "submit", "report") else ()
        where = () if name == "report" else ("--site", self.folder / "ray.yaml")
        return [name, sweep, *where, "--store", self.store.root, *tracking, *options]

    def __call__(self, name: str, sweep: str | Path, *options: str) -> subprocess.CompletedProcess[str]:
        return new_process(*self.words(name, sweep, *options), env=self.env, timeout=600)

    def json(self, name: str, sweep: str | Path) -> Any:
        done = self(name, sweep, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def user(cluster: Any, tmp_path: Path) -> User:
    return User(tmp_path, cluster)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "sweep.yaml").write_text(TINY)
    return run_here(folder / "sweep.yaml", folder / "store")


def test_two_who_run_the_same_at_once(user: User, tiny: Ran) -> None:
    """Two engines on one store and one cluster: both end well, with the numbers of a local run."""
    user.site(HALF)
    sweep = tiny.plan.sweep.path
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": user.folder}
    both = [subprocess.Popen(command(*user.words("run", sweep)), env=user.env, **pipes) for _ in range(2)]
    try:
        for each in both:
            out, err = each.communicate(timeout=600)
            assert each.returncode == 0, err
            assert "Report: " in out
    finally:
        for each in both:
            each.kill()
    again = run_here(sweep, user.store.root)
    assert again.backend is None
    assert metrics(again.document()) == metrics(tiny.document())


def test_a_job_from_submit_to_report(user: User, undisturbed: Ran) -> None:
    sweep = undisturbed.plan.sweep.path
    assert user("doctor", sweep).returncode == 0
    assert user.json("status", sweep)["ray_jobs"] == []
    none = user("logs", sweep)
    assert none.returncode == 2
    assert "has no job of sweep tiny on store" in none.stderr

    first = user.json("submit", sweep)
    assert first["new"]
    twice = user("submit", sweep)
    assert twice.returncode == 0
    assert f"Already submitted: Ray job {first['job']}" in twice.stdout
    (job,) = user.json("status", sweep)["ray_jobs"]
    assert (job["id"], job["status"] in ("PENDING", "RUNNING")) == (first["job"], True)
    ended = user("cancel", sweep)
    assert "Ended: 1 Ray job." in ended.stdout, ended.stderr
    (job,) = user.json("status", sweep)["ray_jobs"]
    assert (job["id"], job["status"]) == (first["job"], "STOPPED")
    assert job["message"]
    assert "Ended: 0 Ray jobs." in user("cancel", sweep).stdout

    second = user.json("submit", sweep)
    assert (second["new"], second["job"]) == (True, f"{first['job']}-2")
    until(lambda: user.json("status", sweep)["ray_jobs"][-1]["status"] == "SUCCEEDED", 600)
    said = user("status", sweep).stdout
    assert f"Ray job {second['job']}: succeeded" in said
    assert "Cells: 8 of 8 done, 0 failed, 0 to do." in said
    assert "all done" in user("logs", sweep).stdout
    told = user.json("report", sweep)
    assert metrics(told) == json.loads(json.dumps(metrics(undisturbed.document())))
    assert not made_again(undisturbed.plan, user.store)

    site = read_site(str(user.folder / "ray.yaml"))
    with ray_jobs._client(site) as client:
        known = "".join(map(str, client.list_jobs())) + client.get_job_logs(second["job"])
    assert second["job"] in known
    assert user.token not in known
    holding = [path for path in user.folder.rglob("*") if path.is_file() and user.token.encode() in path.read_bytes()]
    assert holding == [user.folder / "token"]


def test_what_no_node_can_hold(user: User, tiny: Ran) -> None:
    user.site("worker: {gpus: 1, gpu_type: H100}\nwait_s: 3\n")
    done = user("run", tiny.plan.sweep.path)
    assert done.returncode == 3, done.stdout
    words = "can hold a worker of 1 GPU H100, 1 CPU; it has 1 node of 2 CPU"
    assert words in done.stderr
    checked = user("doctor", tiny.plan.sweep.path, "--json")
    assert checked.returncode == 3, checked.stderr
    rows = {row["name"]: row for row in json.loads(checked.stdout)["rows"]}
    assert (rows["address"]["state"], words in rows["address"]["detail"]) == ("missing", True)


def test_a_job_that_fails(user: User, tiny: Ran) -> None:
    """`submit` says what a job does not do, `status` why one failed."""
    sweep = tiny.plan.sweep.path
    user.text = user.text.replace(sys.executable, f"{user.folder}/absent/python")
    user.site("")
    words = user.words("submit", sweep)
    words[words.index("none")] = f"sqlite:///{user.folder}/mlflow.db"
    done = new_process(*words, env=user.env, timeout=600)
    assert done.returncode == 0, done.stderr
    assert f"the job tracks nothing; `nagbench report tiny` here syncs sqlite:///{user.folder}/mlflow.db" in done.stderr
    until(lambda: user.json("status", sweep)["ray_jobs"][-1]["status"] == "FAILED", 300)
    said = " ".join(user("status", sweep).stdout.split())
    reason = r"Ray job \S+: failed \(Job entrypoint [^()]* exit code 127: [^()]*absent/python: not found\)"
    assert re.search(reason, said), said


def test_the_digits_sweep_on_a_private_ray(ray_environment: str, tmp_path: Path) -> None:
    """As `make demo` does it, smaller: the numbers of worker processes, bit for bit."""
    sweep, told = ROOT / "sweeps" / "digits.yaml", []
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    for backend in ("ray", "local"):
        options = ("--smoke", "--store", tmp_path / backend, "--tracking", "none")
        words = (*options, "--backend", backend, "--workers", "2")
        done = new_process("run", sweep, *words, env=env, cwd=tmp_path, timeout=600)
        assert done.returncode == 0, done.stderr
        told.append(json.loads(new_process("report", sweep, *options, "--json", env=env, cwd=tmp_path).stdout))
    assert metrics(told[0]) == metrics(told[1])
    assert len(told[0]["cells"]) > 4


def test_a_store_on_s3(ray_environment: str, bucket: str, tiny: Ran, tmp_path: Path) -> None:  # noqa: F811
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    store = ("--store", f"{bucket}/ray", "--tracking", "none")
    words = ("run", tiny.plan.sweep.path, *store, "--backend", "ray", "--workers", "2")
    done = new_process(*words, env=env, cwd=tmp_path, timeout=800)
    assert done.returncode == 0, done.stderr
    again = run_here(tiny.plan.sweep.path, f"{bucket}/ray")
    assert again.backend is None
    assert metrics(again.document()) == metrics(tiny.document())
