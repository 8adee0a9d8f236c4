"""`nagbench compare`: what is measured alike stands side by side, what is not stays apart, and devices are told."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

from orchestrator.report.comparisons import groups
from orchestrator.report.estimates import estimate
from orchestrator.report.results import Results, collect
from orchestrator.report.side_by_side import Side, as_json, remarks, side_by_side, tables
from tests.orchestrator.conftest import TINY, Ran, changed, nagbench, run_here


def other_sweep(finished: Ran, folder: Path) -> Ran:
    """Another sweep in a copy of the store: one arm more, one less, and fewer samples for one of the metrics."""
    text = changed(TINY, "name: tiny", "name: other", "[1.0, 2.0]", "[1.0]", "  cfg: {cfg: {scale: 1.5}}\n", "")
    (folder / "other.yaml").write_text(text)
    shutil.copytree(finished.store.root, folder / "store")
    return run_here(folder / "other.yaml", folder / "store")


@pytest.fixture(scope="module")
def other(finished: Ran, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return other_sweep(finished, tmp_path_factory.mktemp("other"))


def results_of(ran: Ran) -> Results:
    return collect(ran.plan, ran.store)


def elsewhere(results: Results) -> Results:
    """The results as another device would have recorded them."""
    kind = {"model": "Another CPU", "torch": "9.9.0", "threads": 1}
    return dataclasses.replace(
        results, cells=[dataclasses.replace(cell, kinds_of_device=(kind,)) for cell in results.cells]
    )


def fewer(results: Results) -> Results:
    """The results as if the first metric had been measured with other samples."""
    cells = []
    for cell in results.cells:
        scores = {
            name: {**entry, "stamp": {**entry["stamp"], "count": 20}} if name == "fid" else entry
            for name, entry in cell.scores.items()
        }
        cells.append(dataclasses.replace(cell, scores=scores))
    return dataclasses.replace(results, cells=cells)


def test_what_two_sweeps_share_is_one_row(finished: Ran, other: Ran) -> None:
    sides = [Side("tiny", "a", results_of(finished)), Side("other", "b", results_of(other))]
    measured = side_by_side(sides)
    fid = next(one for one in measured if one.name == "fid")
    assert [(row.arm, row.params.get("nag.scale")) for row in fid.rows] == [
        ("plain", None),
        ("nag", 1.0),
        ("nag", 2.0),
        ("cfg", None),
    ]
    assert [[known is not None for known in row.values] for row in fid.rows] == [
        [True, True],
        [True, True],
        [True, False],
        [True, False],
    ]
    plain = groups(sides[0].results, "plain")[0]
    assert fid.rows[0].values[0] == fid.rows[0].values[1] == estimate(plain, "fid")
    assert fid.rows[0].same
    assert remarks(sides, measured) == []
    assert json.loads(json.dumps(as_json(sides, measured)))["tables"][0]["rows"][0]["same_cells"] is True


def test_unlike_stamps_stay_apart(finished: Ran, other: Ran) -> None:
    sides = [Side("tiny", "a", results_of(finished)), Side("other", "b", fewer(results_of(other)))]
    measured = side_by_side(sides)
    shown = [table for table in tables(sides, measured) if table.title.startswith("Fréchet distance (pixels), N = ")]
    assert sorted(table.title.split(",")[1] for table in shown) == [" N = 20", " N = 40"]
    for table in shown:
        assert len(table.columns) == 2  # the setting, and one sweep
        assert "difference" not in [column.heading for column in table.columns]
    assert any(
        "measured in 2 ways, which differ in N and are not compared" in text for text in remarks(sides, measured)
    )


def test_other_devices_and_versions_are_told(finished: Ran, other: Ran) -> None:
    sides = [Side("tiny", "a", results_of(finished)), Side("other", "b", elsewhere(results_of(other)))]
    (told,) = remarks(sides, side_by_side(sides))
    assert "Sampled on different devices or library versions (tiny: " in told
    assert "; other: Another CPU, torch 9.9.0, threads 1)" in told


def test_the_command(finished: Ran, other: Ran, tmp_path: Path) -> None:
    """By names, from two stores; in every form."""
    store = other.store.root
    both = ("compare", "tiny", "other", "--store", store, "--tracking", "none")
    shown = nagbench(*both)
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"setting +tiny +other +difference", shown.stdout)
    assert "The same cells on all sides: plain and nag." in " ".join(shown.stdout.split())
    page = nagbench(*both, "--format", "markdown")
    assert "| setting | tiny | other | difference |" in page.stdout
    paper = nagbench(*both, "--format", "latex")
    assert r"\begin{tabular}{lrrr}" in paper.stdout
    two = ("compare", "tiny", "tiny", "--store", finished.store.root, "--store", store, "--tracking", "none", "--json")
    document = json.loads(nagbench(*two).stdout)
    assert [side["store"] for side in document["sides"]] == [finished.store.root, store]
    assert document["sides"][0]["name"] == f"tiny ({finished.store.root})"
    assert document["mlflow"] is None
    refused = nagbench("compare", "tiny", "--store", store)
    assert (refused.returncode, "needs two sweeps or more" in refused.stderr) == (2, True)
    many = nagbench("compare", "tiny", "other", *["--store", store] * 3)
    assert (many.returncode, "2 sweeps and 3 stores" in many.stderr) == (2, True)
