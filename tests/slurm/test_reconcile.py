"""What a reconcile job does once all is done, and where it must not go on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from orchestrator import cluster_commands
from orchestrator.backends.slurm.commands import Absent
from orchestrator.cluster import Campaign, begin
from orchestrator.plan import plan
from orchestrator.report.results import Results
from orchestrator.site import read_site
from orchestrator.spec import read_sweep
from orchestrator.store import Store
from tests.orchestrator.conftest import run_here
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
    return begin(found, Store(str(folder / "store")), site, "none", str(folder / "reports"), None, False)


@pytest.mark.parametrize("tracking", ["http://127.0.0.1:5000", "sqlite:///TMP/mlflow.db", "none"])
def test_a_server_is_brought_up_to_date_and_a_file_is_not_touched(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tracking: str
) -> None:
    tracked: list[str] = []

    def track(results: Results, store: Store, uri: str, pages: Any) -> None:
        assert all(cell.complete for cell in results.cells)
        tracked.append(uri)

    monkeypatch.setattr(cluster_commands, "track", track)
    begun = dataclasses.replace(
        campaign, tracking=tracking.replace("TMP", str(tmp_path)), reports=str(tmp_path / "reports")
    )
    assert cluster_commands.Reconcile(dataclasses.asdict(begun))(0) == 0
    assert tracked == ([tracking] if tracking.startswith("http") else [])
    assert (tmp_path / "reports" / "report.html").exists()
    assert not (tmp_path / "mlflow.db").exists()


def test_it_goes_on_with_what_was_submitted_or_not_at_all(campaign: Campaign, tmp_path: Path) -> None:
    path = Path(campaign.sweep)
    path.write_text(changed(SAMPLES, "count: 40", "count: 80"))  # edited since
    begun = dataclasses.replace(campaign, reports=str(tmp_path / "reports"))
    assert cluster_commands.reconcile(begun) == 0
    changed_since = dataclasses.replace(begun, plan="another")  # such as by weights that were replaced
    assert cluster_commands.reconcile(changed_since) == 2


def test_where_it_cannot_queue_it_reports_all_the_same(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = Path(campaign.sweep)
    path.write_text(changed(SAMPLES, "count: 40", "count: 80"))
    more = plan(read_sweep(path))
    begun = begin(more, Store(campaign.store), read_site(campaign.site), "none", str(tmp_path / "reports"), None, False)
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm is here
    with pytest.raises(Absent, match="there is no such command here"):  # this job fails, so another one tries again
        cluster_commands.reconcile(begun)
    assert (tmp_path / "reports" / "report.html").exists()
