"""What runs, models and the description of a sweep say in MLflow: the numbers of its records."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.report.answer import answer
from orchestrator.report.comparisons import compare, groups
from orchestrator.report.estimates import chosen, estimate
from orchestrator.report.markdown import plain
from orchestrator.report.palette import arm_colours
from orchestrator.store.layout import block_name
from orchestrator.tracking.sync import sync
from orchestrator.tracking.tracker import ARTIFACTS
from tests.orchestrator.conftest import Ran
from tests.orchestrator.tracking.conftest import client, experiment, found, results_of

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


def test_a_noise_shift_is_a_curve(uri: str, finished: Ran) -> None:
    results = results_of(finished)
    results.cells[0] = dataclasses.replace(results.cells[0], shift={"t": [0.75, 0.25], "delta": [0.01, 0.04]})
    sync(results, uri)
    points = client(uri).get_metric_history(found(uri)["plain seed=0"].info.run_id, "noise_shift")
    assert sorted((point.step, point.value) for point in points) == [(250, 0.04), (750, 0.01)]


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


def test_numbers_that_are_none_are_left_out(uri: str, finished: Ran) -> None:
    results = results_of(finished)
    results.cells[0].scores["fid"]["score"]["value"] = float("inf")
    sync(results, uri)
    assert "fid" not in found(uri)["plain seed=0"].data.metrics
    assert "precision" in found(uri)["plain seed=0"].data.metrics


def test_artifacts_are_noted_with_what_they_hold(tracked: str) -> None:
    noted = json.loads(found(tracked)["tiny summary"].data.tags[ARTIFACTS])
    assert noted.keys() == {"figures", "report.html"}
