"""`score: {protocol: ...}`: what a published evaluator sets, and one message for what does not fit it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from nag.features.dinov2 import DINOv2
from nag.features.inception import Inception
from nag.metrics.inception_score import InceptionScore
from nag.registry import name_of
from orchestrator.errors import BadInput
from orchestrator.execution.engine import keep_plan
from orchestrator.plan.make import plan
from orchestrator.plan.stored_plan import document as stored_document
from orchestrator.plan.stored_plan import read_plan
from orchestrator.report.document import document
from orchestrator.report.headline import facts
from orchestrator.report.results import collect
from orchestrator.spec.evaluators import EVALUATORS
from orchestrator.spec.model import Sweep
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from tests.orchestrator.made_images import FOLDER, picture_folder, written

SCORE = "{features: [pixels], metrics: [kid]}"
COUNT = "count: 24"


def sweep_of(folder: Path, score: str, *changes: str) -> Sweep:
    if not (folder / "data").exists():
        picture_folder(folder / "data")
    return read_sweep(written(folder, FOLDER, SCORE, score, *changes))


@pytest.mark.parametrize(
    ("name", "extractor", "metrics"),
    [
        ("adm", Inception(mode="legacy_tensorflow"), ["fid", "sfid", "inception_score", "precision_recall"]),
        ("clean_fid", Inception(mode="clean"), ["fid", "kid"]),
        ("dgm_eval", DINOv2(), ["fid", "kid", "precision_recall", "density_coverage"]),
        ("edm", Inception(mode="legacy_tensorflow"), ["fid"]),
        ("pytorch_fid", Inception(mode="legacy_pytorch"), ["fid"]),
        (
            "torch_fidelity",
            Inception(mode="legacy_tensorflow"),
            ["fid", "kid", "inception_score", "precision_recall"],
        ),
    ],
)
def test_a_protocol_is_the_keys_that_it_stands_for(
    name: str, extractor: Inception | DINOv2, metrics: list[str], tmp_path: Path
) -> None:
    changes = (COUNT, "count: 50_000") if name == "edm" else ()
    changes = tuple(change.replace("_", "") for change in changes)
    score = sweep_of(tmp_path, f"{{protocol: {name}}}", *changes).score
    assert score is not None
    assert score.features == (extractor,)
    assert [name_of(metric) for metric in score.metrics] == metrics
    assert score.reference_images == (50_000 if name == "dgm_eval" else None)


def test_a_protocol_makes_the_tasks_of_the_same_keys_written_out(tmp_path: Path) -> None:
    by_name = sweep_of(tmp_path, "{protocol: adm}")
    by_keys = sweep_of(
        tmp_path,
        "{features: [{name: inception, mode: legacy_tensorflow}],"
        " metrics: [fid, sfid, {name: inception_score, splits: 10}, precision_recall]}",
    )
    assert plan(by_name, hashes=False).goals == plan(by_keys, hashes=False).goals


def test_a_plan_keeps_the_name_and_the_report_says_it(tmp_path: Path) -> None:
    made, store = plan(sweep_of(tmp_path, "{protocol: adm}"), hashes=False), Store(str(tmp_path / "store"))
    kept = read_plan(store, keep_plan(made, store))
    assert kept.sweep.protocol == "adm"
    for one in (made, kept):
        results = collect(one, store)
        assert facts(results).endswith(" · protocol adm")
        assert document(results, store)["protocol"] == "adm"
    unnamed = plan(sweep_of(tmp_path, SCORE), hashes=False)
    assert "protocol" not in stored_document(unnamed)["about"]  # plans of before have the same content
    assert "protocol" not in facts(collect(unnamed, store))


def test_weights_may_be_anywhere_and_other_metrics_may_be_chosen(tmp_path: Path) -> None:
    features = "[{name: inception, mode: legacy_tensorflow, weights: mine.pt}]"
    score = sweep_of(tmp_path, f"{{protocol: adm, features: {features}, metrics: [fid, kid]}}").score
    assert score is not None
    assert score.features[0].weights.endswith("mine.pt")
    assert [name_of(metric) for metric in score.metrics] == ["fid", "kid"]
    assert InceptionScore(splits=10) in sweep_of(tmp_path, "{protocol: adm}").score.metrics  # type: ignore[union-attr]


def test_moments_that_name_no_mode_are_of_the_evaluators_own(tmp_path: Path) -> None:
    """EDM's files, unlike clean-fid's, do not say it."""
    for name, moments in (("cifar10-32x32.npz", {"features"}), ("cifar10_clean_train.npz", set())):
        np.savez(tmp_path / name, mu=np.zeros(2048), sigma=np.eye(2048))
        score = f"{{protocol: adm, metrics: [fid], reference: {name}}}"
        if not moments:
            with pytest.raises(BadInput, match=r"they are of inception with mode: clean, not of inception with mode: "):
                sweep_of(tmp_path, score)
            continue
        read = sweep_of(tmp_path, score).score
        assert read is not None
        assert read.reference.usable(read.features[0]) == moments
    with pytest.raises(BadInput, match="of an unknown mode of inception"):
        sweep_of(tmp_path, "{protocol: clean_fid, metrics: [fid], reference: cifar10-32x32.npz}")


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ("{protocol: admm}", "score.protocol: unknown protocol 'admm'. Did you mean 'adm'?"),
        ("{protocol: [adm]}", "score.protocol: expected text, got a list."),
        (
            "{protocol: adm, features: [{name: inception, mode: clean}]}",
            "score.features[0]: protocol 'adm' measures with {name: inception, mode: legacy_tensorflow}; remove it, or "
            "protocol: adm.",
        ),
        (
            "{protocol: clean_fid, features: [inception, pixels]}",
            "score.features[1]: protocol 'clean_fid' measures with {name: inception, mode: clean}; remove it, or",
        ),
        (
            "{protocol: adm, metrics: [fid, {name: precision_recall, k: 5}]}",
            "score.metrics[1]: protocol 'adm' measures precision_recall; remove it, or protocol: adm.",
        ),
        (
            "{protocol: adm, metrics: [{name: inception_score, splits: 1}]}",
            "score.metrics[0]: protocol 'adm' measures {name: inception_score, splits: 10}; remove it, or",
        ),
        (
            "{protocol: adm, reference_rows: 100}",
            "score.reference_rows: protocol 'adm' says which reference images count; remove this key or protocol.",
        ),
        (
            "{protocol: edm}",
            "score.protocol: protocol 'edm' takes exactly 50,000 samples, and arm 'plain' has 24; set sample.count to "
            "50000, or write features: [{name: inception, mode: legacy_tensorflow}] in place of protocol.",
        ),
    ],
)
def test_what_does_not_fit_a_protocol_is_one_message(score: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=rf"sweep\.yaml:9: {re.escape(message)}"):
        sweep_of(tmp_path, score)


def test_dgm_eval_takes_at_most_as_many_samples_as_it_reads(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="protocol 'dgm_eval' takes at most 50,000 samples, and arm 'plain' has 50,008"):
        sweep_of(tmp_path, "{protocol: dgm_eval}", COUNT, "count: 50008")


def test_a_smoke_run_of_few_samples_is_no_conflict(tmp_path: Path) -> None:
    picture_folder(tmp_path / "data")
    path = written(tmp_path, FOLDER, SCORE, "{protocol: edm}", COUNT, "count: 50000")
    assert read_sweep(path, smoke=True).cells[0].sample.count < 50_000


def test_every_evaluator_says_where_it_is_published() -> None:
    assert all(each.source and name == each.name for name, each in EVALUATORS.items())
