"""`nagbench ui`: MLflow's own server on this machine, until the user ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from orchestrator.display import address
from orchestrator.errors import EnvironmentProblem
from orchestrator.tracking.address import SQLITE, database, free_port, problem
from orchestrator.tracking.tracker import Tracker
from orchestrator.tracking.view import comparison_link, link

PORT = 5000
START_S = 90.0  # a cold start on a slow disk takes 40
END_S = 10.0
ALONE = {  # without these MLflow starts ten processes and sends telemetry
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}


@dataclass
class Served:
    """A sweep in the MLflow UI. `moved`: the wanted port was taken, so this is another one."""

    link: str  # charts
    table: str
    port: int | None = None
    moved: bool = False
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def wait(self) -> None:
        """Wait until the server ends; Ctrl-C raises KeyboardInterrupt. Returns at once if we started none."""
        if self.process is not None:
            self.process.wait()


@contextlib.contextmanager
def ui(sweep: str, uri: str, port: int = PORT) -> Iterator[Served]:
    """The UI with the runs of a sweep: for a database, a server on 127.0.0.1 that ends with the context; if the
    tracking address is a server, a link to it.

    Raises EnvironmentProblem if MLflow does not start or answer, or has no runs of the sweep.
    """
    experiment = _experiment(sweep, uri)
    if uri.startswith("http"):
        yield _served(_page(uri), experiment)
        return
    free = free_port(port)
    with TemporaryDirectory(prefix="nagbench-ui-") as folder:
        log = Path(folder, "server.log")
        process = _start(uri, free, log)
        try:
            server = f"http://127.0.0.1:{free}"
            _wait(process, server, uri, log)
            served = _served(server, experiment)
            served.port, served.moved, served.process = free, free != port, process
            yield served
        finally:
            _end(process)


def compared(sweeps: Sequence[str], uri: str) -> str:
    """The address of several sweeps' settings in the MLflow UI; of a database, at the server that `nagbench ui` starts.

    Raises EnvironmentProblem if MLflow does not answer, or has no runs of one of them.
    """
    experiments = [_experiment(sweep, uri) for sweep in sweeps]
    return comparison_link(_page(uri) if uri.startswith("http") else f"http://127.0.0.1:{PORT}", experiments)


def _page(uri: str) -> str:
    """A server's address for a browser, which asks for the password."""
    parts = urllib.parse.urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _served(server: str, experiment: str) -> Served:
    return Served(link(server, experiment, "CHART"), link(server, experiment, "TABLE"))


def _experiment(sweep: str, uri: str) -> str:
    """The id of a sweep's experiment."""
    file = database(uri)
    try:
        if file is None:
            experiment = Tracker(uri, None).client.get_experiment_by_name(sweep)
            number = experiment and experiment.experiment_id
        else:
            with contextlib.closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as db:
                row = db.execute("SELECT experiment_id FROM experiments WHERE name = ?", (sweep,)).fetchone()
            number = row and row[0]
    except Exception as error:
        raise problem(uri, error) from error
    if number is None:
        raise EnvironmentProblem(f"MLflow at {address(uri)} has no runs of {sweep!r} yet. Run the sweep first.")
    return str(number)


def _start(uri: str, port: int, log: Path) -> subprocess.Popen[bytes]:
    file = database(uri)
    place = f"{SQLITE}{file.resolve()}" if file else uri
    files = (file.resolve().parent if file else Path.cwd()) / "mlflow-artifacts"
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--artifacts-destination", str(files), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with open(log, "wb") as out:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | ALONE | {"MLFLOW_BACKEND_STORE_URI": place},  # a command line is visible to everybody
            start_new_session=True,  # Ctrl-C reaches only us; we end the server
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )


def _end_with_parent() -> None:
    """Runs in the new process: end it when its parent is gone, however that ended."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _wait(process: subprocess.Popen[bytes], server: str, uri: str, log: Path) -> None:
    """Wait until /health answers."""
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{server}/health", timeout=5):
            return
        time.sleep(0.2)
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    message = next((line for line in reversed(lines) if "Error" in line or "Exception" in line), "".join(lines[-1:]))
    how = f"did not answer within {START_S:.0f} s" if process.poll() is None else "ended at once"
    raise EnvironmentProblem(
        f"the MLflow server for {address(uri)} {how}: {message.strip()[:300] or 'it printed nothing'}"
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and its children, even if Ctrl-C is pressed meanwhile."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # children that outlived their parent
