"""A real MLflow server that others use too, behind a proxy: logins, two users, deleted runs, trouble."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import BadInput, EnvironmentProblem
from orchestrator.report.results import Results
from orchestrator.tracking.address import KEY, written_state
from orchestrator.tracking.sync import _trackers, sync
from orchestrator.tracking.ui import compared, ui
from tests.orchestrator.conftest import TINY, Ran, changed, run_here
from tests.orchestrator.proxy import Proxy, Request
from tests.orchestrator.tracking.conftest import client, experiment, found, held, results_of

CFG = "  cfg: {cfg: {scale: 1.5}}\n"
pytestmark = [
    pytest.mark.outside,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),  # MLflow's own
]


FEW = changed(TINY, "  nag: {nag: {scale: {grid: [1.0, 2.0]}}}\n", "", CFG, "")
RUNS = 2 + 1 + 1 + 2 + 1  # cells, a setting, a curve, trainings, a summary


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A sweep of two cells."""
    folder = tmp_path_factory.mktemp("few")
    (folder / "sweep.yaml").write_text(FEW)
    return run_here(folder / "sweep.yaml", folder / "store")


class Shared(Proxy):
    """A proxy before an MLflow server, which can be killed and started again."""

    def __init__(self, uri: str, kept: contextlib.ExitStack) -> None:
        super().__init__(0)
        self.uri, self.kept, self.pid = uri, kept, 0

    def start(self) -> None:
        served = self.kept.enter_context(ui("tiny", self.uri, 5400))
        assert served.process is not None
        self.behind, self.pid = served.port or 0, served.process.pid

    def kill(self) -> None:
        os.killpg(self.pid, signal.SIGKILL)
        self.pid = 0


@pytest.fixture(scope="module")
def before(empty: Path, finished: Ran, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """A proxy before a server with the sweep."""
    folder = tmp_path_factory.mktemp("shared")
    shutil.copy(empty, folder / "mlflow.db")
    uri = f"sqlite:///{folder}/mlflow.db"
    sync(results_of(finished), uri, finished.store)
    with contextlib.ExitStack() as kept, Shared(uri, kept) as server:
        server.start()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def proxy(before: Shared) -> Iterator[Shared]:
    """The same, without faults yet."""
    yield before
    before.faults.clear()
    before.changes.clear()


@pytest.fixture
def server(proxy: Shared) -> str:
    _trackers.clear()
    return f"http://127.0.0.1:{proxy.server_port}"


def said(results: Results, uri: str) -> str:
    with pytest.raises((EnvironmentProblem, BadInput)) as caught:
        sync(results, uri)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def only(authorization: str) -> object:
    def fault(request: Request) -> None:
        if request.headers.get("Authorization") != authorization:
            request.refuse(401, "UNAUTHENTICATED", "You are not authenticated.")

    return fault


LOGINS = {
    "user": {"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "pass:word"},
    "token": {"MLFLOW_TRACKING_TOKEN": "token"},
    "file": {"HOME": ""},
}
BASIC = f"Basic {base64.b64encode(b'ada:pass:word').decode()}"


@pytest.mark.parametrize("way", LOGINS)
def test_a_login_by_mlflows_own_variables(
    server: str, proxy: Proxy, finished: Ran, way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every request has it, also those of a sync with nothing to do."""
    wanted = "Bearer token" if way == "token" else BASIC
    proxy.faults.append(only(wanted))  # type: ignore[arg-type]
    assert "refuses (HTTP 401). Set MLFLOW_TRACKING_USERNAME" in said(results_of(finished), server)
    (tmp_path / ".mlflow").mkdir()
    text = "[mlflow]\nmlflow_tracking_username = ada\nmlflow_tracking_password = pass:word\n"
    (tmp_path / ".mlflow" / "credentials").write_text(text if way == "file" else "")
    for name, value in LOGINS[way].items():
        monkeypatch.setenv(name, value or str(tmp_path))
    sync(results_of(finished), server, finished.store)
    asked: list[str] = []
    proxy.faults.append(lambda request: asked.append(request.path))
    assert sync(results_of(finished), server, finished.store) == 0
    assert len(asked) == 2


def test_the_workspace_goes_with_every_request(
    server: str, proxy: Proxy, finished: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_WORKSPACE", "team")
    seen: list[str | None] = []

    def note(request: Request) -> None:
        seen.append(request.headers.get("X-MLFLOW-WORKSPACE"))
        del request.headers["X-MLFLOW-WORKSPACE"]  # this server has none

    proxy.faults.append(note)
    written_state(server, "tiny")
    assert seen == ["team", "team"]


def test_a_run_deleted_in_the_page_comes_back(server: str, finished: Ran) -> None:
    results = results_of(finished, "deleted")
    sync(results, server, finished.store)
    before = held(server, "deleted")
    gone = found(server, "deleted")["plain seed=0"].info.run_id
    client(server).delete_run(gone)
    assert sync(results, server, finished.store) == 1
    assert held(server, "deleted") == before
    assert found(server, "deleted")["plain seed=0"].info.run_id == gone
    assert sync(results, server, finished.store) == 0


def test_an_experiment_deleted_in_the_page_comes_back(server: str, finished: Ran) -> None:
    results = results_of(finished, "deleted")
    sync(results, server, finished.store)
    client(server).delete_experiment(experiment(server, "deleted").experiment_id)
    sync(results, server, finished.store)
    assert experiment(server, "deleted").lifecycle_stage == "active"
    assert len(found(server, "deleted")) == RUNS


def test_two_users_end_in_one_set_of_runs(server: str, finished: Ran) -> None:
    """Both start at once, with connections of their own: addresses that are spelled differently."""
    results = results_of(finished, "together")
    failed: list[Exception] = []

    def one(uri: str) -> None:
        try:
            sync(results, uri, finished.store)
        except Exception as error:  # noqa: BLE001  (handed to the test)
            failed.append(error)

    uris = [server, server.replace("127.0.0.1", "localhost")]
    threads = [threading.Thread(target=one, args=(uri,)) for uri in uris]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    runs = client(server).search_runs([experiment(server, "together").experiment_id], max_results=1000)
    keys = [run.data.tags[KEY] for run in runs]
    assert len(keys) == len(set(keys)) == RUNS
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert sync(results, server, finished.store) == 0


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (503, "the server is in trouble (HTTP 503"),
        (429, "the server asks for fewer requests (HTTP 429"),
        (0, "the server broke the connection"),
    ],
)
def test_a_server_in_trouble_in_the_middle_of_a_sync(
    server: str, proxy: Proxy, finished: Ran, status: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line; nothing is lost, and the next sync writes what is missing."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    results, asked = results_of(finished, f"trouble-{status}"), list[str]()

    def fault(request: Request) -> None:
        asked.append(request.path)
        if len(asked) > 12:
            request.reset() if not status else request.refuse(status, "BUSY", "Back in a minute.")

    proxy.faults.append(fault)
    _told_and_mended(results, server, finished, proxy, words)


def test_a_server_that_dies_in_the_middle_and_comes_back(
    server: str, proxy: Shared, finished: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    asked: list[str] = []

    def fault(request: Request) -> None:
        asked.append(request.path)
        if len(asked) == 12:
            proxy.kill()

    proxy.faults.append(fault)
    _told_and_mended(results_of(finished, "killed"), server, finished, proxy, "the server broke the connection")


def _told_and_mended(results: Results, server: str, finished: Ran, proxy: Shared, words: str) -> None:
    text = said(results, server)
    assert words in text
    assert "Nothing is lost: run the command again later, and it writes what is missing." in text
    proxy.faults.clear()
    if not proxy.pid:  # it was killed: nothing answers, and then it is back
        assert words in said(results, server)
        proxy.start()
    sync(results, server, finished.store)
    ours, theirs = held(server, results.plan.sweep.name), held(server)
    ours["tiny summary"] = ours.pop(f"{results.plan.sweep.name} summary")
    assert {name: run[:4] for name, run in ours.items()} == {name: run[:4] for name, run in theirs.items()}


def test_two_sweeps_on_one_page(server: str, finished: Ran) -> None:
    """`compare` links to it; in a real browser it shows the settings of both."""
    sync(results_of(finished, "beside"), server, finished.store)
    link = compared(["tiny", "beside"], server)
    sync_api = pytest.importorskip("playwright.sync_api")
    if (browser := shutil.which("chromium")) is None:
        pytest.skip("no chromium")
    with sync_api.sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page()
        page.goto(link)
        page.get_by_text("2 matching runs").first.wait_for(timeout=60_000)
