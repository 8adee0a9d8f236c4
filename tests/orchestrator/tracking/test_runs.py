"""MLflow holds what the records say: on a SQLite database and on a real server, whatever was there before."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import EnvironmentProblem
from orchestrator.plan.make import plan
from orchestrator.plan.model import only_arms
from orchestrator.report.answer import answer
from orchestrator.report.comparisons import compare, groups
from orchestrator.report.estimates import chosen, estimate
from orchestrator.report.markdown import plain
from orchestrator.report.palette import arm_colours
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
from orchestrator.tracking.tracker import ARTIFACTS
from orchestrator.tracking.view import TAG
from tests.orchestrator.conftest import Ran, run_here
from tests.orchestrator.tracking.conftest import ALL, ROOT, client, experiment, found, held, results_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # MLflow's own


def test_every_cell_is_a_run(tracked: str, finished: Ran) -> None:
    runs = found(tracked)
    colours = arm_colours(["plain", "nag", "cfg"])
    cells = {run.data.tags["nagbench.key"]: run for run in runs.values() if run.data.tags["kind"] == "cell"}
    assert len(cells) == len(finished.document()["cells"]) == 8
    by_digest = {run.data.tags["digest"]: run for run in cells.values()}
    for cell in finished.document()["cells"]:
        run = by_digest[cell["digest"]]
        assert run.data.params.items() >= {key: str(value) for key, value in cell["params"].items()}.items()
        for name, score in cell["metrics"].items():
            for key, value in {name: score["value"], f"{name}_low": score["low"]}.items():
                rounded = None if value is None else float(f"{value:.6g}")
                assert run.data.metrics.get(key) == rounded
        assert run.data.metrics["NFE"] == cell["network_calls"]
        wanted = {"sweep": "tiny", "arm": cell["arm"], "sampler": "euler", "digest": cell["digest"], "kind": "cell"}
        assert run.data.tags.items() >= wanted.items()
        assert run.data.tags["mlflow.runColor"] == colours[cell["arm"]]
        assert run.info.status == "FINISHED"
    assert {"plain seed=0", "nag 2 seed=1", "cfg 1.5 seed=0"} <= runs.keys()


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

    def tell(digest: str, done: int, of: int) -> None:
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


def test_every_cell_shows_samples_of_the_same_seeds(tracked: str, finished: Ran) -> None:
    from PIL import Image

    for run in found(tracked).values():
        kept = Path(run.info.artifact_uri.removeprefix("file://")) / "samples.png"
        assert kept.exists() == (run.data.tags["kind"] == "cell")
        if kept.exists():
            planned = next(cell for cell in finished.plan.cells if cell.digest == run.data.tags["digest"])
            samples = finished.store.read_arrays(block_name(planned.stream, 0))[0]["samples"]
            sheet = np.asarray(Image.open(io.BytesIO(kept.read_bytes())))
            assert sheet.shape == (3 * 50 + 2, 8 * 50 + 2)  # 20 samples of 8 x 8, six times as large, gaps of 2
            np.testing.assert_array_equal(sheet[2:50:6, 52:100:6], samples[1, 0])


def test_an_unchanged_sweep_is_left_alone(tracked: str, finished: Ran, report: Path) -> None:
    file = Path(tracked.removeprefix("sqlite:///"))
    before = file.read_bytes(), held(tracked)
    began = time.perf_counter()
    assert sync(results_of(finished), tracked, finished.store, report) == 0
    assert time.perf_counter() - began < 1
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


def test_a_noise_shift_is_a_curve(uri: str, finished: Ran) -> None:
    results = results_of(finished)
    results.cells[0] = dataclasses.replace(results.cells[0], shift={"t": [0.75, 0.25], "delta": [0.01, 0.04]})
    sync(results, uri)
    points = client(uri).get_metric_history(found(uri)["plain seed=0"].info.run_id, "noise_shift")
    assert sorted((point.step, point.value) for point in points) == [(250, 0.04), (750, 0.01)]


def test_some_arms_of_a_sweep_leave_its_summary(uri: str, finished: Ran) -> None:
    whole = results_of(finished)
    sync(whole, uri, finished.store)
    part = only_arms(whole.plan, ["nag"])
    assert sync(collect(part, finished.store), uri, finished.store) == 0
    assert found(uri)["tiny summary"].data.tags["cells"] == "8"


def test_a_setting_holds_the_means_and_its_verdict(tracked: str, finished: Ran) -> None:
    results = results_of(finished)
    runs = {run.data.tags["arm"]: run for run in found(tracked).values() if run.data.tags["kind"] == "setting"}
    assert {"plain", "nag 1", "nag 2", "cfg 1.5"} <= found(tracked).keys()
    [group] = groups(results, "cfg")
    known = estimate(group, "fid")
    assert known is not None
    cfg = runs["cfg"].data
    for name, value in (("fid", known.mean), ("fid_low", known.low), ("fid_high", known.high)):
        assert cfg.metrics[name] == pytest.approx(value, rel=1e-5)
    assert cfg.tags["verdict"].startswith("not tested: no interval")


def test_no_run_lacks_an_axis(tracked: str) -> None:
    """Every guidance's scale is a param of every cell and setting, at its off value where it is off."""
    for run in found(tracked).values():
        params = run.data.params
        if run.data.tags["kind"] in ("cell", "setting"):
            assert params.keys() >= {"arm", "setting", "sampling", "task", "N", "nag.scale", "cfg.scale"}
            assert (params["N"], params["task"], params["sampling"]) == ("40", "sit", "euler, 2 steps")
    plain, nag = found(tracked)["plain"].data.params, found(tracked)["nag 2"].data.params
    assert (plain["setting"], plain["nag.scale"], plain["cfg.scale"]) == ("no guidance", "0", "1")
    assert (nag["setting"], float(nag["nag.scale"]), nag["cfg.scale"]) == ("nag 2", 2.0, "1")


def test_a_curve_is_the_distance_against_the_scale(tracked: str, finished: Ran) -> None:
    run = found(tracked)["nag by scale"]
    scales, fids = (
        [point.value for point in sorted(client(tracked).get_metric_history(run.info.run_id, name), key=by_step)]
        for name in ("scale", "fid")
    )
    every = sorted((group.params["nag.scale"], group.mean("fid")) for group in groups(results_of(finished), "nag"))
    assert scales == [1.0, 2.0] == [scale for scale, _ in every]
    assert fids == pytest.approx([mean for _, mean in every], rel=1e-5)
    level = client(tracked).get_metric_history(found(tracked)["plain by scale"].info.run_id, "scale")
    assert sorted(point.value for point in level) == [1.0, 2.0]


def by_step(point: Any) -> int:
    return int(point.step)


def test_networks_are_models_of_their_data(tracked: str, finished: Ran) -> None:
    number = experiment(tracked).experiment_id
    models = {model.name: model for model in client(tracked).search_logged_models([number])}
    assert models.keys() == {"sit seed=0", "sit seed=1", "digits"}
    runs = found(tracked)
    for name, model in models.items():
        training = runs[f"training {name}"]
        assert model.source_run_id == training.info.run_id
        assert [output.model_id for output in training.outputs.model_outputs] == [model.model_id]
        [data] = training.inputs.dataset_inputs
        assert (data.dataset.name, data.tags[0].value) == ("digits", "training")
    cell = client(tracked).get_run(runs["nag 2 seed=1"].info.run_id)  # a search leaves its models out
    assert [used.model_id for used in cell.inputs.model_inputs] == [models["sit seed=1"].model_id]
    [data] = cell.inputs.dataset_inputs
    assert (data.dataset.name, data.tags[0].value) == ("digits", "reference")
    [fid] = [one for one in models["sit seed=1"].metrics if one.key == "fid" and one.run_id == cell.info.run_id]
    assert (fid.value, fid.dataset_name) == (cell.data.metrics["fid"], "digits")


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


def test_the_description_is_the_verdict(tracked: str, finished: Ran) -> None:
    tags = experiment(tracked).tags
    note = tags["mlflow.note.content"]
    results = results_of(finished)
    comparisons = compare(results, finished.store)
    for sentence in answer(results, comparisons, chosen(results)):
        assert plain(sentence) in note
    assert "| arm | setting | against |" in note
    run = found(tracked)["tiny summary"].info
    assert f"(#/experiments/{run.experiment_id}/runs/{run.run_id}/artifacts/report.html)" in note
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert tags["mlflow.experiment.primaryMetric.name"] == "fid"
    assert tags["mlflow.experiment.primaryMetric.greaterIsBetter"] == "false"


def test_an_experiment_of_somebody_else_is_refused(uri: str, finished: Ran) -> None:
    number = client(uri).create_experiment("tiny")
    client(uri).create_run(number)
    with pytest.raises(EnvironmentProblem, match=r"an experiment 'tiny' with 1 runs that nagbench did not write"):
        sync(results_of(finished), uri)
    assert len(client(uri).search_runs([number])) == 1


def test_numbers_that_are_none_are_left_out(uri: str, finished: Ran) -> None:
    results = results_of(finished)
    results.cells[0].scores["fid"]["score"]["value"] = float("inf")
    sync(results, uri)
    assert "fid" not in found(uri)["plain seed=0"].data.metrics
    assert "precision" in found(uri)["plain seed=0"].data.metrics


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
        until = time.monotonic() + 30
        while written_state(uri, "tiny") is None and time.monotonic() < until:
            time.sleep(0.05)
    assert written_state(uri, "tiny") is not None
    began = time.monotonic()
    with follow(lambda: results_of(finished), "http://127.0.0.1:9", every_s=0.01):
        time.sleep(0.1)
    assert time.monotonic() - began < 1


def test_artifacts_are_noted_with_what_they_hold(tracked: str) -> None:
    noted = json.loads(found(tracked)["tiny summary"].data.tags[ARTIFACTS])
    assert noted.keys() == {"figures", "report.html"}
