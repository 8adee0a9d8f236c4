"""A race by a metric that needs held-out images, with so few samples that features are projected."""

from pathlib import Path

import pytest

from orchestrator.errors import BadInput
from orchestrator.spec.reader import read_sweep
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


def test_a_mean_over_extractors_chooses_and_decides(tmp_path: Path) -> None:
    """`tune: {metric: fd_ratio_mean}`, from the sweep to the verdict. No score task computes the mean."""
    changes = ("tune: {metric: fid,", "tune: {metric: fd_ratio_mean,", "metrics: [fid]", "metrics: [fd_ratio, fid]")
    text = few(*changes, "features: [pixels]", "features: [{name: digits, steps: 20}, pixels]", values="[1, 2, 4]")
    text = text.replace("count: 100, block: 50", "count: 200, block: 50")  # above twice the dimension
    (tmp_path / "sweep.yaml").write_text(text)
    ran = run_here(tmp_path / "sweep.yaml", tmp_path / "store")
    assert not ran.failed
    choice = choice_of(ran)
    assert choice.chosen
    assert choice.metric == "fd_ratio_mean"
    assert choice.score.startswith("the mean of fd_ratio of digits")
    first = next(task for task in ran.plan.tasks.values() if task.kind == "select" and "candidates" in task.params)
    assert first.params["extractors"] == ["digits", "pixels"]
    rows = ran.store.read_record(record_name("select", first.digest))["scored"]
    assert len(rows) == 3
    for row in rows:
        each = [row["others"][name] for name in ("fd_ratio", "fd_ratio_pixels")]
        assert row["corrected"] == pytest.approx(sum(each) / 2)
        assert row["others"]["fd_ratio_mean"] == pytest.approx(sum(each) / 2)
    verdict = ran.document()["verdict"]
    assert verdict["metric"] == "fd_ratio_mean"
    assert {row["arm"] for row in verdict["arms"]} == {"nag", "matched"}
    nag = next(row for row in verdict["arms"] if row["arm"] == "nag")
    assert choice.chosen.params == nag["chosen"]
    assert nag["outcome"] in ("better", "worse", "alike", "undecided", "mixed"), nag
    assert nag["low"] < nag["difference"] < nag["high"]


def test_a_mean_of_one_extractor_is_not_known(tmp_path: Path) -> None:
    changes = ("tune: {metric: fid,", "tune: {metric: fd_ratio_mean,", "metrics: [fid]", "metrics: [fd_ratio]")
    (tmp_path / "sweep.yaml").write_text(few(*changes))
    with pytest.raises(BadInput, match=r"tune.metric: unknown metric 'fd_ratio_mean'. Did you mean 'fd_ratio'"):
        read_sweep(tmp_path / "sweep.yaml")
