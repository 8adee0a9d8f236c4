"""A sweep in a database of MLflow, and what a database holds."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.results import Results, collect
from orchestrator.tracking.address import KEY, STATE
from orchestrator.tracking.sync import sync
from orchestrator.tracking.tracker import Tracker
from tests.orchestrator.conftest import Ran

ROOT = Path(__file__).parents[3]
ALL = 8 + 4 + 3 + 3 + 1  # runs of the tiny sweep: cells, settings, curves, trainings, a summary


def results_of(ran: Ran, name: str = "tiny") -> Results:
    """The results of a finished sweep, as those of a sweep of that name."""
    sweep = dataclasses.replace(ran.plan.sweep, name=name)
    return collect(dataclasses.replace(ran.plan, sweep=sweep), ran.store)


def client(uri: str) -> Any:
    return Tracker(uri, None).client


def experiment(uri: str, sweep: str = "tiny") -> Any:
    return client(uri).get_experiment_by_name(sweep)


def found(uri: str, sweep: str = "tiny") -> dict[str, Any]:
    """Name -> run, of all runs there are."""
    page = client(uri).search_runs([experiment(uri, sweep).experiment_id], max_results=1000)
    runs = {run.info.run_name: run for run in page}
    assert len(runs) == len(page), "two runs of one name"
    return runs


def held(uri: str, sweep: str = "tiny") -> dict[str, Any]:
    """All that MLflow holds of a sweep, without the numbers that it gives its runs."""
    all_of = {}
    for name, run in found(uri, sweep).items():
        curves = {
            key: run.data.metrics[key]
            if run.data.tags["kind"] == "setting"  # its means change as seeds come, and MLflow keeps the old ones
            else [
                (point.value, point.timestamp, point.step)
                for point in client(uri).get_metric_history(run.info.run_id, key)
            ]
            for key in run.data.metrics
        }
        tags = {
            key: value
            for key, value in run.data.tags.items()
            if key not in ("sweep", KEY, STATE, "mlflow.note.content", "mlflow.modelHistory")
        }
        times = run.info.start_time, run.info.end_time
        all_of[name] = (run.info.status, times, run.data.params, curves, tags)
    return all_of


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without runs, made once: its migrations take seconds."""
    file = tmp_path_factory.mktemp("empty") / "mlflow.db"
    client(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def uri(empty: Path, tmp_path: Path) -> str:
    shutil.copy(empty, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "figures").mkdir()
    (folder / "figures" / "fid.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder / "report.html").write_text("<!doctype html><title>tiny</title>")
    (folder / ".report.html.half").write_text("being written")
    return folder


@pytest.fixture(scope="session")
def tracked(empty: Path, finished: Ran, report: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The finished sweep, synced once. Nobody may write to it."""
    folder = tmp_path_factory.mktemp("tracked")
    shutil.copy(empty, folder / "mlflow.db")
    uri = f"sqlite:///{folder}/mlflow.db"
    assert sync(results_of(finished), uri, finished.store, report) == ALL
    return uri
