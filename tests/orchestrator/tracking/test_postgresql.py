"""A real PostgreSQL as MLflow's database, by its address and behind a real server; and what is refused there."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import BadInput, EnvironmentProblem
from orchestrator.tracking.address import free_port
from orchestrator.tracking.sync import sync
from orchestrator.tracking.ui import ui
from tests.orchestrator.conftest import Ran
from tests.orchestrator.tracking.conftest import ALL, client, found, held, results_of

pytestmark = [
    pytest.mark.outside,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),  # MLflow's own
]
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def asked(port: int, database: str, statement: str) -> str:
    command = ["psql", "-h", "127.0.0.1", "-p", str(port), "-U", "nagbench", "-d", database, "-qAtc", statement]
    env = {**os.environ, "PGPASSWORD": "p@ss"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a PostgreSQL that asks for a password. It refuses to run as root."""
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    if not PROGRAMS or shutil.which("psql") is None:
        pytest.skip("no PostgreSQL")
    programs, number = PROGRAMS[-1], free_port(5600)
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    with tempfile.TemporaryDirectory(prefix="nagbench-pg-") as folder:
        (Path(folder) / "password").write_text("p@ss")
        for place in (folder, f"{folder}/password"):
            shutil.chown(place, user)
        made = ["-D", f"{folder}/data", "-U", "nagbench", "--auth=scram-sha-256", f"--pwfile={folder}/password", "-N"]
        as_user = {"user": user} if os.geteuid() == 0 else {}
        subprocess.run([programs / "initdb", *made], check=True, capture_output=True, cwd=folder, **as_user)
        options = ["-D", f"{folder}/data", "-p", str(number), "-c", "listen_addresses=127.0.0.1", "-F"]
        server = subprocess.Popen(
            [programs / "postgres", *options, "-k", folder],
            stderr=subprocess.DEVNULL,
            cwd=folder,
            start_new_session=True,
            **as_user,
        )
        end = time.monotonic() + 60
        while subprocess.run([programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(number)]).returncode:
            assert time.monotonic() < end, "PostgreSQL did not start"
            time.sleep(0.1)
        asked(number, "postgres", "CREATE DATABASE mlflow")
        yield number
        server.send_signal(signal.SIGINT)  # which does not wait for clients
        server.wait(60)


def address(port: int, database: str = "mlflow", password: str = "p%40ss") -> str:
    return f"postgresql+psycopg2://nagbench:{password}@127.0.0.1:{port}/{database}"


def said(finished: Ran, uri: str) -> str:
    began = time.monotonic()
    with pytest.raises((EnvironmentProblem, BadInput)) as caught:
        sync(results_of(finished), uri)
    assert time.monotonic() - began < 30  # 104 s with MLflow's own patience; the bound itself is ANSWER_S
    assert "\n" not in str(caught.value)
    assert "p@ss" not in str(caught.value)
    assert "p%40ss" not in str(caught.value)
    return str(caught.value)


def test_a_sweep_in_postgresql(port: int, finished: Ran, tracked: str) -> None:
    """As in SQLite, and the same when it comes through a server."""
    uri = address(port)
    assert sync(results_of(finished), uri, finished.store) == ALL
    ours, theirs = held(uri), held(tracked)
    assert {name: run[:4] for name, run in ours.items()} == {name: run[:4] for name, run in theirs.items()}
    assert sync(results_of(finished), uri, finished.store) == 0
    client(uri).delete_run(found(uri)["plain seed=0"].info.run_id)
    assert sync(results_of(finished), uri, finished.store) == 1
    with ui("tiny", uri, 5650) as served:
        server = f"http://127.0.0.1:{served.port}"
        assert sync(results_of(finished), server, finished.store) == 0
        assert len(found(server)) == ALL


def test_what_is_not_ours_is_never_migrated(port: int, finished: Ran) -> None:
    asked(port, "postgres", "CREATE DATABASE accounts")
    asked(port, "accounts", "CREATE TABLE accounts (name TEXT); CREATE TABLE alembic_version (version_num TEXT)")
    assert "this is a database of another program" in said(finished, address(port, "accounts"))
    tables = "SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_tables WHERE schemaname = 'public'"
    left = asked(port, "accounts", tables)
    assert left.split() == ["accounts", "alembic_version"]


def test_refusals(port: int, finished: Ran) -> None:
    assert "refuses this user or password" in said(finished, address(port, password="wrong"))
    assert "there is no database 'absent'. Create it first." in said(finished, address(port, "absent"))


def test_a_server_that_is_dead_or_silent(port: int, finished: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        assert "nothing listens there. Start the server" in said(finished, address(nobody.getsockname()[1]))
    monkeypatch.setattr("orchestrator.tracking.address.ANSWER_S", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "no answer within 2 s" in said(finished, address(silent.getsockname()[1]))
