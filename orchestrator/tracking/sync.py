"""Sync MLflow with the records: one experiment per sweep, flat runs. Only this folder uses mlflow.

Writing is idempotent: a run is found again by its key (sweep, arm, cell, parameters), all times come from the records,
and a tag holds a digest of each run, so only changes are written. One process writes to a SQLite database at a time,
under a lock file next to it. The database may be deleted; the next run or report creates it again.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from orchestrator.errors import EnvironmentProblem, NagbenchError
from orchestrator.identity import digest
from orchestrator.report.results import Results
from orchestrator.store.store import Store
from orchestrator.tracking import view
from orchestrator.tracking.address import (
    DEFAULT_URI,
    NONE,
    SQLITE,
    check_address,
    database,
    problem,
    written_state,
)
from orchestrator.tracking.runs import tracked
from orchestrator.tracking.tracker import Tracker

CROSSED = re.compile(  # what MLflow says of a run that was just deleted, or written by two at once
    "must be in the 'active' state|UNIQUE constraint|duplicate key|Duplicate entry"
)
CROSSED_WAITS_S = (0.2, 0.5, 1.0, 2.0, 4.0)
WAIT_S = 60.0  # for another nagbench at the same database; a first sync of 1,000 cells takes that long


def sync(results: Results, uri: str = DEFAULT_URI, store: Store | None = None, report: Path | None = None) -> int:
    """Bring MLflow up to date and return the number of runs written. May be called at any time, from any thread.

    store: adds the trainings. report: the folder of the report; its files become artifacts of the summary, and each
    cell gets a grid of its first samples. Raises BadInput for an invalid address, EnvironmentProblem, within seconds,
    for a database or server that cannot be written.
    """
    check_address(uri)
    if uri == NONE:
        return 0
    sweep = results.plan.sweep.name
    wanted = tracked(results, store, report)
    tags = view.experiment_tags(results)
    keys = sorted(wanted.keys) if wanted.keys is not None else None
    state = digest([tags, wanted.description, keys, *([r.state, r.folders, r.ruling] for r in wanted.runs)])
    with _alone(uri):
        noted = written_state(uri, sweep)
        if noted is not None and noted.partition(" ")[0] == state:
            return 0
        return _write(uri, lambda known: _tracker(uri).write(sweep, wanted, tags, state, known), noted)


def _write(uri: str, write: Callable[[str | None], int], noted: str | None) -> int:
    """Write, and again what is still missing if another user at the same server wrote or dropped the same run."""
    for wait_s in (*CROSSED_WAITS_S, None):
        try:
            return write(noted)
        except NagbenchError:
            raise
        except Exception as error:
            if wait_s is None or not CROSSED.search(str(error)):
                raise problem(uri, error) from error
            time.sleep(wait_s)
            noted = None
    raise AssertionError("the last try returns or raises")


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
        place = f"{SQLITE}{'/' * more}{file.resolve()}"
        _trackers[uri] = identity, Tracker(place, file.resolve().parent / f"{file.stem}-artifacts", more)
    return _trackers[uri][1]


def _make(file: Path) -> None:
    """Create a database, whole or not at all: its eight seconds of migrations may be interrupted."""
    for left in file.parent.glob(f"{file.name}.new-*"):
        left.unlink(missing_ok=True)
    temporary = file.with_name(f"{file.name}.new-{uuid.uuid4().hex}").resolve()
    Tracker(f"{SQLITE}{temporary}", None).client.search_experiments(max_results=1)
    temporary.replace(file)


__all__ = ["DEFAULT_URI", "NONE", "check_address", "follow", "sync"]
