"""Addresses of MLflow: which are valid, whether anything answers there, and the message if nothing does.

Nothing here imports mlflow, so a wrong or dead address is reported at once, not after a slow import.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sqlite3
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.display import address
from orchestrator.errors import BadInput, EnvironmentProblem, NagbenchError, unknown
from orchestrator.tracking import login, reasons

DEFAULT_URI = "sqlite:///results/mlflow.db"
NONE = "none"  # no tracking
SQLITE = "sqlite:///"
SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql")  # also with a driver: postgresql+driver
KEY = "nagbench.key"  # tag with the key of a run
STATE = "nagbench.state"  # tag with the state written last
ANSWER_S = 8.0  # a server that is silent for this long counts as dead
LOCK_S = 5.0
REVISION = "alembic_version"
EXPERIMENT = (
    "SELECT e.experiment_id, t.value FROM experiments e JOIN experiment_tags t ON t.experiment_id = e.experiment_id "
    "WHERE e.name = :name AND e.lifecycle_stage = 'active' AND t.key = :key"
)
RUNS = (
    "SELECT COUNT(*) FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid "
    "WHERE r.experiment_id = :experiment AND r.lifecycle_stage = 'active' AND t.key = :key"
)


def check_address(uri: str) -> None:
    """Raise BadInput for an address that cannot work. Opens nothing."""
    if uri == NONE:
        return
    scheme, colon, rest = uri.partition("://")
    fix = f"Write {DEFAULT_URI}, http://HOST:PORT or {NONE}."
    if not colon or scheme == "file":
        raise BadInput(f"--tracking {address(uri)!r} is a folder or a word, and MLflow keeps no runs in folders. {fix}")
    if scheme.partition("+")[0] not in SCHEMES:
        raise BadInput(f"--tracking {address(uri)!r}: {unknown('scheme', scheme, SCHEMES)} {fix}")
    if scheme.startswith("http"):
        try:
            parts = urllib.parse.urlsplit(uri)
            good = bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good:
            raise BadInput(f"--tracking {address(uri)!r}: the host is missing, or the port is not a number. {fix}")
    if scheme == "sqlite" and (not uri.startswith(SQLITE) or not rest.strip("/") or ":memory:" in rest):
        raise BadInput(f"--tracking {uri!r} is not a file: a SQLite address has three slashes, then the path. {fix}")


def database(uri: str) -> Path | None:
    """The file of a SQLite address; None for a server."""
    return Path(uri.removeprefix(SQLITE).partition("?")[0]) if uri.startswith(SQLITE) else None


def written_state(uri: str, sweep: str) -> str | None:
    """The state (STATE) last written to a sweep's experiment, or None.

    Raises EnvironmentProblem, one sentence with the fix, within ANSWER_S if MLflow cannot be written.
    """
    check_address(uri)
    file = database(uri)
    if file is not None:
        return _database_state(uri, file, sweep) if file.exists() else None
    ask = _server_state if uri.startswith("http") else _shared_database_state
    return _within(uri, lambda: ask(uri, sweep))


def _database_state(uri: str, file: Path, sweep: str) -> str | None:
    noted = None
    try:
        with contextlib.closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=rw", uri=True, timeout=LOCK_S)) as db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("ROLLBACK")
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            revisions = db.execute("SELECT version_num FROM alembic_version").fetchall() if REVISION in tables else []
            with contextlib.suppress(sqlite3.OperationalError):  # another schema: then MLflow itself is asked
                noted = _note(db, sweep)
    except sqlite3.Error as error:
        raise problem(uri, error) from error
    _check_schema(uri, tables, [revision for (revision,) in revisions])
    return noted


def _check_schema(uri: str, tables: set[str], revisions: list[str]) -> None:
    """Raise for a schema that is not MLflow's, or of a newer one, which MLflow would try to migrate."""
    if tables and not {"alembic_version", "experiments"} <= tables:
        raise BadInput(f"--tracking {address(uri)}: this is a database of another program. Name another one.")
    known = _revisions()
    if known and any(revision not in known for revision in revisions):
        raise EnvironmentProblem(
            f"MLflow at {address(uri)}: this database was made by a newer MLflow than the {_version()} that is "
            "installed here. Update it (pip install -U mlflow), or name another one with --tracking."
        )


def _shared_database_state(uri: str, sweep: str) -> str | None:
    """The state of an experiment in a database on a server, such as PostgreSQL. It is asked once, here: MLflow itself
    would retry for minutes, and migrate what is not its own.
    """
    from sqlalchemy import create_engine, inspect, text
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    timeout = {"connect_timeout": int(ANSWER_S)} if not uri.startswith("mssql") else {}
    with create_engine(uri, poolclass=NullPool, connect_args=timeout).connect() as db:
        tables = set(inspect(db).get_table_names())
        revisions = list(db.scalars(text("SELECT version_num FROM alembic_version"))) if REVISION in tables else []
        _check_schema(uri, tables, revisions)
        try:
            row = db.execute(text(EXPERIMENT), {"name": sweep, "key": STATE}).one_or_none() if tables else None
            count = db.scalar(text(RUNS), {"experiment": row[0], "key": KEY}) if row else 0
        except SQLAlchemyError:  # an older schema: MLflow says so
            return None
    return str(row[1]) if row and row[1].endswith(f" {count}") else None


def _note(db: sqlite3.Connection, sweep: str) -> str | None:
    """The state of an experiment; None if runs were removed since."""
    row = db.execute(EXPERIMENT, {"name": sweep, "key": STATE}).fetchone()
    if row is None:
        return None
    (count,) = db.execute(RUNS, {"experiment": row[0], "key": KEY}).fetchone()
    return str(row[1]) if row[1].endswith(f" {count}") else None


def _version() -> str:
    from importlib.metadata import version

    return version("mlflow")


def _revisions() -> frozenset[str]:
    """The database schemas that the installed MLflow knows, by its migrations; without importing it."""
    from importlib.util import find_spec

    spec = find_spec("mlflow")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return frozenset(
        path.name.partition("_")[0]
        for folder in folders
        for path in Path(folder, "store", "db_migrations", "versions").glob("*_*.py")
    )


def _server_state(uri: str, sweep: str) -> str | None:
    """The state of an experiment on a server; None if runs were removed since. Raises OSError if nothing answers; other
    faults are left to MLflow's client.
    """
    query = urllib.parse.urlencode({"experiment_name": sweep})
    try:
        experiment = _ask(uri, f"experiments/get-by-name?{query}")["experiment"]
        tags = {tag["key"]: tag["value"] for tag in experiment.get("tags", ())}
        if experiment.get("lifecycle_stage") != "active" or STATE not in tags:
            return None
        wanted = {"experiment_ids": [experiment["experiment_id"]], "filter": f"tags.`{KEY}` LIKE '%'"}
        removed = _ask(uri, "runs/search", {**wanted, "run_view_type": "DELETED_ONLY", "max_results": 1})
        return None if removed.get("runs") else str(tags[STATE])
    except urllib.error.HTTPError as error:
        error.close()  # no such experiment, or a login is needed: it answers
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # MLflow may be configured to trust it
            raise error.reason if isinstance(error.reason, OSError) else error from None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # not an answer of MLflow
    return None


def _ask(uri: str, what: str, body: Mapping[str, Any] | None = None) -> Any:
    """The answer of an MLflow server, with the login that MLflow's client would send."""
    parts = urllib.parse.urlsplit(uri)
    path, _, query = f"{parts.path.rstrip('/')}/api/2.0/mlflow/{what}".partition("?")
    place = urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, query, ""))
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(place, data, {"Content-Type": "application/json", **login.headers(uri)})
    with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
        return json.load(answer)


T = TypeVar("T")


def _within(uri: str, ask: Callable[[], T]) -> T:
    """Call `ask` in a thread and wait ANSWER_S, because a silent name server cannot be interrupted."""
    answers: list[T] = []
    failed: list[Exception] = []

    def body() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # noqa: BLE001  (handed to the caller's thread)
            failed.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(ANSWER_S)
    if failed and isinstance(failed[0], NagbenchError):
        raise failed[0]
    if not answers:
        raise problem(uri, (failed or [TimeoutError()])[0])
    return answers[0]


def problem(uri: str, error: BaseException) -> EnvironmentProblem:
    """One sentence for any error of a database, MLflow or the network, with the fix if it is known."""
    return reasons.problem(uri, _whole(uri, error), ANSWER_S)


def _whole(uri: str, error: BaseException) -> BaseException:
    """The error; if MLflow's client dropped the server's own words when it tried again, then another with them."""
    if not uri.startswith("http") or not re.search(r"too many \d{3} error responses", str(error)):
        return error
    try:
        _ask(uri, "experiments/search?max_results=1")
    except urllib.error.HTTPError as answer:
        body = answer.read(10_000).decode(errors="replace")
        return RuntimeError(f"failed with error code {answer.code}. Response body: '{body}'")
    except (OSError, ValueError):
        return error
    return error


def free_port(first: int) -> int:
    """The first free port of 127.0.0.1 from `first` on. Raises EnvironmentProblem if 100 are taken."""
    for port in range(first, min(first + 100, 65536)):
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                trial.bind(("127.0.0.1", port))
                return port
    raise EnvironmentProblem(f"no free port from {first} to {first + 99} on 127.0.0.1. Give another one with --port.")
