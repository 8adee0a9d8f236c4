"""A connection to MLflow that writes the runs of a sweep. Writing again changes nothing, so it may be cut off."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from orchestrator.errors import EnvironmentProblem
from orchestrator.identity import canonical
from orchestrator.tracking.address import KEY, STATE
from orchestrator.tracking.login import in_workspace
from orchestrator.tracking.run import Model, Point, Run
from orchestrator.tracking.runs import NOTE, REPORT, Tracked, summary_key

ARTIFACTS, RULING, VERDICT, KIND = "nagbench.artifacts", "nagbench.ruling", "verdict", "kind"
SUPERSEDED = "superseded "  # before the kind of a run that the sweep no longer has
POINTS_A_CALL = 900
PAGE = 1000
PATIENCE = {  # with a server; the user's own settings stay
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass
class KnownRun:
    """A run as MLflow has it."""

    run_id: str
    status: str
    state: str | None = None
    folders: str | None = None
    ruling: str | None = None
    kind: str = ""
    name: str = ""
    params: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Any) -> KnownRun:
        tags = run.data.tags
        noted = tags.get(STATE), tags.get(ARTIFACTS), tags.get(RULING), tags.get(KIND, "")
        return cls(run.info.run_id, run.info.status, *noted, run.info.run_name, run.data.params)

    @property
    def superseded(self) -> bool:
        return self.kind.startswith(SUPERSEDED)


@dataclass
class Known:
    """What we know of a sweep in MLflow. note: the state that we wrote last; models: ids by key, None if the server
    knows no logged models.
    """

    note: str = ""
    runs: dict[str, KnownRun] = field(default_factory=dict)
    models: dict[str, str] | None = None


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
        self.shared = not address.startswith("sqlite")  # others may write at the same time
        self.known: dict[str, Known] = {}  # by sweep

    def write(self, sweep: str, wanted: Tracked, tags: Mapping[str, str], state: str, noted: str | None) -> int:
        """Write what is missing. tags: of the experiment. noted: what `written_state` returned, which shows whether
        another process wrote since. Returns the number of runs written.
        """
        experiment = self._experiment(sweep)
        known = self.known.pop(sweep, Known())
        if noted is None or noted != known.note:
            known = self._search(experiment, {run.key for run in wanted.runs})
        written = 0
        for run in wanted.runs:
            held = known.runs.get(run.key)
            if held is None or held.superseded or (held.state, held.status) != (run.state, run.status):
                known.runs[run.key] = self._put(experiment.experiment_id, run, held, known.models)
                written += 1
            else:
                written += self._freshen(run, held)
        if written and self.shared:  # another user may have written the same runs at the same time
            known = self._search(experiment)
        if wanted.keys is not None:
            self._supersede(known, wanted.keys)
        note = {NOTE: self._note(experiment, wanted, known)} if wanted.keys is not None else {}
        self._describe(experiment, {**tags, **note})
        known.note = f"{state} {len(known.runs)}"
        self.client.set_experiment_tag(experiment.experiment_id, STATE, known.note)
        self.known[sweep] = known
        return written

    def _experiment(self, sweep: str) -> Any:
        experiment = self.client.get_experiment_by_name(sweep)
        if experiment is None:
            from mlflow.exceptions import MlflowException

            place = (self.artifacts / sweep).as_uri() if self.artifacts else None
            try:
                self.client.create_experiment(sweep, artifact_location=place)
            except MlflowException:  # another process just created it, or we may not
                if (experiment := self.client.get_experiment_by_name(sweep)) is None:
                    raise
            else:
                experiment = self.client.get_experiment_by_name(sweep)
        elif experiment.lifecycle_stage == "deleted":
            self.client.restore_experiment(experiment.experiment_id)
        if experiment is None:
            raise EnvironmentProblem(f"MLflow has created the experiment {sweep!r} and does not find it.")
        return experiment

    def _search(self, experiment: Any, wanted: Collection[str] = ()) -> Known:
        """Our runs of an experiment, and their models. Two writers at one server can create a run twice; the second is
        dropped. A wanted run that a user has deleted is restored, to be written again. Raises EnvironmentProblem if the
        experiment is somebody else's.
        """
        from mlflow.entities import ViewType

        known, others, deleted = Known(), 0, dict[str, KnownRun]()
        search = partial(self.client.search_runs, run_view_type=ViewType.ALL)
        for run in _pages(search, [experiment.experiment_id]):
            key, active = run.data.tags.get(KEY), run.info.lifecycle_stage == "active"
            if key is None:
                others += active
                continue
            if not active:
                deleted[key] = KnownRun.of(run)
                continue
            both = [KnownRun.of(run), *filter(None, [known.runs.get(key)])]
            first, *twins = sorted(both, key=lambda each: each.run_id)
            known.runs[key] = first
            for twin in twins:
                self._drop(twin)
        for key, run in deleted.items():
            if key in wanted and key not in known.runs:
                self.client.restore_run(run.run_id)
                known.runs[key] = replace(run, state=None)
        if others and not known.runs and STATE not in experiment.tags:
            raise EnvironmentProblem(
                f"MLflow has an experiment {experiment.name!r} with {others} runs that nagbench did not write. Rename "
                "the sweep (`name:` in its file), or that experiment."
            )
        known.models = self._models(experiment.experiment_id)
        return known

    def _drop(self, run: KnownRun) -> None:
        """Delete a run that is ours no more. Without its key it is not taken for one that a user has deleted."""
        from mlflow.exceptions import MlflowException

        with contextlib.suppress(MlflowException):  # another writer has dropped it
            self.client.delete_tag(run.run_id, KEY)
            self.client.delete_run(run.run_id)

    def _models(self, experiment: str) -> dict[str, str] | None:
        from mlflow.exceptions import MlflowException

        try:
            models = list(_pages(self.client.search_logged_models, [experiment]))
        except MlflowException as error:
            if error.error_code == "ENDPOINT_NOT_FOUND":  # MLflow 2
                return None
            raise
        return {model.tags[KEY]: model.model_id for model in models if KEY in model.tags}

    def _put(self, experiment: str, run: Run, held: KnownRun | None, models: dict[str, str] | None) -> KnownRun:
        """Write a whole run."""
        from mlflow.entities import Param, RunTag

        if held is not None and any(held.params.get(key, value) != value for key, value in run.params.items()):
            self._drop(held)  # params cannot be changed
            held = None
        tags = {**run.tags, "mlflow.runName": run.name}
        if held is None:
            created = self.client.create_run(
                experiment, start_time=run.start_ms, tags={KEY: run.key, **run.tags}, run_name=run.name
            )
            held, tags = KnownRun(created.info.run_id, "RUNNING"), {}
        model = self._link(experiment, run, held, models)
        for first in range(POINTS_A_CALL, len(run.points), POINTS_A_CALL):
            rest = run.points[first : first + POINTS_A_CALL]
            self.client.log_batch(held.run_id, metrics=_metrics(run, rest, model))
        self._upload(run, held)
        tags |= {VERDICT: run.verdict} if run.verdict else {}
        tags |= {RULING: run.ruling} if run.ruling else {}
        self.client.log_batch(
            held.run_id,
            metrics=_metrics(run, (*run.points[:POINTS_A_CALL], *run.differences), model),
            params=[Param(key, value) for key, value in run.params.items()],
            tags=[RunTag(key, value) for key, value in {**tags, STATE: run.state}.items()],
        )
        if run.status != "RUNNING":
            self.client.set_terminated(held.run_id, status=run.status, end_time=run.end_ms)
        ruling, kind = run.ruling or held.ruling, run.tags.get(KIND, "")
        return KnownRun(held.run_id, run.status, run.state, held.folders, ruling, kind, run.name, run.params)

    def _link(self, experiment: str, run: Run, held: KnownRun, models: dict[str, str] | None) -> str | None:
        """Link a run with its data sets, and with the network that it makes or uses; the id of the latter."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, LoggedModelOutput

        inputs = [
            DatasetInput(
                Dataset(data.name, data.digest, "local", json.dumps({"uri": data.source})),
                [InputTag("mlflow.data.context", data.context)],
            )
            for data in run.data
        ]
        used = models is not None and run.uses and self._model(experiment, run.uses, None, models)
        if inputs or used:
            self.client.log_inputs(held.run_id, inputs, models=[LoggedModelInput(used)] if used else None)
        if models is not None and run.makes and run.status == "FINISHED":
            made = self._model(experiment, run.makes, held.run_id, models)
            outputs = self.client.get_run(held.run_id).outputs
            if not (outputs and outputs.model_outputs):  # MLflow takes it only once
                self.client.log_outputs(held.run_id, [LoggedModelOutput(made, 0)])
        return used or None

    def _model(self, experiment: str, model: Model, run_id: str | None, models: dict[str, str]) -> str:
        """The id of a logged model, which is created if it is missing."""
        from mlflow.entities import LoggedModelStatus

        if model.key not in models:
            created = self.client.create_logged_model(
                experiment, model.name, run_id, {KEY: model.key}, dict(model.params), model.kind
            )
            self.client.finalize_logged_model(created.model_id, LoggedModelStatus.READY)
            models[model.key] = created.model_id
        return models[model.key]

    def _freshen(self, run: Run, held: KnownRun) -> bool:
        """Bring a run's artifacts, verdict and differences up to date; whether that was needed."""
        from mlflow.entities import RunTag

        files = bool(run.folders) and held.folders != canonical(run.folders)
        ruled = run.ruling is not None and held.ruling != run.ruling
        if files:
            self._upload(run, held)
        if run.ruling is not None and ruled:
            tags = {RULING: run.ruling, **({VERDICT: run.verdict} if run.verdict else {})}
            self.client.log_batch(
                held.run_id,
                metrics=_metrics(run, run.differences, None),
                tags=[RunTag(key, value) for key, value in tags.items()],
            )
            held.ruling = run.ruling
        return files or ruled

    def _supersede(self, known: Known, keys: frozenset[str]) -> None:
        """Mark the runs that the sweep no longer has, such as those with fewer samples: their kind hides them. A curve
        holds nothing of its own and goes.
        """
        for key, held in [*known.runs.items()]:
            if key in keys or held.superseded:
                continue
            if held.kind == "curve":
                self._drop(held)
                del known.runs[key]
                continue
            held.kind = SUPERSEDED + held.kind
            self.client.set_tag(held.run_id, KIND, held.kind)
            self.client.set_tag(held.run_id, "mlflow.runName", f"{held.name} (superseded)")

    def _upload(self, run: Run, held: KnownRun) -> None:
        """Upload the artifacts that are missing or changed."""
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

    def _note(self, experiment: Any, wanted: Tracked, known: Known) -> str:
        """The description, with a link to the report if it was uploaded."""
        summary = known.runs.get(summary_key(experiment.name))
        if summary is None or REPORT not in json.loads(summary.folders or "{}"):
            return wanted.description
        place = f"#/experiments/{experiment.experiment_id}/runs/{summary.run_id}/artifacts/{REPORT}"
        return f"{wanted.description}\n\n[The whole report]({in_workspace(place)})"

    def _describe(self, experiment: Any, tags: Mapping[str, str]) -> None:
        """Tag the experiment with what its page shows. All of it is optional: MLflow may refuse it."""
        from mlflow.exceptions import MlflowException

        for name, value in tags.items():
            if experiment.tags.get(name) != value:
                with contextlib.suppress(MlflowException):
                    self.client.set_experiment_tag(experiment.experiment_id, name, value)


def _pages(search: Any, experiments: list[str]) -> Iterator[Any]:
    """All that a search finds."""
    token = None
    while True:
        page = search(experiments, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _metrics(run: Run, points: tuple[Point, ...], model: str | None) -> list[Any]:
    """Points as MLflow takes them; those of a cell hang on its network and on the reference images."""
    from mlflow.entities import Metric

    metrics = []
    for name, value, at, step in points:
        data = run.measured_on.get(name)
        on = {"dataset_name": data.name, "dataset_digest": data.digest} if data else {}
        metrics.append(Metric(name, value, at, step, model_id=model, **on))
    return metrics
