"""MLflow as a view of the records: one experiment a sweep, one flat run a cell. Only this file imports mlflow.

Writing is idempotent: a run is found again by its key (sweep, arm, cell, parameters), and all times come from the
records. The database may be deleted; the next run or report makes it again. Beside a SQLite database stand a lock
file, so that one process writes at a time, and a note of what was written, so that an unchanged sweep costs nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.errors import EnvironmentProblem
from orchestrator.identity import digest
from orchestrator.report.results import CellResult, Results

DEFAULT_URI = "sqlite:///results/mlflow.db"
SQLITE = "sqlite:///"


def runs(results: Results) -> list[dict[str, Any]]:
    """What MLflow is to hold: a run for each cell that is scored or has failed."""
    found = []
    for cell in results.cells:
        if not cell.complete and cell.reason is None:
            continue
        metrics = {"network_calls": cell.network_calls, "worker_seconds": cell.seconds}
        for name, entry in cell.scores.items():
            score = entry["score"]
            metrics |= {name: score["value"], f"{name}_low": score["low"], f"{name}_high": score["high"]}
        tags = {
            "sweep": results.plan.sweep.name,
            "arm": cell.arm,
            "sampler": str(cell.params.get("sampler")),
            "digest": cell.digest,
            "kind": "cell",
        }
        if cell.reason is not None:
            tags["reason"] = cell.reason
        found.append(
            {
                "key": digest([results.plan.sweep.name, cell.arm, cell.digest, dict(cell.params)]),
                "name": _name(cell),
                "status": "FINISHED" if cell.complete else "FAILED",
                "time_ms": int(cell.finished * 1000),
                "duration_ms": int((cell.seconds or 0) * 1000),
                "params": {key: str(value) for key, value in cell.params.items()},
                "metrics": {key: float(value) for key, value in metrics.items() if value is not None},
                "tags": tags,
            }
        )
    return found


def _name(cell: CellResult) -> str:
    values = [
        f"{k.removesuffix('.scale').split('.')[-1]}={v}"
        for k, v in cell.params.items()
        if k not in ("network", "sampler")
    ]
    return f"{cell.arm} {' '.join(values)}"


def sync(results: Results, uri: str = DEFAULT_URI) -> int:
    """Bring MLflow up to date; the number of runs that were written. Raises EnvironmentProblem if it cannot be
    reached.
    """
    wanted = runs(results)
    fingerprint = digest(wanted)
    with _alone(uri) as note:
        if note is not None and note.current(results.plan.sweep.name, fingerprint):
            return 0
        try:
            written = _write(results.plan.sweep.name, wanted, uri)
        except Exception as error:
            raise EnvironmentProblem(f"MLflow at {uri}: {type(error).__name__}: {error}") from error
        if note is not None:
            note.write(results.plan.sweep.name, fingerprint)
        return written


class Note:
    """What was last written to a SQLite database, by sweep. It counts only for the very file it was written for."""

    def __init__(self, database: Path) -> None:
        self.database, self.path = database, database.with_name(database.name + ".synced.json")

    def _read(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.path.read_text()))
        except (OSError, ValueError):
            return {}

    def _file(self) -> list[int] | None:
        return [(stat := self.database.stat()).st_ino, stat.st_dev] if self.database.exists() else None

    def current(self, sweep: str, fingerprint: str) -> bool:
        return self._file() is not None and self._read().get(sweep) == [fingerprint, self._file()]

    def write(self, sweep: str, fingerprint: str) -> None:
        temporary = self.path.with_name(self.path.name + f".{os.getpid()}")
        temporary.write_text(json.dumps(self._read() | {sweep: [fingerprint, self._file()]}))
        temporary.replace(self.path)


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[Note | None]:
    """Hold the lock beside a SQLite database; a server needs none."""
    if not uri.startswith(SQLITE):
        yield None
        return
    database = Path(uri.removeprefix(SQLITE))
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        lock = open(database.with_name(database.name + ".lock"), "w")  # noqa: SIM115
    except OSError as error:
        raise EnvironmentProblem(f"MLflow at {uri}: {error.strerror}: {error.filename}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Note(database)


def _write(sweep: str, wanted: list[dict[str, Any]], uri: str) -> int:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    import logging

    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)  # its migrations are not the user's business

    client = MlflowClient(tracking_uri=uri)
    experiment = _experiment(client, sweep, uri)
    known = _known(client, experiment)
    for run in wanted:
        run_id, state = known.get(run["key"], (None, None))
        if state == digest(run):
            continue
        if run_id is None:
            tags = {"nagbench.key": run["key"], "mlflow.runName": run["name"]}
            run_id = client.create_run(
                experiment, start_time=run["time_ms"] - run["duration_ms"], tags=tags
            ).info.run_id
        client.log_batch(
            run_id,
            metrics=[Metric(key, value, run["time_ms"], 0) for key, value in run["metrics"].items()],
            params=[Param(key, value) for key, value in run["params"].items()],
            tags=[RunTag(key, value) for key, value in {**run["tags"], "nagbench.state": digest(run)}.items()],
        )
        client.set_terminated(run_id, status=run["status"], end_time=run["time_ms"])
    return sum(known.get(run["key"], (None, None))[1] != digest(run) for run in wanted)


def _experiment(client: Any, sweep: str, uri: str) -> str:
    found = client.get_experiment_by_name(sweep)
    if found is not None and found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    if found is not None:
        return found.experiment_id
    artifacts = None
    if uri.startswith(SQLITE):
        artifacts = (Path(uri.removeprefix(SQLITE)).resolve().parent / "mlflow-artifacts" / sweep).as_uri()
    return client.create_experiment(sweep, artifact_location=artifacts)


def _known(client: Any, experiment: str) -> dict[str, tuple[str, str | None]]:
    """Key -> (run id, digest of what was written to it), of every run of the experiment that is ours."""
    known: dict[str, tuple[str, str | None]] = {}
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        for run in page:
            if "nagbench.key" in run.data.tags:
                known[run.data.tags["nagbench.key"]] = (run.info.run_id, run.data.tags.get("nagbench.state"))
        token = page.token
        if not token:
            return known
