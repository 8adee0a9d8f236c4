"""Sync MLflow with the records: one experiment per sweep, flat runs. Only this folder uses mlflow.

Writing is idempotent: a run is found again by its key (sweep, arm, cell, parameters), all times come from the records,
and a tag holds a digest of each run, so only changes are written. One process writes to a SQLite database at a time,
under a lock file next to it. The database may be deleted; the next run or report creates it again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

from orchestrator.errors import EnvironmentProblem, NagbenchError
from orchestrator.identity import canonical, digest
from orchestrator.report.results import Results
from orchestrator.store.store import Store
from orchestrator.tracking import view
from orchestrator.tracking.address import (
    DEFAULT_URI,
    KEY,
    NONE,
    SQLITE,
    STATE,
    check_address,
    database,
    problem,
    written_state,
)
from orchestrator.tracking.runs import NOTE, Run, runs

ARTIFACTS = "nagbench.artifacts"
VERDICT = "verdict"
POINTS_A_CALL = 900
WAIT_S = 60.0  # for another nagbench at the same database; a first sync of 1,000 cells takes that long
PATIENCE = {  # with a server; the user's own settings stay
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def sync(results: Results, uri: str = DEFAULT_URI, store: Store | None = None, report: Path | None = None) -> int:
    """Bring MLflow up to date and return the number of runs written. May be called at any time, from any thread.

    store: adds the trainings. report: the folder of the report; its files become artifacts of the summary, and the best
    cell of each arm gets a grid of its samples. Raises BadInput for an invalid address, EnvironmentProblem, within
    seconds, for a database or server that cannot be written.
    """
    check_address(uri)
    if uri == NONE:
        return 0
    sweep = results.plan.sweep.name
    wanted = runs(results, store, report)
    seen = view.tag_value(results)
    state = digest([seen, *([run.state, run.folders, run.verdict] for run in wanted)])
    with _alone(uri):
        noted = written_state(uri, sweep)
        if noted is not None and noted.partition(" ")[0] == state:
            return 0
        try:
            return _tracker(uri).write(sweep, wanted, seen, state, noted)
        except NagbenchError:
            raise
        except Exception as error:
            raise problem(uri, error) from error


@contextlib.contextmanager
def follow(take: Callable[[], Results], uri: str, store: Store | None = None, every_s: float = 30.0) -> Iterator[None]:
    """While a sweep runs, sync what `take` collects, repeatedly, in a thread. A failure does not harm the sweep: the
    thread retries, less and less often, and the `sync` after the run reports it.
    """
    over = threading.Event()

    def body() -> None:
        wait = every_s
        while not over.wait(wait):
            try:
                sync(take(), uri, store)
                wait = every_s
            except Exception:  # noqa: BLE001  (no failure of MLflow may end a sweep)
                wait = min(2 * wait, 20 * every_s)

    if uri != NONE:
        threading.Thread(target=body, daemon=True).start()
    try:
        yield
    finally:
        over.set()


_locks: dict[str, threading.Lock] = defaultdict(threading.Lock)


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Admit one thread at a time; for a SQLite database, one process, through a lock file next to it."""
    with _locks[uri], contextlib.ExitStack() as stack:
        file = database(uri)
        if file is not None:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(open(file.with_name(file.name + ".lock"), "w"))
            except OSError as error:
                raise problem(uri, error) from error
            _lock(uri, lock)
        yield


def _lock(uri: str, file: TextIO) -> None:
    until = time.monotonic() + WAIT_S
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > until:
                raise EnvironmentProblem(
                    f"MLflow at {uri}: another nagbench has been writing there for {WAIT_S:.0f} s. "
                    "Run the command again later."
                ) from error
            time.sleep(0.05)
        except OSError as error:  # some network file systems
            raise EnvironmentProblem(
                f"MLflow at {uri}: files cannot be locked there ({error.strerror}). Name a file on another disk with "
                "--tracking."
            ) from error


@dataclass
class KnownRun:
    """A run as MLflow has it."""

    run_id: str
    status: str
    state: str | None
    folders: str | None
    verdict: str | None = None


_trackers: dict[str, tuple[Any, Tracker]] = {}  # by address, with device and inode of a file


def _tracker(uri: str) -> Tracker:
    """The cached connection to an address. A database that was deleted or replaced gets a new one."""
    file = database(uri)
    if file is None:
        if uri not in _trackers:
            _trackers[uri] = None, Tracker(uri, None)
        return _trackers[uri][1]
    if not file.exists():
        _make(file)
    identity = (stat := file.stat()).st_dev, stat.st_ino
    kept = _trackers.get(uri)
    if kept is None or kept[0] != identity:
        # MLflow keeps open files by the spelling of their address, so a new file gets a new spelling: one more slash.
        more = kept[1].spelling + 1 if kept else 0
        address = f"{SQLITE}{'/' * more}{file.resolve()}"
        _trackers[uri] = identity, Tracker(address, file.resolve().parent / f"{file.stem}-artifacts", more)
    return _trackers[uri][1]


def _make(file: Path) -> None:
    """Create a database, whole or not at all: its eight seconds of migrations may be interrupted."""
    for left in file.parent.glob(f"{file.name}.new-*"):
        left.unlink(missing_ok=True)
    temporary = file.with_name(f"{file.name}.new-{uuid.uuid4().hex}").resolve()
    Tracker(f"{SQLITE}{temporary}", None).client.search_experiments(max_results=1)
    temporary.replace(file)


def _no_disk_wait(connection: Any, _: Any) -> None:
    """Let SQLite commit without waiting for the disk, which takes most of the time. A killed process still leaves a
    whole database; one that a power failure damages can be created again.
    """
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


class Tracker:
    """A connection to MLflow, and the known runs of its sweeps. artifacts: their folder; None: on the server."""

    def __init__(self, address: str, artifacts: Path | None, spelling: int = 0) -> None:
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        import logging

        from mlflow import MlflowClient
        from sqlalchemy import Engine, event

        if not event.contains(Engine, "connect", _no_disk_wait):
            event.listen(Engine, "connect", _no_disk_wait)
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # users need not see migrations and tracebacks
        self.client, self.artifacts, self.spelling = MlflowClient(tracking_uri=address), artifacts, spelling
        self.known: dict[str, tuple[str, dict[str, KnownRun]]] = {}  # sweep -> the state that we wrote, its runs by key

    def write(self, sweep: str, wanted: list[Run], seen: str, state: str, noted: str | None) -> int:
        """Write what is missing. noted: what `written_state` returned; it shows whether another process wrote since."""
        experiment = self._experiment(sweep)
        note, known = self.known.pop(sweep, ("", {}))
        if noted is None or noted != note:
            known = self._search(experiment.experiment_id)
        written = 0
        for run in wanted:
            held = known.get(run.key)
            if held is None or (held.state, held.status) != (run.state, run.status):
                known[run.key] = self._put(experiment.experiment_id, run, held)
                written += 1
            else:
                written += self._freshen(run, held)
        self._describe(experiment, wanted, seen)
        note = f"{state} {len(known)}"
        self.client.set_experiment_tag(experiment.experiment_id, STATE, note)
        self.known[sweep] = note, known
        return written

    def _experiment(self, sweep: str) -> Any:
        experiment = self.client.get_experiment_by_name(sweep)
        if experiment is None:
            from mlflow.exceptions import MlflowException

            place = (self.artifacts / sweep).as_uri() if self.artifacts else None
            with contextlib.suppress(MlflowException):  # another process just created it
                self.client.create_experiment(sweep, artifact_location=place)
            experiment = self.client.get_experiment_by_name(sweep)
        elif experiment.lifecycle_stage == "deleted":
            self.client.restore_experiment(experiment.experiment_id)
        if experiment is None:
            raise EnvironmentProblem(f"MLflow does not create the experiment {sweep!r} and gives no reason.")
        return experiment

    def _search(self, experiment: str) -> dict[str, KnownRun]:
        """Our runs of an experiment. Two writers at one server can create a run twice; the second is deleted."""
        known: dict[str, KnownRun] = {}
        token = None
        while True:
            page = self.client.search_runs([experiment], max_results=1000, page_token=token)
            for run in page:
                tags, info = run.data.tags, run.info
                if KEY not in tags:
                    continue
                one = KnownRun(info.run_id, info.status, tags.get(STATE), tags.get(ARTIFACTS), tags.get(VERDICT))
                first, *twins = sorted([one, *filter(None, [known.get(tags[KEY])])], key=lambda each: each.run_id)
                known[tags[KEY]] = first
                for twin in twins:
                    self.client.delete_run(twin.run_id)
            token = page.token
            if not token:
                return known

    def _put(self, experiment: str, run: Run, held: KnownRun | None) -> KnownRun:
        """Write a whole run. Writing it again changes nothing, so this may be interrupted anywhere."""
        from mlflow.entities import Metric, Param, RunTag

        tags = {**run.tags, **({VERDICT: run.verdict} if run.verdict else {})}
        if held is None:
            created = self.client.create_run(
                experiment, start_time=run.start_ms, tags={KEY: run.key, **tags}, run_name=run.name
            )
            held, tags = KnownRun(created.info.run_id, "RUNNING", None, None), {}
        else:
            tags["mlflow.runName"] = run.name
        for first in range(POINTS_A_CALL, len(run.points), POINTS_A_CALL):
            rest = run.points[first : first + POINTS_A_CALL]
            self.client.log_batch(held.run_id, metrics=[Metric(*point) for point in rest])
        self._upload(run, held)
        self.client.log_batch(
            held.run_id,
            metrics=[Metric(*point) for point in run.points[:POINTS_A_CALL]],
            params=[Param(key, value) for key, value in run.params.items()],
            tags=[RunTag(key, value) for key, value in {**tags, STATE: run.state}.items()],
        )
        if run.status != "RUNNING":
            self.client.set_terminated(held.run_id, status=run.status, end_time=run.end_ms)
        return KnownRun(held.run_id, run.status, run.state, held.folders, run.verdict or held.verdict)

    def _freshen(self, run: Run, held: KnownRun) -> bool:
        """Bring a run's artifacts and verdict up to date; whether that was needed."""
        files = bool(run.folders) and held.folders != canonical(run.folders)
        ruled = run.verdict is not None and held.verdict != run.verdict
        if files:
            self._upload(run, held)
        if ruled:
            self.client.set_tag(held.run_id, VERDICT, run.verdict)
            held.verdict = run.verdict
        return files or ruled

    def _upload(self, run: Run, held: KnownRun) -> None:
        """Upload the artifacts that are missing or changed."""
        import json

        there = json.loads(held.folders or "{}")
        changed = {name for name, state in run.folders.items() if there.get(name) != state}
        if not changed:
            return
        with TemporaryDirectory() as folder:
            for path, artifact in run.artifacts.items():
                if path.partition("/")[0] in changed:
                    with contextlib.suppress(FileNotFoundError, ValueError):  # samples that were not kept
                        data = artifact.read()
                        target = Path(folder, path)
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.write_bytes(data)
            self.client.log_artifacts(held.run_id, folder)
        held.folders = canonical(run.folders)
        self.client.set_tag(held.run_id, ARTIFACTS, held.folders)

    def _describe(self, experiment: Any, wanted: list[Run], seen: str) -> None:
        """Tag the experiment with the shared view and the sweep's text. Both are optional: MLflow may refuse them."""
        from mlflow.exceptions import MlflowException

        note = next((run.tags[NOTE] for run in wanted if NOTE in run.tags), "")
        for name, value in {view.TAG: seen, NOTE: note}.items():
            if experiment.tags.get(name) != value:
                with contextlib.suppress(MlflowException):
                    self.client.set_experiment_tag(experiment.experiment_id, name, value)


__all__ = ["DEFAULT_URI", "NONE", "check_address", "follow", "sync"]
