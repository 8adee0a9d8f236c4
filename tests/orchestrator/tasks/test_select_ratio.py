"""A race by a metric that needs held-out images, with so few samples that features are projected."""

from pathlib import Path

from orchestrator.store.layout import record_name
from tests.orchestrator.conftest import run_here
from tests.orchestrator.racing import choice_of, few


def test_a_race_by_fd_ratio_projects_the_held_out_images_too(tmp_path: Path) -> None:
    changes = ("tune: {metric: fid,", "tune: {metric: fd_ratio,", "metrics: [fid]", "metrics: [fid, fd_ratio]")
    (tmp_path / "sweep.yaml").write_text(few(*changes, values="[1, 2]"))
    ran = run_here(tmp_path / "sweep.yaml", tmp_path / "store")
    assert not ran.failed
    choice = choice_of(ran)
    assert choice.chosen
    assert all(trial.values["fd_ratio"] > 0 for trial in choice.trials)
    assert all("fid" in trial.values for trial in choice.trials)
    first = next(task for task in ran.plan.tasks.values() if task.kind == "select" and "candidates" in task.params)
    assert ran.store.exists(record_name("select", first.digest))
