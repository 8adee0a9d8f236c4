"""What reports show of the metrics beside distances: held-out images, copies, the lowest run, names of the field."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.report.comparisons import compare, groups
from orchestrator.report.content import Content, content
from orchestrator.report.estimates import lowest
from orchestrator.report.results import Results
from orchestrator.report.settings import Table
from orchestrator.report.terminal import comparison
from orchestrator.report.words import metric_name
from tests.orchestrator.synthetic import SWEEP, made

METRICS = "[fid, sfid, kid, inception_score, precision_recall, density_coverage, memorisation, fid_infinity]"
TEXT = SWEEP.replace("[digits, pixels]", "[{name: inception, mode: legacy_tensorflow}, dinov2]").replace(
    "[fid, precision_recall, class_accuracy]", METRICS
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Content]:
    results, store = made(tmp_path_factory.mktemp("made"), TEXT)
    return results, content(results, compare(results, store), store, "nagbench run x.yaml")


@pytest.fixture
def tables(results: tuple[Results, Content]) -> tuple[Table, ...]:
    return results[1].arms


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
    distances = [name for name in first.columns if name not in ("arm", "setting", "difference")]
    assert distances == ["FID", "sFID", "FID at infinite N", "FD-DINOv2", "FD-DINOv2 at infinite N"]
    assert first.columns.count("difference") == len(distances)
    shown = ("FID to held-out images", "memorisation", "FD-DINOv2 to held-out images", "memorisation (dinov2)")
    assert set(shown) < set(second.columns)
    assert "difference" not in second.columns
    assert {"KID", "Inception Score", "precision", "coverage (dinov2)", "calls"} < set(third.columns)
    assert not {name for table in (first, third) for name in table.columns if "held-out" in name}


def test_the_lowest_run_is_a_column_of_its_own(results: tuple[Results, Content]) -> None:
    second = results[1].arms[1]
    place = second.columns.index("FID, lowest run")
    plain = groups(results[0], "plain")[0]
    runs = [cell.value("fid") for cell in plain.cells]
    assert lowest(plain, "fid") == (min(run for run in runs if run is not None), 3)
    item = second.rows[0][place]
    assert (item.text, item.detail) == (f"{lowest(plain, 'fid')[0]:.2f}", "of 3 runs")  # type: ignore[index]
    assert "It flatters" in " ".join(second.notes)


def test_one_run_has_no_lowest(tmp_path: Path) -> None:
    results, store = made(tmp_path, SWEEP.replace("seed: {grid: [0, 1, 2]}", "seed: 0"))
    found = content(results, compare(results, store), store, "nagbench run x.yaml").arms
    assert not [name for table in found for name in table.columns if "lowest" in name]
    assert [name for table in found for name in table.columns if "held-out" in name]


def test_sample_seeds_are_runs_too(tmp_path: Path) -> None:
    text = SWEEP.replace("seed: {grid: [0, 1, 2]}", "seed: 0").replace(
        "block: 100}", "block: 100, seed: {grid: [0, 1, 2]}}"
    )
    results, _ = made(tmp_path, text)
    found = lowest(groups(results, "plain")[0], "fid")
    assert found is not None
    assert found[1] == 3


def test_the_stamp_has_hash_size_resize_and_k(results: tuple[Results, Content]) -> None:
    stamps = results[1].stamps
    assert stamps is not None
    rows = {row[0].text: [item.text for item in row] for row in stamps.rows}
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
    assert "To held-out images, and the lowest of 3 runs" in " ".join(text.split())
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if "To held-out" in line)
    cells = next(line for line in lines[start:] if line.strip().startswith("plain")).split()
    assert len(cells) == 1 + 2 + 2  # two extractors: to held-out images, and the lowest run
