"""Errors are reported at once, with the fix."""

from __future__ import annotations

import secrets
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.ray import jobs as ray_jobs
from orchestrator.backends.ray.backend import Ray
from orchestrator.backends.ray.child import Child
from orchestrator.backends.ray.connection import Connection, authentications, connection_failure, token_of
from orchestrator.backends.ray.in_child import OLDEST
from orchestrator.backends.ray.settings import RaySettings
from orchestrator.backends.site import Site, read_site
from orchestrator.errors import BadInput, EnvironmentProblem, SpecError
from orchestrator.execution import engine
from orchestrator.plan.make import plan
from orchestrator.plan.model import Plan
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from orchestrator.tasks.context import Options
from tests.orchestrator.conftest import TINY, Quiet


@pytest.fixture
def tiny(tmp_path: Path) -> Plan:
    (tmp_path / "sweep.yaml").write_text(TINY)
    return plan(read_sweep(tmp_path / "sweep.yaml"))


@pytest.mark.parametrize("address", ["auto", "local", "ray://head:10001", "head", "http://head:8265"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(BadInput, match=r"is not a valid address of a Ray cluster\. Write HOST:6379"):
        Connection(address)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "no-such-host.invalid:6379"])
def test_an_address_that_does_not_answer(address: str, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(EnvironmentProblem, match=f"no Ray cluster answers at {address}: "):
        Ray(Store(str(tmp_path)), Options(), address=address)
    assert time.monotonic() - began < 60


def test_another_version() -> None:
    """What Ray says of it, in its own words of 2.52 and 2.60."""
    said = (
        "RuntimeError: Version mismatch: The cluster was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
        "This process on node 192.0.2.2 was started with:\n    Ray: 2.52.0\n    Python: 3.12.1\n"
    )
    words = "has Ray 2.60.0 on Python 3.11.7, here is Ray 2.52.0 on Python 3.12.1: both must be equal. Name a Python"
    assert words in connection_failure("head:6379", [said])


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (
            "__version__ = '2.51.9'\n",
            "Ray 2.51.9 is too old; nagbench needs 2.52 or newer: pip install 'nagbench.ray.'",
        ),
        ("import absent_package\n", "cannot be imported by .*: No module named 'absent_package'"),
        ("raise ImportError('', name='ray')\n", "Ray is not installed for .*: pip install 'nagbench"),
    ],
)
def test_a_ray_that_does_not_do(module: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of the child's Python: for `run` and for the Job API. Something listens, so it comes to the import."""
    (tmp_path / "ray.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        site = Site("ray", "ray.yaml", "ray", RaySettings(jobs=f"http://{address}"))
        for try_it in (lambda: Connection(address), lambda: ray_jobs.status("tiny", Store(str(tmp_path)), site)):
            with pytest.raises(EnvironmentProblem, match=words):
                try_it()


def test_a_python_that_is_not_there(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(EnvironmentProblem, match="absent/python cannot be started: No such file"),
    ):
        Connection(f"127.0.0.1:{server.getsockname()[1]}", python=str(tmp_path / "absent" / "python"))


def test_another_python_gets_our_code_alone(tmp_path: Path) -> None:
    """Beside nagbench, where it is installed, are the libraries of the engine's Python."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "{\\"path\\": \\"$PYTHONPATH\\"}"\n')
    python.chmod(0o755)
    child = Child("module", {}, str(python))
    message = child.receive(60.0)
    assert message is not None
    code = Path(message["path"].partition(":")[0])
    assert {path.name for path in code.iterdir()} == {"nag", "orchestrator"}
    assert (code / "orchestrator" / "backends" / "ray" / "driver.py").exists()
    child.close()
    assert not code.exists()


def test_the_lower_bound_is_one_everywhere() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert f'"ray[default]>={".".join(map(str, OLDEST))}"' in project


@pytest.mark.parametrize(("token", "words"), [(None, "needs a token"), ("0" * 64, "does not accept our token")])
def test_the_token(
    cluster: Any, token: str | None, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name)
    if token:
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    with pytest.raises(EnvironmentProblem, match=f"{words}: put .*auth_token or RAY_AUTH_TOKEN"):
        Connection(cluster.address)
    site = Site("ray", "ray.yaml", "ray", RaySettings(jobs=f"http://{cluster.webui_url}"))
    with pytest.raises(EnvironmentProblem, match=f"{words}: put the cluster's .*token_file in ray.yaml"):
        ray_jobs.status("tiny", Store(str(tmp_path)), site)


def test_a_token_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"token_file .*absent: No such file"):
        token_of(str(tmp_path / "absent"))
    (tmp_path / "token").write_text("t")
    (tmp_path / "token").chmod(0o644)
    (tmp_path / "ray.yaml").write_text(f"kind: ray\ntoken_file: {tmp_path}/token\n")
    with pytest.raises(SpecError, match=r"ray\.yaml:2: token_file: .*can be read by others"):
        read_site(str(tmp_path / "ray.yaml"))
    (tmp_path / "token").chmod(0o600)
    assert read_site(str(tmp_path / "ray.yaml")).settings.token_file == f"{tmp_path}/token"


def test_a_token_that_is_left_is_used_only_where_one_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a cluster without authentication Ray would let it in, and kill every actor."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert authentications(None) == [{"RAY_AUTH_MODE": "disabled"}]
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("t")
    assert authentications(None) == [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token"}]
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert authentications(None) == [{}], "as the user says"


def test_a_store_that_the_nodes_cannot_reach(cluster: Any, tiny: Plan) -> None:
    store = Store(f"memory://{secrets.token_hex(8)}")  # which only a test may open
    with pytest.raises(EnvironmentProblem, match=r"on node .*unknown protocol 'memory'"):
        engine.run(tiny, store, lambda: Ray(store, Options(), address=cluster.address), Quiet())
    site = Site("ray", "ray.yaml", "ray", RaySettings(jobs=f"http://{cluster.webui_url}"))
    with pytest.raises(BadInput, match="exists in this process only; the nodes cannot see it"):
        ray_jobs.submit(tiny, store, site, Options())


def test_no_job_api(tiny: Plan, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    with pytest.raises(BadInput, match=r"ray\.yaml: jobs is missing: the address of Ray's Job API"):
        ray_jobs.submit(tiny, store, Site("ray", "ray.yaml", "ray", RaySettings()), Options())
    site = Site("ray", "ray.yaml", "ray", RaySettings(jobs="http://127.0.0.1:9"))
    with pytest.raises(EnvironmentProblem, match=r"no Ray cluster answers at 127\.0\.0\.1:9"):
        ray_jobs.submit(tiny, store, site, Options())
    assert not store.exists("nagbench.json"), "nothing half queued"


def test_no_job_of_that_sweep(cluster: Any, tmp_path: Path) -> None:
    site = Site("ray", "ray.yaml", "ray", RaySettings(jobs=f"http://{cluster.webui_url}"))
    with pytest.raises(BadInput, match="has no job of sweep nothing on store"):
        ray_jobs.logs("nothing", Store(str(tmp_path)), site)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("worker: {gpus: 1.5}", "ray.yaml:2: worker: gpus is 1.5; expected a whole number, or a fraction of one GPU"),
        ("address: auto", "ray.yaml:2: address: expected HOST:PORT, such as head:6379, got 'auto'"),
        ("cpu_worker: {gpus: 1}", "cpu_worker cannot have a GPU; leave stages that need one out of cpu_stages"),
        ("worker: {resources: {disk: x}}", "resources.disk: expected a number above 0, got 'x'"),
        ("cpu_stages: [scor]", "cpu_stages: unknown stage 'scor'. Did you mean 'score'?"),
        ("wokers: 3", "unknown key 'wokers'. Did you mean 'workers'?"),
    ],
)
def test_a_site_that_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "ray.yaml").write_text(f"kind: ray\n{text}\n")
    with pytest.raises(SpecError) as caught:
        read_site(str(tmp_path / "ray.yaml"))
    assert message in str(caught.value)


def test_the_example_of_a_site() -> None:
    site = read_site(str(Path(__file__).parents[2] / "sites" / "ray.yaml"))
    assert (site.kind, site.settings.worker.gpus, site.settings.cpu_stages) == ("ray", 1, ("reference", "score"))
