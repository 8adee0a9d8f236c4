"""Addresses that are wrong, databases and servers that refuse: one clear message each."""

from __future__ import annotations

import contextlib
import fcntl
import http.server
import os
import shutil
import socket
import sqlite3
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import BadInput, EnvironmentProblem
from orchestrator.report.results import Results
from orchestrator.tracking import address
from orchestrator.tracking import sync as tracking
from orchestrator.tracking.sync import check_address, sync
from tests.orchestrator.conftest import Ran
from tests.orchestrator.tracking.conftest import results_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # MLflow's own


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("htp://127.0.0.1:5000", "unknown scheme 'htp'. Did you mean 'http'?"),
        ("mlruns", "is a folder or a word, and MLflow keeps no runs in folders. Write sqlite:///results/mlflow.db"),
        ("file:///tmp/mlruns", "MLflow keeps no runs in folders"),
        ("sqlite://mlflow.db", "is not a file: a SQLite address has three slashes"),
        ("sqlite:///", "is not a file"),
        ("sqlite:///:memory:", "is not a file"),
        ("http://", "the host is missing, or the port is not a number"),
        ("http://me:secret@host:port", "'http://***@host:port': the host is missing, or the port is not a number"),
    ],
)
def test_a_wrong_address_is_bad_input(uri: str, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        check_address(uri)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["none", "sqlite:///x.db", "https://me:pw@host/mlflow", "postgresql+psycopg2://u:p@h/db"]
)
def test_a_right_address_passes(uri: str) -> None:
    check_address(uri)


def said(results: Results, uri: str) -> str:
    began = time.monotonic()
    with pytest.raises((EnvironmentProblem, BadInput)) as caught:
        sync(results, uri)
    assert time.monotonic() - began < 60  # a client's own retries take minutes
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(uri: str, statement: str, *values: str) -> None:
    with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as db:
        db.execute(statement, values)
        db.commit()


def test_a_database_of_another_mlflow(uri: str, finished: Ran) -> None:
    change(uri, "UPDATE alembic_version SET version_num = ?", "ffffffffffff")
    assert "was made by a newer MLflow than the 3." in said(results_of(finished), uri)
    change(uri, "UPDATE alembic_version SET version_num = ?", "451aebb31d03")  # of 2019
    assert f"made by an older MLflow. Run: mlflow db upgrade {uri}" in said(results_of(finished), uri)


def test_a_locked_database(uri: str, finished: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "LOCK_S", 0.2)
    with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "the database is locked by another program" in said(results_of(finished), uri)
    assert sync(results_of(finished), uri) > 0


def test_another_nagbench_at_work(uri: str, finished: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "WAIT_S", 0.2)
    with open(uri.removeprefix("sqlite:///") + ".lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "another nagbench has been writing there for" in said(results_of(finished), uri)
    assert sync(results_of(finished), uri) > 0


def test_a_file_that_is_no_database(finished: Ran, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, but long enough to be read as the header of one" * 10)
    assert "is not a database, or is damaged" in said(results_of(finished), f"sqlite:///{tmp_path}/text.db")
    assert "cannot be opened" in said(results_of(finished), f"sqlite:///{tmp_path}")
    change(f"sqlite:///{tmp_path}/other.db", "CREATE TABLE accounts (name TEXT)")
    assert "a database of another program" in said(results_of(finished), f"sqlite:///{tmp_path}/other.db")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not write")
def test_a_read_only_database(empty: Path, finished: Ran) -> None:
    import tempfile

    results = results_of(finished)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        shutil.copy(empty, f"{folder}/mlflow.db")
        os.seteuid(65534)
        try:
            locked_out = said(results, f"sqlite:///{folder}/mlflow.db")
            nowhere = said(results, f"sqlite:///{folder}/deep/mlflow.db")
        finally:
            os.seteuid(0)
    assert all("cannot be opened or created. Check its path and permissions" in text for text in (locked_out, nowhere))


@contextlib.contextmanager
def answering(status: int, body: str = "") -> Iterator[str]:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_that_is_not_there(finished: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    results = results_of(finished)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        refused = said(results, f"http://user:secret@127.0.0.1:{nobody.getsockname()[1]}")
    assert "//***@127.0.0.1" in refused
    assert "nothing listens there. Start the server, or use --tracking none." in refused
    assert "host name is unknown" in said(results, "http://nowhere.invalid:5000")
    monkeypatch.setattr(address, "ANSWER_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection and never says a word
        assert "no answer within 1 s" in said(results, f"http://127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, "", "refuses (HTTP 401). Set MLFLOW_TRACKING_USERNAME"),
        (403, "DNS rebinding", "refuses (HTTP 403)"),
        (404, "<html>", "answers HTTP 404: it may not be an MLflow server"),
        (
            429,
            "100 requests a minute, ask ops@x.org for more",
            "(HTTP 429: 100 requests a minute, ask ops@x.org for more)",
        ),
        (500, '{"error_code": "INTERNAL_ERROR", "message": "disk quota"}', "in trouble (HTTP 500: disk quota)"),
        (200, "<html>", "what answers there is not an MLflow server"),
    ],
)
def test_a_server_that_refuses(finished: Ran, status: int, body: str, words: str) -> None:
    with answering(status, body) as uri:
        assert words in said(results_of(finished), uri)


@pytest.mark.parametrize(
    ("uri", "package"),
    [("postgresql+psycopg", "'psycopg[binary]'"), ("mysql+pymysql", "PyMySQL"), ("mysql", "mysqlclient")],
)
def test_a_missing_driver_is_named_by_its_package(finished: Ran, uri: str, package: str) -> None:
    assert f"Install it: pip install {package}." in said(results_of(finished), f"{uri}://user:secret@127.0.0.1:1/runs")


def test_a_missing_library_of_artifacts_is_named(uri: str) -> None:
    error = ModuleNotFoundError("No module named 'boto3'", name="boto3")
    assert "boto3 cannot be imported" in str(address.problem(uri, error))
    assert str(address.problem(uri, error)).endswith("Install it: pip install boto3.")


def test_a_certificate_that_is_not_trusted(finished: Ran, tmp_path: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key", "-out", "certificate"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    with untrusted(context) as safe:
        words = "its certificate is not trusted: self-signed certificate. Name the file of its authority in"
        assert words in said(results_of(finished), safe)


@contextlib.contextmanager
def untrusted(context: ssl.SSLContext) -> Iterator[str]:
    """A server whose certificate nobody trusts: no client gets beyond the handshake."""
    with socket.create_server(("127.0.0.1", 0)) as plain:
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                with contextlib.suppress(OSError):
                    connection, _ = plain.accept()
                    with connection, context.wrap_socket(connection, server_side=True):
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{plain.getsockname()[1]}"
        over.set()
        with contextlib.suppress(OSError), socket.create_connection(plain.getsockname()):
            pass
        thread.join()
