"""What a reconcile job does once all is done, and where it must not go on."""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.campaign import Campaign, begin
from orchestrator.backends.site import read_site
from orchestrator.backends.slurm import reconcile as reconciling
from orchestrator.backends.slurm.commands import Unsupported
from orchestrator.execution.engine import keep_plan
from orchestrator.plan.make import plan
from orchestrator.report.results import Results
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from orchestrator.tracking import sync as syncing
from orchestrator.tracking.address import free_port
from orchestrator.tracking.ui import ALONE
from tests.orchestrator.conftest import run_here
from tests.slurm.cluster import wait
from tests.slurm.running import SITE, SMALL, changed

SAMPLES = changed(SMALL, "score: {features: [pixels], metrics: [fid]}\n", "")


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """A sweep that is done, as `submit` would hand it to the job that goes on."""
    folder = tmp_path_factory.mktemp("done")
    (folder / "sweep.yaml").write_text(SAMPLES)
    (folder / "site.yaml").write_text(changed(SITE, "reconcile: manual", "reconcile: job"))
    run_here(folder / "sweep.yaml", folder / "store")
    found, site = plan(read_sweep(folder / "sweep.yaml")), read_site(str(folder / "site.yaml"))
    return begin(found, Store(str(folder / "store")), site, "none", str(folder / "reports"))


@pytest.mark.parametrize("address", ["http://me:hush@127.0.0.1:5000", "https://h/?token=hush", "mysql://me:hush@h/db"])
def test_a_submission_holds_no_secret(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str
) -> None:
    """Neither what is pickled, nor any file that others can read."""
    tracked: list[str] = []
    monkeypatch.setattr(syncing, "sync", lambda results, uri, store, pages: tracked.append(uri))
    site = dataclasses.replace(read_site(campaign.site))
    found, store = plan(read_sweep(campaign.sweep)), Store(campaign.store)
    for _ in range(2):  # again: the file is there already
        begun = begin(found, store, site, address, str(tmp_path / "reports"))
    assert b"hush" not in pickle.dumps(reconciling.Reconcile(dataclasses.asdict(begun)))
    files = [file for file in Path(campaign.store).rglob("*") if file.is_file() and b"hush" in file.read_bytes()]
    assert [file.stat().st_mode & 0o777 for file in files] == ([0o600] if address.startswith("http") else [])
    reconcile = reconciling.Reconcile(dataclasses.asdict(begun))
    assert reconcile(0) == 0
    assert tracked == ([address] if files else [])
    for file in files:
        file.chmod(0o644)  # somebody has opened it to all: what is in it is not trusted
        assert reconcile(0) == 0
        file.unlink()
        assert reconcile(0) == 0
    assert len(tracked) == len(files)


@pytest.mark.parametrize("tracking", ["http://127.0.0.1:5000", "sqlite:///TMP/mlflow.db", "none"])
def test_a_server_is_brought_up_to_date_and_a_file_is_not_touched(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tracking: str
) -> None:
    tracked: list[str] = []

    def sync(results: Results, uri: str, store: Store, pages: Any) -> None:
        assert all(cell.complete for cell in results.cells)
        tracked.append(uri)

    monkeypatch.setattr(syncing, "sync", sync)
    begun = dataclasses.replace(
        campaign, tracking=tracking.replace("TMP", str(tmp_path)), reports=str(tmp_path / "reports")
    )
    assert reconciling.Reconcile(dataclasses.asdict(begun))(0) == 0
    assert tracked == ([tracking] if tracking.startswith("http") else [])
    assert (tmp_path / "reports" / "report.html").exists()
    assert not (tmp_path / "mlflow.db").exists()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A real MLflow server on an empty database."""
    pytest.importorskip("mlflow")
    port = free_port(5100)
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", f"{tmp_path}/files"]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(words, env=os.environ | ALONE, stdout=log, stderr=log, cwd=tmp_path)
    try:
        wait(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200, "up", 120, 0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def test_a_real_server_has_the_cells_and_no_secret(
    campaign: Campaign, server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    secret = "hunter2-of-the-env-file"
    monkeypatch.setenv("NAGBENCH_PASSWORD", secret)  # as env_file puts it there on a node
    begun = dataclasses.replace(campaign, tracking=server, reports=str(tmp_path / "reports"))
    for _ in range(2):  # every wave does it; a run is there once
        assert reconciling.Reconcile(dataclasses.asdict(begun))(0) == 0
    client = MlflowClient(server)
    numbers = [each.experiment_id for each in client.search_experiments() if each.name != "Default"]
    runs = client.search_runs(numbers)
    cells = [run.info.run_name for run in runs if run.data.tags.get("kind") == "cell"]
    assert sorted(cells) == ["nag 1", "plain"]
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert kept == []


def test_it_goes_on_with_what_was_submitted_or_not_at_all(campaign: Campaign, tmp_path: Path) -> None:
    """Neither an edit of the sweep nor a node that does not see the site file stops it."""
    sweep, site = Path(campaign.sweep), Path(campaign.site)
    kept = sweep.read_text(), site.read_text()
    sweep.write_text("edited: {since\n")
    site.unlink()
    try:
        begun = dataclasses.replace(campaign, reports=str(tmp_path / "reports"))
        assert reconciling.reconcile(begun) == 0
        assert (tmp_path / "reports" / "report.html").exists()
        unknown = dataclasses.replace(begun, plan="a" * 32)  # removed from the store
        assert reconciling.reconcile(unknown) == 2
    finally:
        sweep.write_text(kept[0])
        site.write_text(kept[1])


def test_where_it_cannot_queue_it_reports_all_the_same(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = Path(campaign.sweep)
    path.write_text(changed(SAMPLES, "count: 40", "count: 80"))
    more = plan(read_sweep(path))
    keep_plan(more, Store(campaign.store))  # as submit does
    begun = begin(more, Store(campaign.store), read_site(campaign.site), "none", str(tmp_path / "reports"))
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm is here
    # This job fails, so the job that waits for its failure tries again.
    with pytest.raises(Unsupported, match="there is no such command here"):
        reconciling.reconcile(begun)
    assert (tmp_path / "reports" / "report.html").exists()
