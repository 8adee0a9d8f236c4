"""What reports show of the metrics beside distances: held-out images, copies, the lowest run, names of the field."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.report.comparisons import compare, groups
from orchestrator.report.content import Content, report_content
from orchestrator.report.estimates import chosen, lowest_run
from orchestrator.report.formatting import metric_name
from orchestrator.report.results import Floor, Results
from orchestrator.report.table import Table
from orchestrator.report.terminal import comparison
from tests.orchestrator.synthetic import SWEEP, made

METRICS = "[fid, sfid, kid, inception_score, precision_recall, density_coverage, memorisation, fid_infinity]"
TEXT = SWEEP.replace("[digits, pixels]", "[{name: inception, mode: legacy_tensorflow}, dinov2]").replace(
    "[fid, precision_recall, class_accuracy]", METRICS
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Content]:
    results, store = made(tmp_path_factory.mktemp("made"), TEXT)
    return results, report_content(results, compare(results, store), store, "nagbench run x.yaml")


@pytest.fixture
def tables(results: tuple[Results, Content]) -> tuple[Table, ...]:
    return results[1].arms


def headings(table: Table) -> list[str]:
    return [column.heading for column in table.on_page().columns]


def test_metrics_have_the_names_of_the_field(results: tuple[Results, Content]) -> None:
    names = {metric: metric_name(results[0], metric) for metric in results[0].metrics}
    assert names["fid"] == "FID"
    assert names["fid_dinov2"] == "FD-DINOv2"
    assert names["fid_held_out_dinov2"] == "FD-DINOv2 to held-out images"
    assert names["kid_dinov2"] == "KID (dinov2)"
    assert (names["sfid"], names["inception_score"]) == ("sFID", "Inception Score")
    assert "sfid_dinov2" not in names  # it has no spatial features


def test_the_first_table_compares_and_the_second_does_not(tables: tuple[Table, ...]) -> None:
    first, second, third = tables
    distances = [name for name in headings(first) if name not in ("arm", "setting", "difference")]
    assert distances == ["FID", "sFID", "FID at infinite N", "FD-DINOv2", "FD-DINOv2 at infinite N"]
    assert headings(first).count("difference") == len(distances)
    shown = ("FID to held-out images", "memorisation", "FD-DINOv2 to held-out images", "memorisation (dinov2)")
    assert set(shown) < set(headings(second))
    assert "difference" not in headings(second)
    assert {"KID", "Inception Score", "precision", "coverage (dinov2)", "NFE"} < set(headings(third))
    assert not {name for table in (first, third) for name in headings(table) if "held-out" in name}


def test_the_lowest_run_is_a_column_of_its_own(results: tuple[Results, Content]) -> None:
    second = results[1].arms[1].on_page()
    place = headings(second).index("FID, lowest run")
    plain = groups(results[0], "plain")[0]
    runs = [cell.value("fid") for cell in plain.cells]
    assert lowest_run(plain, "fid") == (min(run for run in runs if run is not None), 3)
    cell = second.rows[0].cells[place]
    assert (cell.text, cell.detail) == (f"{lowest_run(plain, 'fid')[0]:.2f}", "of 3 runs")  # type: ignore[index]
    assert "It flatters" in " ".join(second.notes)


def test_one_run_has_no_lowest(tmp_path: Path) -> None:
    results, store = made(tmp_path, SWEEP.replace("seed: {grid: [0, 1, 2]}", "seed: 0"))
    found = report_content(results, compare(results, store), store, "nagbench run x.yaml").arms
    assert not [name for table in found for name in headings(table) if "lowest" in name]
    assert [name for table in found for name in headings(table) if "held-out" in name]


def test_sample_seeds_are_runs_too(tmp_path: Path) -> None:
    text = SWEEP.replace("seed: {grid: [0, 1, 2]}", "seed: 0").replace(
        "block: 100}", "block: 100, seed: {grid: [0, 1, 2]}}"
    )
    results, _ = made(tmp_path, text)
    found = lowest_run(groups(results, "plain")[0], "fid")
    assert found is not None
    assert found[1] == 3


def test_the_stamp_has_hash_size_resize_and_k(results: tuple[Results, Content]) -> None:
    stamps = results[1].stamps
    assert stamps is not None
    rows = {row.cells[0].text: [cell.text for cell in row.cells] for row in stamps.rows}
    assert rows["precision k 3"][1] == "1,000"
    assert rows["precision k 3"][2].startswith("inception mode legacy_tensorflow weights ")
    assert rows["density k 5"][3].startswith("1,438 images, ")
    content_hash = results[0].cells[0].scores["fid"]["stamp"]["reference_content"]
    assert rows["FID"][3] == f"1,438 images, {content_hash[:12]}"
    assert "Inception Score splits 1" in rows


def test_the_terminal_shows_it_in_eighty_columns(tmp_path: Path) -> None:
    results, store = made(tmp_path, SWEEP)
    out = StringIO()
    for piece in comparison(results, compare(results, store)):
        Console(file=out, width=80, color_system=None).print(piece)
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "To held-out images and the lowest of 3 runs" in " ".join(text.split())
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if "To held-out" in line)
    cells = next(line for line in lines[start:] if line.strip().startswith("plain")).split()
    assert len(cells) == 1 + 2 + 2  # two extractors: to held-out images, and the lowest run


def test_the_floor_is_corrected_to_the_number_of_samples(tmp_path: Path) -> None:
    """0.4 at 359 images, of which 0.15 are bias: at 1,000 samples 359 thousandths of that."""
    results, store = made(tmp_path)
    floor = results.floor_of("fid")
    assert floor is not None
    assert floor.value == pytest.approx(0.25 + 0.15 * 0.359)
    assert floor.words == "N = 359, corrected to 1,000"
    row = report_content(results, compare(results, store), store, "x").arms[0].on_page().rows[-1]
    assert [(cell.text, cell.detail) for cell in row.cells[2:3]] == [("0.304", "N = 359, corrected to 1,000")]
    results.floor["fid"]["extrapolated"] = None
    assert results.floor_of("fid") == Floor(0.4, 359, None)
    for cell in results.cells:
        cell.scores["fid"]["stamp"] = {**cell.scores["fid"]["stamp"], "count": 359}
    assert results.floor_of("fid") == Floor(0.4, 359, None)


def test_what_decides_ranks(tmp_path: Path) -> None:
    """D(N) and its value without bias in N point apart: cfg 2 has the lowest D(N), cfg 1.25 the lowest of the other."""
    results, store = made(tmp_path)
    for cell in results.of("cfg"):
        place = {1.25: 3.0, 1.5: 2.0, 2.0: 1.0}[cell.params["cfg.scale"]]
        seed = 0.01 * float(cell.params["train.seed"])
        cell.scores["fid"]["score"] |= {"value": place + seed, "extrapolated": -place + seed}
    assert chosen(results)["cfg"].params["cfg.scale"] == 1.25
    text = SWEEP.replace("nag: {nag: {scale: {grid: [0.5, 1.0, 2.0, 3.0]}}}", "nag: {nag: {scale: 2.0}, against: cfg}")
    others, store = made(tmp_path / "others", text)
    for cell in others.of("cfg"):
        place = {1.25: 3.0, 1.5: 2.0, 2.0: 1.0}[cell.params["cfg.scale"]]
        cell.scores["fid"]["score"] |= {"value": place, "extrapolated": -place}
    row = next(row for row in compare(others, store) if row.arm == "nag" and row.metric == "fid")
    assert (row.selected, row.against_params["cfg.scale"]) == (True, 1.25)
    for cell in others.of("cfg"):  # not known of all: D(N) of all
        if cell.params["cfg.scale"] == 1.5:
            cell.scores["fid"]["score"] |= {"extrapolated": None}
    row = next(row for row in compare(others, store) if row.arm == "nag" and row.metric == "fid")
    assert row.against_params["cfg.scale"] == 2.0


@pytest.mark.parametrize(
    ("dimension", "count", "few"), [(64, 1000, False), (2048, 50_000, False), (2048, 10_000, True)]
)
def test_too_few_samples_for_a_dimension_are_said(tmp_path: Path, dimension: int, count: int, few: bool) -> None:
    results, store = made(tmp_path, samples=False)
    for cell in results.cells:
        entry = cell.scores["fid"]
        entry["dimension"], entry["stamp"] = dimension, {**entry["stamp"], "count": count}
    said = " ".join(report_content(results, compare(results, store), store, "x").limits)
    assert (
        "N = 10,000 is too small for dimension 2,048: below 27,805 samples the intervals of differences" in said
    ) is few
    assert "its expectation at this N" in said
