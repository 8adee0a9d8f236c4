"""A real MLflow server with accounts and workspaces of its own, as groups share one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import EnvironmentProblem
from orchestrator.tracking.address import free_port
from orchestrator.tracking.sync import _trackers, sync
from orchestrator.tracking.ui import ALONE, Served, _end, _wait, ui
from tests.orchestrator.conftest import TINY, Ran, changed, run_here
from tests.orchestrator.tracking.conftest import client, found, results_of

ADMIN, PASSWORD = "ada", "a pass:word, 16+"
FEW = changed(TINY, "  nag: {nag: {scale: {grid: [1.0, 2.0]}}}\n", "", "  cfg: {cfg: {scale: 1.5}}\n", "")
pytestmark = [
    pytest.mark.outside,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),  # MLflow's own
]


def asked(server: str, path: str, document: dict[str, str]) -> Any:
    """What the server answers to its administrator."""
    login = b64encode(f"{ADMIN}:{PASSWORD}".encode()).decode()
    headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{server}/api/{path}", json.dumps(document).encode(), headers)
    return json.load(urllib.request.urlopen(request, timeout=60))


@pytest.fixture(scope="module")
def server(empty: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the administrator ada, the user bob, who may only read, and the workspace lab-a."""
    pytest.importorskip("flask_wtf", reason="MLflow's accounts need pip install 'mlflow[auth]'")
    folder = tmp_path_factory.mktemp("accounts")
    shutil.copy(empty, folder / "mlflow.db")
    settings = {
        "default_permission": "READ",
        "database_uri": f"sqlite:///{folder}/accounts.db",
        "admin_username": ADMIN,
        "admin_password": PASSWORD,
        "grant_default_workspace_access": "true",
        "auth_cache_ttl_seconds": "60",  # else each request costs a slow hash of the password
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
    }
    (folder / "accounts.ini").write_text(
        "[mlflow]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items())
    )
    port, log = free_port(5600), folder / "log"
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--enable-workspaces"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    ours = {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "accounts.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "secret"}
    with open(log, "wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=os.environ | ALONE | ours, start_new_session=True
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        _wait(process, uri, uri, log)
        asked(uri, "2.0/mlflow/users/create", {"username": "bob", "password": "bobs password"})
        asked(uri, "3.0/mlflow/workspaces", {"name": "lab-a"})
        yield uri
    finally:
        _end(process)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A sweep of two cells."""
    folder = tmp_path_factory.mktemp("few")
    (folder / "sweep.yaml").write_text(FEW)
    return run_here(folder / "sweep.yaml", folder / "store")


@pytest.fixture(autouse=True)
def _anew() -> None:
    _trackers.clear()


@contextlib.contextmanager
def as_user(name: str, password: str, workspace: str | None = None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", name)
        patch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        if workspace:
            patch.setenv("MLFLOW_WORKSPACE", workspace)
        _trackers.clear()
        yield


@pytest.mark.parametrize(
    ("login", "words"),
    {
        (ADMIN, "wrong", None): "refuses (HTTP 401). Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        ("bob", "bobs password", "lab-a"): "refuses (HTTP 403). Set MLFLOW_TRACKING_USERNAME",
        (ADMIN, PASSWORD, "lab-b"): "has no workspace 'lab-b'",
    }.items(),
)
def test_who_may_not_write_is_told_in_one_line(
    server: str, finished: Ran, login: tuple[str, str, str | None], words: str
) -> None:
    with as_user(*login), pytest.raises(EnvironmentProblem) as caught:
        sync(results_of(finished), server)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_each_workspace_has_runs_of_its_own(server: str, finished: Ran) -> None:
    """The same sweep in two workspaces: each is whole, and a second sync of each has nothing to do."""
    results = results_of(finished)
    written = {}
    for workspace in (None, "lab-a"):
        with as_user(ADMIN, PASSWORD, workspace):
            assert sync(results, server, finished.store) > 0
            assert sync(results, server, finished.store) == 0
            written[workspace] = {run.info.run_id for run in found(server).values()}
    assert len(written[None]) == len(written["lab-a"]) > 0
    assert not written[None] & written["lab-a"]


def test_links_lead_into_the_workspace(server: str, finished: Ran, tmp_path: Path) -> None:
    """In a real browser that logs in they show the workspace's runs."""
    (tmp_path / "report.html").write_text("<p>the report</p>")
    with as_user(ADMIN, PASSWORD), ui_of(server, finished, "default", tmp_path) as served:
        assert "workspace=" not in served.link
    with as_user(ADMIN, PASSWORD, "lab-a"), ui_of(server, finished, "linked", tmp_path) as served:
        note = client(server).get_experiment_by_name("linked").tags["mlflow.note.content"]
    assert "/artifacts/report.html?workspace=lab-a)" in note
    assert served.table.endswith("&workspace=lab-a")
    sync_api = pytest.importorskip("playwright.sync_api")
    if (browser := shutil.which("chromium")) is None:
        pytest.skip("no chromium")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = opened.new_context(http_credentials={"username": ADMIN, "password": PASSWORD}).new_page()
        page.goto(served.table)
        page.get_by_text("no guidance").first.wait_for(timeout=240_000)


@contextlib.contextmanager
def ui_of(server: str, finished: Ran, name: str, folder: Path) -> Iterator[Served]:
    sync(results_of(finished, name), server, finished.store, folder)
    with ui(name, server) as served:
        yield served
