"""`open_sweep`: the numbers of the report as a table, the very samples and features that were scored as arrays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import orchestrator
from orchestrator.errors import BadInput, CorruptFile
from orchestrator.notebook import OpenSweep, open_sweep
from orchestrator.report.cells_csv import cells_csv
from orchestrator.store.layout import block_name
from orchestrator.store.store import Store
from tests.orchestrator.conftest import Ran, run_here

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sweep(finished: Ran) -> OpenSweep:
    return open_sweep(finished.plan.sweep.path, finished.store.root)


@pytest.fixture
def writable(finished: Ran, tmp_path: Path) -> OpenSweep:
    """A copy that a test may damage."""
    return open_sweep(finished.plan.sweep.path, shutil.copytree(finished.store.root, tmp_path / "store"))


def test_the_public_name_costs_nothing_until_it_is_used() -> None:
    code = "import sys, orchestrator; print(sorted(m for m in sys.modules if m.startswith(('orchestrator', 'nag'))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "['orchestrator']\n"
    assert orchestrator.open_sweep is open_sweep
    with pytest.raises(AttributeError, match="has no attribute 'open_swep'"):
        orchestrator.open_swep  # noqa: B018


def test_cells_are_the_report(sweep: OpenSweep, finished: Ran) -> None:
    table = sweep.cells()
    document = finished.document()["cells"]
    assert len(table) == len(document) == 8
    for row, cell in zip(table.to_dict("records"), document, strict=True):
        assert row.items() >= {"arm": cell["arm"], "digest": cell["digest"], **cell["params"]}.items()
        assert row["network_calls"] == cell["network_calls"]
        for name, score in cell["metrics"].items():
            for column, value in {name: score["value"], f"{name}_low": score["low"]}.items():
                np.testing.assert_equal(row[column], float("nan") if value is None else value)
    assert list(table.columns) == cells_csv(sweep.results()).splitlines()[0].split(",")
    assert table["complete"].all()
    assert table["fid"].dtype == float
    assert table[table.arm == "nag"].groupby("nag.scale")["fid"].mean().shape == (2,)


def test_cells_of_a_sweep_that_was_never_run(finished: Ran, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    table = open_sweep(finished.plan.sweep.path, tmp_path / "store").cells()
    assert len(table) == 8
    assert not table["complete"].any()
    assert table["fid"].isna().all()


def test_comparisons_are_the_report(sweep: OpenSweep, finished: Ran) -> None:
    table = sweep.comparisons()
    document = finished.document()
    assert len(table) == len(document["comparisons"]) > 0
    for row, compared in zip(table.to_dict("records"), document["comparisons"], strict=True):
        assert row.items() >= {key: compared[key] for key in ("arm", "against", "metric")}.items()
        for name in ("difference", "low", "high"):
            np.testing.assert_equal(row[name], float("nan") if compared[name] is None else compared[name])


def test_comparisons_have_the_verdict(write: Callable[..., Path], tmp_path: Path) -> None:
    scored = ("features: [pixels, {name: digits, steps: 5}], metrics: [fid, precision_recall, class_accuracy]",)
    ran = run_here(write(*scored, "features: [pixels], metrics: [precision_recall]"), tmp_path / "store")
    table = open_sweep(ran.plan.sweep.path, ran.store.root).comparisons()
    told = {row["arm"]: row for row in ran.document()["verdict"]["arms"]}
    assert told["cfg"]["outcome"] is not None
    decided = table[table["metric"] == "precision"]
    assert decided[decided["arm"] == "nag"]["verdict"].isna().all()  # the best of a grid is not tested
    [row] = decided[decided["arm"] == "cfg"].to_dict("records")
    assert row["verdict"] == told["cfg"]["outcome"]
    assert row["adjusted_low"] == told["cfg"]["adjusted_low"]
    assert table[table["metric"] == "recall"]["verdict"].isna().all()


def test_a_figure_is_that_of_the_report(sweep: OpenSweep, tmp_path: Path) -> None:
    sweep.figure("fid_scale").savefig(tmp_path / "one.pdf")
    assert (tmp_path / "one.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(BadInput, match=r"unknown figure 'fid_scal'.*fid_scale"):
        sweep.figure("fid_scal")


def test_a_sweep_that_was_never_run_compares_nothing(finished: Ran, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    empty = open_sweep(finished.plan.sweep.path, tmp_path / "store")
    assert empty.comparisons().empty
    with pytest.raises(BadInput, match="nothing is scored"):
        empty.figure()


def test_samples_are_the_stored_ones(sweep: OpenSweep, finished: Ran) -> None:
    planned = finished.plan.cells[2]
    stored = np.concatenate([finished.store.read_arrays(block_name(planned.stream, n))[0]["samples"] for n in range(2)])
    samples = sweep.samples(planned.digest)
    assert (samples.shape, samples.dtype) == ((40, 1, 8, 8), np.float32)
    assert samples.min() >= -1
    assert samples.max() <= 1
    np.testing.assert_array_equal(np.round((samples + 1) * 127.5), stored)
    indices = [39, 0, 20, 19, 0]
    np.testing.assert_array_equal(sweep.samples(planned.digest, indices), samples[indices])
    np.testing.assert_array_equal(sweep.samples(planned.digest, np.array(indices)), samples[indices])
    np.testing.assert_array_equal(sweep.samples(planned.digest, range(3)), samples[:3])
    np.testing.assert_array_equal(sweep.samples(planned.digest, 7), samples[7:8])
    assert sweep.samples(planned.digest, []).shape == (0, 1, 8, 8)
    assert sweep.labels(planned.digest, [1, 2]).dtype == np.int64


def test_a_cell_is_named_by_a_row_or_the_start_of_its_digest(sweep: OpenSweep) -> None:
    table = sweep.cells()
    digest = table.digest[3]
    ways: list[Any] = [digest, digest[:10], digest.upper(), table.iloc[3], table.iloc[3].to_dict()]
    ways += [row for row in table.itertuples() if row.Index == 3]
    for way in ways:
        np.testing.assert_array_equal(sweep.samples(way, [5]), sweep.samples(digest, [5]))


def test_features_are_what_was_scored(sweep: OpenSweep, finished: Ran) -> None:
    planned = finished.plan.cells[1]
    for name, task in zip(("pixels", "digits"), planned.extracts, strict=True):
        stored = np.concatenate([finished.store.read_arrays(block_name(task, n))[0]["features"] for n in range(2)])
        np.testing.assert_array_equal(sweep.features(planned.digest, name), stored)
    np.testing.assert_array_equal(sweep.features(planned.digest), sweep.features(planned.digest, "pixels"))


def test_influence_gives_the_interval_of_the_report(sweep: OpenSweep, finished: Ran) -> None:
    cell = next(cell for cell in finished.document()["cells"] if cell["arm"] == "cfg")
    assert sweep.influence(cell["digest"]).shape == (40,)
    assert not np.array_equal(sweep.influence(cell["digest"]), sweep.influence(cell["digest"], "digits"))
    np.testing.assert_array_equal(sweep.influence(cell["digest"], metric="fid"), sweep.influence(cell["digest"]))


def test_only_what_is_kept(writable: OpenSweep) -> None:
    planned = writable.plan.cells[0]
    short = planned.digest[:12]
    for index in (40, -1, 10**15):
        with pytest.raises(IndexError) as caught:
            writable.samples(planned.digest, [0, index])
        assert str(caught.value) == f"index {index} of cell {short} (plain train.seed=0) is not kept; 0 to 39 are."
    writable.store.delete(block_name(planned.stream, 0))
    assert writable.samples(planned.digest, [20]).shape == (1, 1, 8, 8)
    with pytest.raises(IndexError, match="is not kept; blocks 1 of 20 samples are"):
        writable.samples(planned.digest)
    writable.store.delete(block_name(planned.stream, 1))
    with pytest.raises(IndexError, match="nothing of it is kept, or it is not sampled yet"):
        writable.samples(planned.digest, 0)


def test_more_than_the_cell_counts_may_be_kept(finished: Ran, write: Callable[..., Path]) -> None:
    """Blocks are whole: a sweep that counts 30 has 40."""
    sweep = open_sweep(write("count: 40", "count: 30"), finished.store.root)
    digest = sweep.plan.cells[0].digest
    assert sweep.samples(digest).shape[0] == sweep.features(digest).shape[0] == 30
    np.testing.assert_array_equal(
        sweep.samples(digest, [35]),
        open_sweep(finished.plan.sweep.path, finished.store.root).samples(finished.plan.cells[0].digest, 35),
    )


def test_overrides_are_those_of_set(finished: Ran) -> None:
    path, store = finished.plan.sweep.path, finished.store.root
    sweep = open_sweep(path, store, overrides=["sample.count=30"])
    assert sweep.plan.sweep.overrides == ("sample.count=30",)
    assert sweep.samples(sweep.plan.cells[0].digest).shape[0] == 30
    for overrides, words in (
        (["sample.cuont=30"], "--set sample.cuont=30: sample: unknown key 'cuont'"),
        (["sample.count"], "--set sample.count: expected KEY=VALUE, such as networks.sit.train.lr=1e-3."),
        ("sample.count=30", "overrides is a list: open_sweep(..., overrides=['sample.count=30'])."),
    ):
        with pytest.raises(BadInput) as caught:
            open_sweep(path, store, overrides=overrides)
        assert str(caught.value).startswith(words)
    with pytest.raises(BadInput, match=r"--set sample.count=30: tiny is a name in the store, whose values are fixed"):
        open_sweep("tiny", store, overrides=["sample.count=30"])


def test_a_damaged_block_is_left_where_it_is(writable: OpenSweep) -> None:
    planned = writable.plan.cells[0]
    path = Path(writable.store.path(block_name(planned.stream, 0)))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CorruptFile, match="run the sweep again, which makes it again"):
        writable.samples(planned.digest, [0])
    assert path.exists()
    assert Store(writable.store.root).list("quarantine") == []


def test_reading_writes_nothing(writable: OpenSweep) -> None:
    def files() -> list[tuple[Path, int]]:
        return sorted((path, path.stat().st_mtime_ns) for path in Path(writable.store.root).rglob("*"))

    before, digest = files(), writable.plan.cells[0].digest
    writable.cells(), writable.samples(digest), writable.features(digest), writable.influence(digest)
    assert files() == before


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: s.samples("xyz"), "no cell begins with 'xyz'. Known: "),
        (lambda s: s.samples(""), "8 cells begin with ''. They are: "),
        (lambda s: s.samples(3), "a cell is named by its digest or by a row of cells(), not by 3."),
        (lambda s: s.samples(s.plan.cells[0].digest, [0.5]), "indices must be whole numbers"),
        (lambda s: s.samples(s.plan.cells[0].digest, ["a"]), "indices must be whole numbers"),
        (lambda s: s.features(s.plan.cells[0].digest, "pixel"), "unknown extractor 'pixel'. Did you mean 'pixels'?"),
        (lambda s: s.influence(s.plan.cells[0].digest, metric="fdi"), "unknown metric 'fdi'. Did you mean 'fid'?"),
        (
            lambda s: s.influence(s.plan.cells[0].digest, metric="class_accuracy", extractor="digits"),
            "has no influence",
        ),
    ],
)
def test_a_wrong_question(sweep: OpenSweep, call: Callable[[OpenSweep], Any], words: str) -> None:
    with pytest.raises(BadInput) as caught:
        call(sweep)
    assert words in str(caught.value)


def test_the_wrong_folder(finished: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook's current folder is often another one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NAGBENCH_STORE", raising=False)
    with pytest.raises(BadInput, match="there is no store at results/store"):
        open_sweep(finished.plan.sweep.path)
    monkeypatch.setenv("NAGBENCH_STORE", finished.store.root)
    assert len(open_sweep(finished.plan.sweep.path).cells()) == 8
    assert json.loads(Path(finished.store.root, "nagbench.json").read_text())
    assert os.getcwd() == str(tmp_path)
