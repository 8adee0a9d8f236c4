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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from orchestrator.display import address
from orchestrator.errors import BadInput, EnvironmentProblem, unknown

DEFAULT_URI = "sqlite:///results/mlflow.db"
NONE = "none"  # no tracking
SQLITE = "sqlite:///"
SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql")  # also with a driver: postgresql+driver
KEY = "nagbench.key"  # tag with the key of a run
STATE = "nagbench.state"  # tag with the state written last
ANSWER_S = 8.0  # a server that is silent for this long counts as dead
LOCK_S = 5.0


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
    return _within(uri, lambda: _server_state(uri, sweep)) if uri.startswith("http") else None


def _database_state(uri: str, file: Path, sweep: str) -> str | None:
    noted = None
    try:
        with contextlib.closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=rw", uri=True, timeout=LOCK_S)) as db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("ROLLBACK")
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            revisions = (
                db.execute("SELECT version_num FROM alembic_version").fetchall() if "alembic_version" in tables else []
            )
            with contextlib.suppress(sqlite3.OperationalError):  # another schema: then MLflow itself is asked
                noted = _note(db, sweep)
    except sqlite3.Error as error:
        raise problem(uri, error) from error
    if tables and not tables & {"alembic_version", "experiments"}:
        raise BadInput(f"--tracking {uri}: this is a database of another program. Name another file.")
    known = _revisions()
    if known and any(revision not in known for (revision,) in revisions):
        raise EnvironmentProblem(
            f"MLflow at {uri}: this database was made by a newer MLflow than the {_version()} that is installed here. "
            "Update it (pip install -U mlflow), or name another file with --tracking."
        )
    return noted


def _note(db: sqlite3.Connection, sweep: str) -> str | None:
    """The state of an experiment; None if runs were removed since."""
    row = db.execute(
        "SELECT e.experiment_id, t.value FROM experiments e JOIN experiment_tags t USING (experiment_id) "
        "WHERE e.name = ? AND e.lifecycle_stage = 'active' AND t.key = ?",
        (sweep, STATE),
    ).fetchone()
    if row is None:
        return None
    (count,) = db.execute(
        "SELECT COUNT(*) FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid "
        "WHERE r.experiment_id = ? AND r.lifecycle_stage = 'active' AND t.key = ?",
        (row[0], KEY),
    ).fetchone()
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
    """The state of an experiment on a server. Raises OSError if nothing answers; other faults are left to MLflow's
    client.
    """
    parts = urllib.parse.urlsplit(uri)
    query = urllib.parse.urlencode({"experiment_name": sweep})
    path = f"{parts.path.rstrip('/')}/api/2.0/mlflow/experiments/get-by-name"
    place = urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, query, ""))
    try:
        with urllib.request.urlopen(place, timeout=ANSWER_S) as answer:
            experiment = json.load(answer)["experiment"]
        tags = {tag["key"]: tag["value"] for tag in experiment.get("tags", ())}
        return tags.get(STATE) if experiment.get("lifecycle_stage") == "active" else None
    except urllib.error.HTTPError as error:
        error.close()  # no such experiment, or a login is needed: it answers
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # MLflow may be configured to trust it
            raise error.reason if isinstance(error.reason, OSError) else error from None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # not an answer of MLflow
    return None


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
    if not answers:
        raise problem(uri, (failed or [TimeoutError()])[0])
    return answers[0]


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__


def problem(uri: str, error: BaseException) -> EnvironmentProblem:
    """One sentence for any error of sqlite3, MLflow or the network, with the fix if it is known."""
    causes = list(_chain(error))
    text = " ".join(str(each) for each in causes)
    names = {type(each).__name__ for each in causes}
    status = next((s for each in causes if (s := _status(each))), None)
    return EnvironmentProblem(f"MLflow at {address(uri)}: {_words(uri, text, names, status, error)}")


def _words(uri: str, text: str, names: set[str], status: int | None, error: BaseException) -> str:
    if "database is locked" in text or "database is busy" in text:
        return "the database is locked by another program. Close it, or run the command again later."
    if "readonly database" in text or "read-only" in text.lower():
        return "the database is read-only here. Make it and its folder writable, or name another file with --tracking."
    if "file is not a database" in text or "malformed" in text:
        return "the file is not a database, or is damaged. Remove it: the next run or report creates it again."
    if "out-of-date database schema" in text:
        return f"the database was made by an older MLflow. Run: mlflow db upgrade {address(uri)} (or remove the file)."
    if "unable to open database file" in text or names & {"PermissionError", "IsADirectoryError", "NotADirectoryError"}:
        return "it cannot be opened or created. Check its path and permissions, or name another file with --tracking."
    if "No space left" in text or "disk is full" in text:
        return "the disk is full. Make room, or name another place with --tracking."
    if names & {"ModuleNotFoundError", "ImportError"}:
        return f"MLflow cannot be imported ({error}). Install it: pip install mlflow."
    if names & {"gaierror", "NameResolutionError"}:
        return "the host name is unknown. Check the address."
    if names & {"ConnectionRefusedError"} or "Connection refused" in text:
        return "nothing listens there. Start the server, or use --tracking none."
    if names & {"TimeoutError", "ReadTimeout", "ConnectTimeout", "ReadTimeoutError"}:
        return f"no answer within {ANSWER_S:.0f} s. Check the address and the network, or use --tracking none."
    if status in (401, 403):
        return (
            f"the server refuses (HTTP {status}). Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN; a 403 may also mean that it does not serve this host name."
        )
    if "not in a valid JSON format" in text:
        return "what answers there is not an MLflow server. Check the address."
    if status:
        return (
            f"the server answers HTTP {status}: it may not be an MLflow server, or broken. Check its address and log."
        )
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{type(error).__name__}: {first[:200]}"


def _status(error: BaseException) -> int | None:
    """The HTTP status in an error of MLflow or requests."""
    response = getattr(error, "response", None)
    if response is not None and getattr(response, "status_code", None):
        return int(response.status_code)
    match = re.search(r"(?:failed with error code|status(?: code)?|error code) (\d{3})\b", str(error))
    if match:
        return int(match[1])
    code = getattr(error, "get_http_status_code", None)
    return int(code()) if code is not None and type(error).__name__ == "RestException" else None


def free_port(first: int) -> int:
    """The first free port of 127.0.0.1 from `first` on. Raises EnvironmentProblem if 100 are taken."""
    for port in range(first, min(first + 100, 65536)):
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                trial.bind(("127.0.0.1", port))
                return port
    raise EnvironmentProblem(f"no free port from {first} to {first + 99} on 127.0.0.1. Give another one with --port.")
