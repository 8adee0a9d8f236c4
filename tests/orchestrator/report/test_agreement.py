"""What a report says of several metrics together: their agreement, their mean over extractors, and which one leads."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from nag.intervals import paired_difference
from nag.metrics.colour import Colour
from orchestrator.report.agreement import agreement_table, agreements
from orchestrator.report.comparisons import compare
from orchestrator.report.content import report_content
from orchestrator.report.document import document
from orchestrator.report.estimates import headline_metric
from orchestrator.report.results import Results, collect
from orchestrator.report.verdict_table import tag_text, verdict_table
from orchestrator.report.verdicts import verdicts
from orchestrator.spec.reader import read_sweep
from orchestrator.spec.score_section import deciding_name
from orchestrator.store.arrays import pack
from orchestrator.store.layout import block_name, file_name
from orchestrator.store.store import Store
from orchestrator.tracking.runs import runs
from tests.orchestrator.conftest import Ran, run_here
from tests.orchestrator.made_images import FOLDER, picture_folder, written
from tests.orchestrator.synthetic import SWEEP, made

SEVERAL = "[fid, fd_ratio, cmmd, {name: mind, directions: 8}, vendi, authenticity, fld, colour]"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Store]:
    return made(tmp_path_factory.mktemp("made"), SWEEP)


def test_the_matrix_is_of_the_cells_with_better_turned_upwards(swept: tuple[Results, Store]) -> None:
    results, _ = swept
    known = agreements(results)
    assert known is not None
    assert len(known.cells) == len(results.cells)
    fid, recall = (np.array([cell.value(name) for cell in results.cells]) for name in ("fid", "recall"))
    at = known.metrics.index("fid"), known.metrics.index("recall")
    assert known.found.rho[at] == pytest.approx(spearmanr(-fid, recall).statistic)
    table = agreement_table(results)
    assert table is not None
    row = next(row for row in table.rows if row.cells[0].text == "recall")
    shown = row.cells[1 + at[0]]
    assert float(shown.text.replace("−", "-")) == pytest.approx(known.found.rho[at], abs=0.006)
    assert shown.detail.startswith("[")


def test_it_is_in_report_json_and_mlflow(swept: tuple[Results, Store], tmp_path: Path) -> None:
    results, store = swept
    content = report_content(results, compare(results, store), store, "nagbench run x.yaml")
    assert [section.title for section in content.sections() if section.name == "agreement"] == [
        "Agreement between metrics"
    ]
    found = document(results, store)["agreement"]
    assert found["cells"] == len(results.cells)
    summary = next(run for run in runs(results, store, tmp_path) if run.tags["kind"] == "summary")
    points = {name: value for name, value, _, _ in summary.points}
    i, j = (found["metrics"].index(name) for name in ("fid", "recall"))
    assert points["agreement/fid/recall"] == pytest.approx(found["rho"][j][i], rel=1e-5)
    assert len(points) == len(list(agreements(results).pairs()))  # type: ignore[union-attr]


def test_cells_that_were_measured_otherwise_and_unknown_values_are_left_out(swept: tuple[Results, Store]) -> None:
    results, _ = swept
    cells = [dataclasses.replace(cell, scores=dict(cell.scores)) for cell in results.cells]
    fid = cells[0].scores["fid"]
    cells[0].scores["fid"] = {**fid, "stamp": {**fid["stamp"], "count": 7}}
    cells[1].scores["recall"] = {**cells[1].scores["recall"], "score": {**fid["score"], "value": None}}
    known = agreements(Results(results.plan, cells, {}))
    assert known is not None
    assert "recall" not in known.metrics
    assert len(known.cells) == len(cells) - 1
    assert agreements(Results(results.plan, cells[:2], {})) is None


def test_a_verdict_by_one_metric_only_is_called_so(tmp_path: Path) -> None:
    """FID better, and no other metric: `by FID only`. With precision better too it is not."""
    single = SWEEP.replace("{grid: [1.25, 1.5, 2.0]}", "1.5").replace("{grid: [0.5, 1.0, 2.0, 3.0]}", "2.0")
    single = single.replace("cfg_nag: {cfg: {scale: 1.25}", "cfg_nag: {cfg: {scale: 1.5}")
    results, store = made(tmp_path, single)
    comparisons = compare(results, store)
    nag = next(one for one in verdicts(results, comparisons) if one.group.arm == "nag")
    assert nag.outcome == "better"
    assert not nag.alone
    alone = [row for row in comparisons if row.metric in ("fid", "recall")]
    nag = next(one for one in verdicts(results, alone) if one.group.arm == "nag")
    assert (nag.outcome, nag.alone) == ("better", True)
    assert tag_text(results, nag) == "better than plain by Fréchet distance (digits) only"
    table = verdict_table(results, [nag])
    assert table is not None
    assert "by Fréchet distance (digits) only" in table.rows[0].cells[5].detail


# The mean over extractors, on a real run


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("several")
    picture_folder(folder / "data", each=30)
    features = "[pixels, {name: made_up, of: clip}, colour]"
    text = FOLDER.replace("count: 24", "count: 48").replace(
        "[pixels], metrics: [kid]", f"{features}, metrics: {SEVERAL}"
    )
    text = text.replace("  plain: {}", "  plain: {}\n  nag: {nag: {scale: 0.5}}")
    found = run_here(written(folder, text), folder / "store")
    assert not found.failed
    return found


def test_every_metric_is_scored_and_the_mean_leads(ran: Ran) -> None:
    results = collect(ran.plan, ran.store)
    names = ["fd_ratio", "cmmd", "mind", "vendi", "authenticity", "fld"]
    assert {*names, *(f"{name}_made_up" for name in names), "fd_ratio_mean"} <= {*results.metrics}
    for cell in results.cells:
        each = [cell.value(name) for name in ("fd_ratio", "fd_ratio_made_up")]
        assert None not in each
        assert cell.value("fd_ratio_mean") == pytest.approx(sum(each) / 2)  # type: ignore[arg-type]
    assert results.words("fd_ratio_mean") == "FDr^k, k = 2"
    sweep = read_sweep(ran.plan.sweep.path)
    assert sweep.score is not None
    assert headline_metric(results) == deciding_name(sweep.score) == "fd_ratio_mean"
    assert "fd_ratio" not in results.floor  # held-out images are the unit
    assert "authenticity" in results.floor


def test_contrast_and_saturation_stand_beside_the_cost_and_decide_nothing(ran: Ran) -> None:
    results = collect(ran.plan, ran.store)
    colours = ["contrast_colour", "saturation_colour", "clipped_colour"]
    assert all(results.is_cost(name) for name in colours)
    known = agreements(Results(results.plan, results.cells * 2, {}))
    assert known is not None
    assert not {*known.metrics} & {*colours}
    content = report_content(results, compare(results, ran.store), ran.store, "nagbench run x.yaml")
    headings = [column.heading for column in content.arms[-1].columns]
    assert headings.index("NFE") < headings.index("contrast (colour)") < headings.index("worker time a cell")
    assert any("in units of the reference images' mean" in note for note in content.arms[-1].notes)


def test_the_differences_of_saturation_have_intervals_of_their_own(ran: Ran) -> None:
    """One training seed: the interval is that of a bootstrap over the samples of both cells."""
    rows = {row.metric: row for row in compare(collect(ran.plan, ran.store), ran.store)}
    sides = []
    for cell in ran.plan.cells:
        extract = next(e for e in cell.extracts if ran.plan.tasks[e].params["extractor"]["name"] == "colour")
        blocks = [ran.store.read_arrays(block_name(extract, number))[0]["colour"] for number in range(6)]
        sides.append(np.concatenate(blocks))
    gaps = sides[1] - sides[0]
    rng = np.random.default_rng(0)
    means = [gaps[rng.integers(0, len(gaps), len(gaps))].mean(axis=0) for _ in range(4000)]
    for name, spread, gap in zip(Colour.names, np.std(means, axis=0), gaps.mean(axis=0), strict=True):
        row = rows[f"{name}_colour"]
        assert row.interval == "influence"
        assert row.difference is not None
        assert row.low is not None
        assert row.high is not None
        scale = gap / row.difference  # the reference's mean, or 1 for the share of clipped values
        assert (row.high - row.low) / 2 * abs(scale) == pytest.approx(1.96 * spread, rel=0.06)


def test_the_difference_of_means_is_paired_over_samples(tmp_path: Path) -> None:
    """By the mean of the extractors' influences: its interval is not the mean of their intervals."""
    text = SWEEP.replace("[fid, precision_recall, class_accuracy]", "[fid, fd_ratio]")
    made_up, store = made(tmp_path, text.replace("seed: {grid: [0, 1, 2]}", "seed: 0"), samples=False)
    rng, influences = np.random.default_rng(0), {}
    for cell in made_up.cells:
        for name in ("fd_ratio", "fd_ratio_pixels"):
            influences[id(cell), name] = rng.standard_normal(1000).astype(np.float32)
            entry = cell.scores[name]
            entry["score"] |= {"value": 1 + rng.random(), "extrapolated": 1 + rng.random(), "low": 0.5, "high": 2.5}
            arrays = {"influence": influences[id(cell), name]}
            store.create(file_name(entry["task"], "arrays.safetensors"), pack(arrays, {}))
    results = Results(made_up.plan, made_up.cells, {})
    assert results.cells[0].scores["fd_ratio_mean"]["stamp"]["extractor"]["name"] == "mean of digits, pixels"
    row = next(row for row in compare(results, store) if row.arm == "cfg_nag" and row.metric == "fd_ratio_mean")
    sides = []
    for arm, params in ((row.arm, row.params), (row.against, row.against_params)):
        cell = next(cell for cell in results.of(arm) if params.items() <= cell.params.items())
        both = [
            (cell.value(name, "extrapolated"), influences[id(cell), name]) for name in ("fd_ratio", "fd_ratio_pixels")
        ]
        sides += [np.mean([value for value, _ in both]), (both[0][1] + both[1][1]) / 2]  # type: ignore[list-item]
    assert (row.difference, row.low, row.high) == pytest.approx(paired_difference(*sides))  # type: ignore[arg-type]


def test_without_held_out_images_nothing_starts(tmp_path: Path) -> None:
    from orchestrator.errors import BadInput
    from orchestrator.plan import score_images
    from orchestrator.spec.reader import read_sweep

    picture_folder(tmp_path / "data")
    for metric in ("fd_ratio", "fld"):
        path = written(tmp_path, FOLDER, ", held_out: 0.25", "", "[kid]", f"[kid, {metric}]")
        with pytest.raises(BadInput) as caught:
            read_sweep(path)
        assert str(caught.value) == (
            f"{path}:9: score: '{metric}' needs held-out images, and 'image_folder' has fewer than 2; "
            "give it a split, such as held_out: 0.1."
        )
    with pytest.raises(BadInput, match="--metrics: 'fd_ratio' needs held-out images, and 'image_folder' has fewer"):
        score_images.planned(str(tmp_path / "data" / "a"), str(tmp_path / "data"), ["pixels"], ["fd_ratio"])
