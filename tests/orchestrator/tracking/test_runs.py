"""MLflow holds what the records say: on a SQLite database and on a real server, whatever was there before."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import EnvironmentProblem
from orchestrator.plan.make import plan
from orchestrator.plan.model import only_arms
from orchestrator.report.results import Results, collect
from orchestrator.spec.reader import read_sweep
from orchestrator.store.layout import block_name
from orchestrator.store.store import Store
from orchestrator.tasks import train
from orchestrator.tasks.checkpoints import training_progress
from orchestrator.tasks.context import Context, Options
from orchestrator.tracking.address import KEY, written_state
from orchestrator.tracking.cell_runs import CellRuns, Rulings
from orchestrator.tracking.sync import follow, sync
from orchestrator.tracking.view import TAG
from tests.orchestrator.conftest import Ran, run_here
from tests.orchestrator.tracking.conftest import ALL, ROOT, client, experiment, found, held, results_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # MLflow's own


def test_trainings_have_their_curves(tracked: str, finished: Ran) -> None:
    digests = [task.digest for task in finished.plan.tasks.values() if task.kind == "train"]
    runs = {run.data.tags["digest"]: run for run in found(tracked).values() if run.data.tags["kind"] == "training"}
    assert runs.keys() == set(digests)
    for digest, run in runs.items():
        record = finished.store.read_record(f"records/train/{digest}.json")
        assert run.info.start_time == round(record["started"] * 1000)
        assert run.info.end_time - run.info.start_time == pytest.approx(record["seconds"] * 1000, abs=1)
        if "loss" in record:
            points = client(tracked).get_metric_history(run.info.run_id, "loss")
            curve = [[step, float(f"{loss:.6g}")] for step, loss in record["loss"]]
            assert [[point.step, point.value] for point in points] == curve
            assert run.info.start_time < points[0].timestamp < points[-1].timestamp <= run.info.end_time
            assert run.data.params.items() >= {"model": "sit", "model.hidden": "16", "train.steps": "8"}.items()
    assert {"training sit seed=0", "training sit seed=1", "training digits"} <= found(tracked).keys()


def test_a_training_shows_its_curves_while_it_runs(uri: str, write: Callable[..., Path], tmp_path: Path) -> None:
    """As far as its newest checkpoint; once it is done, the same run has all of them."""
    planned, store = plan(read_sweep(write("seed: {grid: [0, 1]}", "seed: 0"))), Store(str(tmp_path / "store"))
    store.open()
    (task,) = [each for each in planned.tasks.values() if "train" in each.params]
    live: list[Any] = []

    def training() -> Any:
        sync(collect(planned, store), uri, store)
        (run,) = [run for run in found(uri).values() if run.data.tags["kind"] == "training"]
        return run

    def tell(digest: str, done: int, of: int, loss: float) -> None:
        if done == 7:
            while not training_progress(store, digest):  # a thread writes it
                time.sleep(0.01)
            live.append(training())

    train.run(Context(store, Options(checkpoint_s=0.0), tell=tell), task)
    done = training()
    assert (live[0].info.status, done.info.status) == ("RUNNING", "FINISHED")
    assert live[0].info.run_id == done.info.run_id
    for name in ("loss", "gradient_norm", "images_per_s", "memory_gb", "device_hours"):
        assert live[0].data.metrics[name] > 0, name
    points = client(uri).get_metric_history(done.info.run_id, "loss")
    assert [point.step for point in points] == list(range(1, 9))


def test_the_summary_has_the_report(tracked: str, report: Path) -> None:
    run = found(tracked)["tiny summary"]
    assert run.data.tags.items() >= {"kind": "summary", "cells": "8", "cells_done": "8", "cells_failed": "0"}.items()
    kept = Path(run.info.artifact_uri.removeprefix("file://"))
    files = sorted(path.relative_to(kept) for path in kept.rglob("*") if path.is_file())
    assert files == [Path("figures/fid.svg"), Path("report.html")]
    assert (kept / "report.html").read_bytes() == (report / "report.html").read_bytes()


def test_an_unchanged_sweep_is_left_alone(tracked: str, finished: Ran, report: Path) -> None:
    file = Path(tracked.removeprefix("sqlite:///"))
    before = file.read_bytes(), held(tracked)
    began = time.process_time()
    assert sync(results_of(finished), tracked, finished.store, report) == 0
    assert time.process_time() - began < 1
    assert (file.read_bytes(), held(tracked)) == before


def test_an_unchanged_sweep_needs_no_mlflow(tracked: str, finished: Ran, report: Path) -> None:
    """In a new process, in which it cannot be imported."""
    code = (
        "import sys; sys.modules['mlflow'] = None\n"
        "from pathlib import Path\n"
        "from orchestrator.plan.make import plan\n"
        "from orchestrator.report.results import collect\n"
        "from orchestrator.spec.reader import read_sweep\n"
        "from orchestrator.store.store import Store\n"
        "from orchestrator.tracking.sync import sync\n"
        "store = Store(sys.argv[2])\n"
        "print(sync(collect(plan(read_sweep(sys.argv[1])), store), sys.argv[3], store, Path(sys.argv[4])))\n"
    )
    arguments = [finished.plan.sweep.path, finished.store.root, tracked, str(report)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_a_sweep_comes_in_parts(uri: str, finished: Ran, tracked: str, report: Path) -> None:
    """As during a run: what is there already keeps its run, and in the end it is as if all had been written at once."""
    whole = results_of(finished)
    part = Results(
        whole.plan, [c if i < 3 else dataclasses.replace(c, complete=False) for i, c in enumerate(whole.cells)], {}
    )
    assert sync(part, uri, finished.store) == 3 + 2 + 3 + 1  # cells, settings, trainings, the summary
    early = found(uri)
    assert early["tiny summary"].info.status == "SCHEDULED"
    assert (
        sync(whole, uri, finished.store, report) == ALL - 3 - 1
    )  # not the trainings and `plain`, which has no baseline
    late = found(uri)
    assert all(late[name].info.run_id == run.info.run_id for name, run in early.items())
    assert held(uri) == held(tracked)


def test_a_deleted_database_is_made_again(uri: str, finished: Ran, tracked: str, report: Path) -> None:
    """In one process, as when it is deleted during a run: MLflow keeps the deleted file open."""
    file = Path(uri.removeprefix("sqlite:///"))
    arguments = results_of(finished), uri, finished.store, report
    sync(*arguments)
    for _ in range(2):
        file.unlink()
        assert sync(*arguments) == ALL
        assert held(uri) == held(tracked)
        assert sync(*arguments) == 0


def test_a_run_that_was_removed_comes_back(uri: str, finished: Ran) -> None:
    results = results_of(finished)
    sync(results, uri, finished.store)
    client(uri).delete_run(found(uri)["plain seed=0"].info.run_id)
    assert len(found(uri)) == ALL - 1
    assert sync(results, uri, finished.store) == 1
    assert len(found(uri)) == ALL


@pytest.mark.parametrize(
    ("broken", "at"),
    [
        ("create_run", 2),
        ("log_batch", 2),
        ("log_batch", 5),
        ("set_terminated", 2),
        ("log_artifacts", 2),
        ("set_experiment_tag", 2),
        ("log_outputs", 1),
        ("log_inputs", 5),
        ("create_logged_model", 1),
    ],
)
def test_a_sync_may_be_cut_off_anywhere(
    uri: str, finished: Ran, report: Path, tracked: str, monkeypatch: pytest.MonkeyPatch, broken: str, at: int
) -> None:
    from mlflow import MlflowClient

    right, calls = getattr(MlflowClient, broken), iter(range(1000))

    def once(self: Any, *arguments: Any, **options: Any) -> Any:
        if next(calls) == at:
            raise RuntimeError("cut off")
        return right(self, *arguments, **options)

    monkeypatch.setattr(MlflowClient, broken, once)
    with pytest.raises(EnvironmentProblem, match="RuntimeError: cut off"):
        sync(results_of(finished), uri, finished.store, report)
    sync(results_of(finished), uri, finished.store, report)
    assert held(uri) == held(tracked)


def test_a_failed_cell_says_why_and_when(uri: str, finished: Ran, tmp_path: Path) -> None:
    store = Store(shutil.copytree(finished.store.root, tmp_path / "store").as_posix())
    results = results_of(finished)
    network = finished.plan.tasks[finished.plan.cells[0].stream].params["network"]
    store.create_record(
        f"attempts/{network}/000001.json", {"cause": "not_finite", "reason": "the loss is nan", "time": 1.7e9}
    )
    changes = {"complete": False, "scores": {}, "finished": 0.0, "seconds": None, "reason": "the loss is nan"}
    results.cells[0] = dataclasses.replace(results.cells[0], **changes)  # type: ignore[arg-type]
    sync(results, uri, store)
    run = found(uri)["plain seed=0"]
    assert (run.info.status, run.info.end_time, run.data.tags["reason"]) == (
        "FAILED",
        1_700_000_000_000,
        "the loss is nan",
    )
    sync(results_of(finished), uri, store)  # repaired
    assert found(uri)["plain seed=0"].info.status == "FINISHED"


def test_only_changed_artifacts_are_uploaded(uri: str, finished: Ran, report: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(report, tmp_path / "report")
    results = results_of(finished)
    sync(results, uri, finished.store, folder)
    kept = Path(found(uri)["tiny summary"].info.artifact_uri.removeprefix("file://"))
    os.utime(kept / "figures" / "fid.svg", (1, 1))
    (folder / "report.html").write_text("new")
    assert sync(results, uri, finished.store, folder) == 1
    assert (kept / "report.html").read_text() == "new"
    assert (kept / "figures" / "fid.svg").stat().st_mtime == 1
    assert sync(results, uri, finished.store, folder) == 0


def test_samples_that_were_not_kept_are_left_out(uri: str, finished: Ran, report: Path, tmp_path: Path) -> None:
    store = Store(shutil.copytree(finished.store.root, tmp_path / "store").as_posix())
    for cell in finished.plan.cells:
        store.delete(block_name(cell.stream, 0))
    assert sync(results_of(finished), uri, store, report) == ALL
    assert sync(results_of(finished), uri, store, report) == 0


def test_some_arms_of_a_sweep_leave_its_summary(uri: str, finished: Ran) -> None:
    whole = results_of(finished)
    sync(whole, uri, finished.store)
    part = only_arms(whole.plan, ["nag"])
    assert sync(collect(part, finished.store), uri, finished.store) == 0
    assert found(uri)["tiny summary"].data.tags["cells"] == "8"


def test_runs_that_a_sweep_no_longer_has_are_superseded(
    uri: str, write: Callable[..., Path], finished: Ran, tmp_path: Path
) -> None:
    """After `count` was raised: only the new cells are of the kind `cell`; if it is lowered again, the old ones."""
    store = Store(shutil.copytree(finished.store.root, tmp_path / "store").as_posix())
    results = results_of(finished)
    sync(results, uri, store)
    old = {run.info.run_id for run in found(uri).values() if run.data.tags["kind"] == "cell"}
    more = run_here(write("count: 40", "count: 60"), store.root)
    sync(results_of(more), uri, store)
    cells = [run for run in found(uri).values() if run.data.tags["kind"] == "cell"]
    assert {run.data.params["N"] for run in cells} == {"60"}
    assert not old & {run.info.run_id for run in cells}
    late = [run for run in found(uri).values() if run.data.tags["kind"] == "superseded cell"]
    assert {run.info.run_id for run in late} == old
    assert all(run.info.run_name.endswith(" (superseded)") for run in late)
    sync(results, uri, store)
    assert {run.info.run_id for run in found(uri).values() if run.data.tags["kind"] == "cell"} == old


def test_a_run_of_an_older_nagbench_is_updated(uri: str, finished: Ran) -> None:
    """Fewer params are completed. A param that has another value now cannot be changed, so the run is replaced."""
    results = results_of(finished)
    cells = CellRuns(results, None, Rulings(results, None), grids=False)
    same, other = (cells.run(cell) for cell in results.cells[:2])
    number = client(uri).create_experiment("tiny")
    ids = []
    for run, params in ((same, {"network": "sit"}), (other, {"network": "sit", "setting": "as nag"})):
        ids.append(client(uri).create_run(number, tags={KEY: run.key, "kind": "cell"}).info.run_id)
        for key, value in params.items():
            client(uri).log_param(ids[-1], key, value)
    sync(results, uri, finished.store)
    assert len(found(uri)) == ALL
    assert found(uri)[same.name].info.run_id == ids[0]
    assert found(uri)[same.name].data.params["N"] == "40"
    assert found(uri)[other.name].info.run_id != ids[1]


def test_an_experiment_of_somebody_else_is_refused(uri: str, finished: Ran) -> None:
    number = client(uri).create_experiment("tiny")
    client(uri).create_run(number)
    with pytest.raises(EnvironmentProblem, match=r"an experiment 'tiny' with 1 runs that nagbench did not write"):
        sync(results_of(finished), uri)
    assert len(client(uri).search_runs([number])) == 1


def test_the_view_is_only_an_ornament(uri: str, finished: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    right = MlflowClient.set_experiment_tag

    def refuses(self: Any, number: str, key: str, value: Any) -> None:
        if key == TAG:
            raise MlflowException("this MLflow knows no views")
        right(self, number, key, value)

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuses)
    assert sync(results_of(finished), uri, finished.store) == ALL
    assert TAG not in experiment(uri).tags


def test_two_threads_write_each_run_once(uri: str, finished: Ran) -> None:
    threads = [threading.Thread(target=sync, args=(results_of(finished), uri, finished.store)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found(uri)) == ALL


def test_follow_writes_during_a_run_and_costs_it_nothing(uri: str, finished: Ran) -> None:
    with follow(lambda: results_of(finished), uri, finished.store, every_s=0.05):
        until = time.monotonic() + 120
        while written_state(uri, "tiny") is None and time.monotonic() < until:
            time.sleep(0.05)
    assert written_state(uri, "tiny") is not None
    began = time.monotonic()
    with follow(lambda: results_of(finished), "http://127.0.0.1:9", every_s=0.01):
        time.sleep(0.1)
    assert time.monotonic() - began < 20
