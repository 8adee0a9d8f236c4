"""`nagbench ui`: a real server, its link in a real browser, and its end."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import EnvironmentProblem
from orchestrator.tracking.address import KEY, STATE
from orchestrator.tracking.sync import sync
from orchestrator.tracking.ui import Served, ui
from tests.orchestrator.conftest import Ran
from tests.orchestrator.tracking.conftest import ALL, ROOT, client, experiment, found, held, results_of

WIDTHS = 1280, 1900  # of a browser's window

pytestmark = [
    pytest.mark.outside,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),  # MLflow's own
]


@pytest.fixture(scope="session")
def served(empty: Path, finished: Ran, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    """`nagbench ui` of a database with the sweep, where the first port is taken; and the database's address."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copy(empty, folder / "mlflow.db")
    uri = f"sqlite:///{folder}/mlflow.db"
    sync(results_of(finished), uri, finished.store)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with ui("tiny", uri, port) as found:
            assert (found.moved, found.port != port) == (True, True)
            yield found, uri
    assert found.process is not None
    assert group(found.process.pid) == []


def group(leader: int) -> list[int]:
    """The processes of a group that are alive."""
    alive = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = place.read_text().rpartition(")")[2].split()
            if int(fields[2]) == leader and fields[0] != "Z":
                alive.append(int(place.parent.name))
    return alive


def test_ui_serves_the_runs_with_two_processes(served: tuple[Served, str]) -> None:
    found, uri = served
    assert found.process is not None
    assert len(group(found.process.pid)) == 2
    number = experiment(uri).experiment_id
    assert (
        found.link
        == f"http://127.0.0.1:{found.port}/#/experiments/{number}/runs?workflowType=machine_learning&viewStateShareKey=nagbench&compareRunsMode=CHART"
    )
    with urllib.request.urlopen(f"http://127.0.0.1:{found.port}/health", timeout=60) as answer:
        assert answer.status == 200
    lines = [Path(f"/proc/{process}/cmdline").read_bytes() for process in group(found.process.pid)]
    assert len(lines) > 1
    assert not any(b"sqlite" in line for line in lines)  # addresses, which may hold passwords, are not for all to see


def test_a_server_holds_the_same(served: tuple[Served, str], finished: Ran, report: Path, tracked: str) -> None:
    """Another sweep, written over HTTP: all as in a database, artifacts too."""
    server = f"http://127.0.0.1:{served[0].port}"
    results = results_of(finished, "remote")
    assert sync(results, server, finished.store, report) == ALL
    ours, theirs = held(server, "remote"), held(tracked)
    ours["tiny summary"] = ours.pop("remote summary")
    names = {name: run[:4] for name, run in ours.items()}
    assert names == {name: run[:4] for name, run in theirs.items()}
    run = found(server, "remote")["remote summary"]
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    assert [entry.path for entry in client(server).list_artifacts(run.info.run_id)] == ["figures", "report.html"]
    began = time.process_time()
    assert sync(results, server, finished.store, report) == 0
    assert time.process_time() - began < 1


def test_twins_are_made_one(served: tuple[Served, str], finished: Ran) -> None:
    """Two engines on two machines, one server: both write a run of one key; the next sync keeps one of them."""
    server = f"http://127.0.0.1:{served[0].port}"
    results = results_of(finished, "twins")
    sync(results, server, finished.store)
    number = experiment(server, "twins").experiment_id
    key = found(server, "twins")["plain seed=0"].data.tags[KEY]
    client(server).create_run(number, tags={KEY: key}, run_name="twin")
    client(server).set_experiment_tag(number, STATE, "another process was here")
    sync(results, server, finished.store)
    assert len(found(server, "twins")) == ALL


def opened(page: Any, width: int, link: str) -> None:
    page.set_viewport_size({"width": width, "height": 1100})
    page.goto("about:blank")
    page.goto(link)


def test_the_link_opens_on_the_verdict(served: tuple[Served, str]) -> None:
    """In a real browser, narrow and wide: the description, the settings and only they, charts with whole titles; and
    the other views.
    """
    sync_api = pytest.importorskip("playwright.sync_api")
    if (browser := shutil.which("chromium")) is None:
        pytest.skip("no chromium")
    columns = ["arm", "setting", "sampling", "task", "NFE", "verdict", "fid"]
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page()
        title = page.get_by_text("fid_difference").or_(page.get_by_text("fid", exact=True)).first
        for width in WIDTHS:
            opened(page, width, served[0].link)
            title.wait_for(timeout=60_000)
            assert title.evaluate("e => e.scrollWidth <= e.clientWidth + 1")
            page.get_by_text("nag 2", exact=True).first.wait_for(timeout=60_000)
        assert "Model training" in page.inner_text("body")
        page.get_by_role("button", name="Views").click()
        for view in ("verdict", "scales", "cost"):
            page.get_by_role("menuitem").filter(has_text=view).wait_for(timeout=60_000)
        for width in WIDTHS:
            opened(page, width, served[0].table)
            page.get_by_text("euler, 2 steps").first.wait_for(timeout=60_000)
            cells = page.locator("[role=columnheader]").all()
            headings = [(box["x"], cell.inner_text()) for cell in cells if (box := cell.bounding_box())]
            shown = list(dict.fromkeys(name for _, name in sorted(headings) if name in columns))
            assert len(shown) > 1  # those within the window
            assert shown == columns[: len(shown)]


def test_ui_without_runs(uri: str) -> None:
    with pytest.raises(EnvironmentProblem, match=r"has no runs of 'tiny' yet. Run the sweep first."), ui("tiny", uri):
        pass


def test_ui_of_a_server_is_a_link_into_it(served: tuple[Served, str]) -> None:
    server = f"http://127.0.0.1:{served[0].port}"
    with ui("tiny", server) as found:
        assert (found.link, found.process) == (served[0].link, None)


def test_the_server_goes_with_a_killed_ui(served: tuple[Served, str], tmp_path: Path) -> None:
    """SIGKILL, which nobody can catch, once both processes of the server are there."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "from orchestrator.tracking.ui import _start\n"
        "from orchestrator.tracking.address import free_port\n"
        "print(_start(sys.argv[1], free_port(5700), Path(sys.argv[2])).pid, flush=True); time.sleep(250)\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code, served[1], str(tmp_path / "log")], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert starter.stdout is not None
    with starter.stdout as out:
        leader = int(out.readline())
    wait_for(lambda: len(group(leader)) == 2)
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    wait_for(lambda: group(leader) == [])


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)
