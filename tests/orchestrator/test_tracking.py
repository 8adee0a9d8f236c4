"""MLflow holds what the records say: on a SQLite database and on a real server, whatever was there before."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import http.server
import io
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import tracking
from orchestrator.errors import BadInput, EnvironmentProblem
from orchestrator.plan import plan
from orchestrator.report.palette import arm_colours
from orchestrator.report.results import Results, collect
from orchestrator.spec import read_sweep
from orchestrator.store import Store
from orchestrator.tasks import Context, Options, block_name, train
from orchestrator.tasks.checkpoints import progress
from orchestrator.tracking import ARTIFACTS, Tracker, address, check, follow, look, sync
from orchestrator.tracking.address import KEY, STATE
from orchestrator.tracking.runs import best_cells
from orchestrator.tracking.ui import Served, ui
from orchestrator.tracking.view import TAG
from tests.orchestrator.conftest import Ran

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # MLflow's own


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
            key: [
                (point.value, point.timestamp, point.step)
                for point in client(uri).get_metric_history(run.info.run_id, key)
            ]
            for key in run.data.metrics
        }
        tags = {
            key: value
            for key, value in run.data.tags.items()
            if key not in ("sweep", KEY, STATE, "mlflow.note.content")
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
    assert sync(results_of(finished), uri, finished.store, report) == 8 + 3 + 1
    return uri


def test_every_cell_is_a_run(tracked: str, finished: Ran) -> None:
    runs = found(tracked)
    colours = arm_colours(["plain", "nag", "cfg"])
    cells = {run.data.tags["nagbench.key"]: run for run in runs.values() if run.data.tags["kind"] == "cell"}
    assert len(cells) == len(finished.document()["cells"]) == 8
    by_place = {(run.data.tags["arm"], json.dumps(run.data.params, sort_keys=True)): run for run in cells.values()}
    for cell in finished.document()["cells"]:
        params = {key: str(value) for key, value in cell["params"].items()}
        run = by_place[cell["arm"], json.dumps(params, sort_keys=True)]
        for name, score in cell["metrics"].items():
            for key, value in {name: score["value"], f"{name}_low": score["low"]}.items():
                rounded = None if value is None else float(f"{value:.6g}")
                assert run.data.metrics.get(key) == rounded
        assert run.data.metrics["network_calls"] == cell["network_calls"]
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
            while not progress(store, digest):  # a thread writes it
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


def test_the_best_cell_of_each_arm_shows_its_samples(tracked: str, finished: Ran) -> None:
    from PIL import Image

    runs = found(tracked)
    results = results_of(finished)
    best = {cell.digest for cell in best_cells(results)}
    assert len(best) == 3
    for arm in ("plain", "nag", "cfg"):
        fids = {cell.digest: cell.value("fid") for cell in results.of(arm)}
        assert min(fids, key=lambda digest: fids[digest] or 0.0) in best
    for run in runs.values():
        kept = Path(run.info.artifact_uri.removeprefix("file://")) / "samples.png"
        assert kept.exists() == (run.data.tags.get("digest") in best)
        if kept.exists():
            planned = next(cell for cell in finished.plan.cells if cell.digest == run.data.tags["digest"])
            samples = finished.store.read_arrays(block_name(planned.stream, 0))[0]["samples"]
            sheet = np.asarray(Image.open(io.BytesIO(kept.read_bytes())))
            assert sheet.shape == (5 * 50 + 2, 8 * 50 + 2)  # 40 samples of 8 x 8, six times as large, gaps of 2
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
        "from orchestrator.plan import plan\n"
        "from orchestrator.report.results import collect\n"
        "from orchestrator.spec import read_sweep\n"
        "from orchestrator.store import Store\n"
        "from orchestrator.tracking import sync\n"
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
    assert sync(part, uri, finished.store) == 3 + 3 + 1
    early = found(uri)
    assert early["tiny summary"].info.status == "SCHEDULED"
    again = sum(cell in best_cells(whole) for cell in whole.cells[:3])  # they get the grid of their samples now
    assert sync(whole, uri, finished.store, report) == 5 + again + 1
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
        assert sync(*arguments) == 12
        assert held(uri) == held(tracked)
        assert sync(*arguments) == 0


def test_a_run_that_was_removed_comes_back(uri: str, finished: Ran) -> None:
    results = results_of(finished)
    sync(results, uri, finished.store)
    client(uri).delete_run(found(uri)["plain seed=0"].info.run_id)
    assert len(found(uri)) == 11
    assert sync(results, uri, finished.store) == 1
    assert len(found(uri)) == 12


@pytest.mark.parametrize("broken", ["create_run", "log_batch", "set_terminated", "log_artifacts", "set_experiment_tag"])
def test_a_sync_may_be_cut_off_anywhere(
    uri: str, finished: Ran, report: Path, tracked: str, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    from mlflow import MlflowClient

    right, calls = getattr(MlflowClient, broken), iter(range(1000))

    def once(self: Any, *arguments: Any, **options: Any) -> Any:
        if next(calls) == 2:
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
    store.create_record(f"attempts/{network}/000001.json", {"reason": "the loss is nan", "time": 1.7e9})
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
    assert sync(results_of(finished), uri, store, report) == 12
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
    part = dataclasses.replace(whole.plan, cells=tuple(c for c in whole.plan.cells if c.cell.arm == "nag"))
    assert sync(collect(part, finished.store), uri, finished.store) == 0
    assert found(uri)["tiny summary"].data.tags["cells"] == "8"


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
    assert sync(results_of(finished), uri, finished.store) == 12
    assert TAG not in experiment(uri).tags


def test_two_threads_write_each_run_once(uri: str, finished: Ran) -> None:
    threads = [threading.Thread(target=sync, args=(results_of(finished), uri, finished.store)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found(uri)) == 12


def test_follow_writes_during_a_run_and_costs_it_nothing(uri: str, finished: Ran) -> None:
    with follow(lambda: results_of(finished), uri, finished.store, every_s=0.05):
        until = time.monotonic() + 30
        while look(uri, "tiny") is None and time.monotonic() < until:
            time.sleep(0.05)
    assert look(uri, "tiny") is not None
    began = time.monotonic()
    with follow(lambda: results_of(finished), "http://127.0.0.1:9", every_s=0.01):
        time.sleep(0.1)
    assert time.monotonic() - began < 1


# Addresses and what is there.


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("htp://127.0.0.1:5000", "unknown scheme 'htp'. Did you mean 'http'?"),
        ("mlruns", "is a folder or a word; MLflow keeps no runs in folders. Write sqlite:///results/mlflow.db"),
        ("file:///tmp/mlruns", "MLflow keeps no runs in folders"),
        ("sqlite://mlflow.db", "names no file; a SQLite address has three slashes"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("http://", "there is no host, or a port that is no number"),
        ("http://me:secret@host:port", "'http://***@host:port': there is no host, or a port that is no number"),
    ],
)
def test_a_wrong_address_is_bad_input(uri: str, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        check(uri)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["none", "sqlite:///x.db", "https://me:pw@host/mlflow", "postgresql+psycopg2://u:p@h/db"]
)
def test_a_right_address_passes(uri: str) -> None:
    check(uri)


def said(results: Results, uri: str) -> str:
    began = time.monotonic()
    with pytest.raises((EnvironmentProblem, BadInput)) as caught:
        sync(results, uri)
    assert time.monotonic() - began < 10
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(uri: str, statement: str, *values: str) -> None:
    with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as db:
        db.execute(statement, values)
        db.commit()


def test_a_database_of_another_mlflow(uri: str, finished: Ran) -> None:
    change(uri, "UPDATE alembic_version SET version_num = ?", "ffffffffffff")
    assert "was made by a newer MLflow than the 3." in said(results_of(finished), uri)
    change(uri, "UPDATE alembic_version SET version_num = ?", "451aebb31d03")  # of 2019
    assert f"made by an older MLflow. Run: mlflow db upgrade {uri}" in said(results_of(finished), uri)


def test_a_locked_database(uri: str, finished: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "LOCK_S", 0.2)
    with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "the database is locked by another program" in said(results_of(finished), uri)
    assert sync(results_of(finished), uri) > 0


def test_another_nagbench_at_work(uri: str, finished: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "WAIT_S", 0.2)
    with open(uri.removeprefix("sqlite:///") + ".lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "another nagbench has been writing there for" in said(results_of(finished), uri)
    assert sync(results_of(finished), uri) > 0


def test_a_file_that_is_no_database(finished: Ran, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, but long enough to be read as the header of one" * 10)
    assert "is no database, or is damaged" in said(results_of(finished), f"sqlite:///{tmp_path}/text.db")
    assert "cannot be opened" in said(results_of(finished), f"sqlite:///{tmp_path}")
    change(f"sqlite:///{tmp_path}/other.db", "CREATE TABLE accounts (name TEXT)")
    assert "a database of something else" in said(results_of(finished), f"sqlite:///{tmp_path}/other.db")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not write")
def test_a_read_only_database(empty: Path, finished: Ran) -> None:
    import tempfile

    results = results_of(finished)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        shutil.copy(empty, f"{folder}/mlflow.db")
        os.seteuid(65534)
        try:
            locked_out = said(results, f"sqlite:///{folder}/mlflow.db")
            nowhere = said(results, f"sqlite:///{folder}/deep/mlflow.db")
        finally:
            os.seteuid(0)
    assert all("cannot be opened or made. Check the path and its permissions" in text for text in (locked_out, nowhere))


@contextlib.contextmanager
def answering(status: int, body: str = "") -> Iterator[str]:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_that_is_not_there(finished: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    results = results_of(finished)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        refused = said(results, f"http://user:secret@127.0.0.1:{nobody.getsockname()[1]}")
    assert "//***@127.0.0.1" in refused
    assert "nothing listens there. Start the server, or use --tracking none." in refused
    assert "no host of this name" in said(results, "http://nowhere.invalid:5000")
    monkeypatch.setattr(address, "ANSWER_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection and never says a word
        assert "no answer within 1 s" in said(results, f"http://127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, "", "refuses (HTTP 401). Set MLFLOW_TRACKING_USERNAME"),
        (403, "DNS rebinding", "refuses (HTTP 403)"),
        (404, "<html>", "answers HTTP 404; it may be no MLflow server"),
        (200, "<html>", "what answers there is no MLflow server"),
    ],
)
def test_a_server_that_refuses(finished: Ran, status: int, body: str, words: str) -> None:
    with answering(status, body) as uri:
        assert words in said(results_of(finished), uri)


# A real server.


@pytest.fixture(scope="session")
def served(empty: Path, finished: Ran, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    """`nagbench ui` of a database with the sweep, where the first port is taken; and the database's address."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copy(empty, folder / "mlflow.db")
    uri = f"sqlite:///{folder}/mlflow.db"
    sync(results_of(finished), uri, finished.store)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with ui("tiny", uri, port) as found:
            assert (found.moved, found.port != port) == (True, True)
            yield found, uri
    assert found.process is not None
    assert group(found.process.pid) == []


def group(leader: int) -> list[int]:
    """The processes of a group that are alive."""
    alive = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = place.read_text().rpartition(")")[2].split()
            if int(fields[2]) == leader and fields[0] != "Z":
                alive.append(int(place.parent.name))
    return alive


def test_ui_serves_the_runs_with_two_processes(served: tuple[Served, str]) -> None:
    found, uri = served
    assert found.process is not None
    assert len(group(found.process.pid)) == 2
    number = experiment(uri).experiment_id
    assert (
        found.link
        == f"http://127.0.0.1:{found.port}/#/experiments/{number}/runs?viewStateShareKey=nagbench&compareRunsMode=CHART"
    )
    with urllib.request.urlopen(f"http://127.0.0.1:{found.port}/health", timeout=10) as answer:
        assert answer.status == 200


def test_a_server_holds_the_same(served: tuple[Served, str], finished: Ran, report: Path, tracked: str) -> None:
    """Another sweep, written over HTTP: all as in a database, artifacts too."""
    server = f"http://127.0.0.1:{served[0].port}"
    results = results_of(finished, "remote")
    assert sync(results, server, finished.store, report) == 12
    ours, theirs = held(server, "remote"), held(tracked)
    ours["tiny summary"] = ours.pop("remote summary")
    names = {name: run[:4] for name, run in ours.items()}
    assert names == {name: run[:4] for name, run in theirs.items()}
    run = found(server, "remote")["remote summary"]
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    assert [entry.path for entry in client(server).list_artifacts(run.info.run_id)] == ["figures", "report.html"]
    began = time.perf_counter()
    assert sync(results, server, finished.store, report) == 0
    assert time.perf_counter() - began < 1


def test_twins_are_made_one(served: tuple[Served, str], finished: Ran) -> None:
    """Two engines on two machines, one server: both write a run of one key; the next sync keeps one of them."""
    server = f"http://127.0.0.1:{served[0].port}"
    results = results_of(finished, "twins")
    sync(results, server, finished.store)
    number = experiment(server, "twins").experiment_id
    key = found(server, "twins")["plain seed=0"].data.tags[KEY]
    client(server).create_run(number, tags={KEY: key}, run_name="twin")
    client(server).set_experiment_tag(number, STATE, "another process was here")
    sync(results, server, finished.store)
    assert len(found(server, "twins")) == 12


def test_the_link_opens_on_the_cells(served: tuple[Served, str]) -> None:
    """In a real browser: the cells and only they, sorted, with the charts of the view."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if (browser := shutil.which("chromium")) is None:
        pytest.skip("no chromium")
    with sync_api.sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page()
        page.goto(served[0].link)
        page.get_by_text("matching runs").wait_for(timeout=60_000)
        page.get_by_text("network_calls").first.wait_for(timeout=60_000)
        page.get_by_text("8 matching runs").wait_for(timeout=60_000)
        text = page.inner_text("body")
    assert "Sort: fid" in text
    assert "training" not in text.lower().replace("training runs", "").replace("model training", "")


def test_ui_without_runs(uri: str) -> None:
    with pytest.raises(EnvironmentProblem, match=r"has no runs of 'tiny' yet. Run the sweep first."), ui("tiny", uri):
        pass


def test_ui_of_a_server_is_a_link_into_it(served: tuple[Served, str]) -> None:
    server = f"http://127.0.0.1:{served[0].port}"
    with ui("tiny", server) as found:
        assert (found.link, found.process) == (served[0].link, None)


def test_the_server_goes_with_a_killed_ui(served: tuple[Served, str], tmp_path: Path) -> None:
    """SIGKILL, which nobody can catch, once both processes of the server are there."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "from orchestrator.tracking.ui import _start\n"
        "from orchestrator.tracking.address import free_port\n"
        "print(_start(sys.argv[1], free_port(5700), Path(sys.argv[2])).pid, flush=True); time.sleep(60)\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code, served[1], str(tmp_path / "log")], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert starter.stdout is not None
    with starter.stdout as out:
        leader = int(out.readline())
    wait_for(lambda: len(group(leader)) == 2)
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    wait_for(lambda: group(leader) == [])


def wait_for(condition: Callable[[], bool], seconds: float = 40.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_artifacts_are_noted_with_what_they_hold(tracked: str) -> None:
    noted = json.loads(found(tracked)["tiny summary"].data.tags[ARTIFACTS])
    assert noted.keys() == {"figures", "report.html"}
