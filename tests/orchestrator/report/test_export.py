"""`export`: all numbers of a sweep in one file, the same bytes every time, and enough to compute an interval again."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nag.intervals import influence_interval
from orchestrator.errors import BadInput, EnvironmentProblem
from orchestrator.report.archive import export
from orchestrator.report.cells_csv import cells_csv
from orchestrator.report.results import collect
from orchestrator.store.store import Store
from orchestrator.tasks.task import BLOCK_KINDS
from tests.orchestrator.conftest import Ran, metrics


@pytest.fixture(scope="module")
def exported(finished: Ran, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("export")
    (folder / "report" / "figures").mkdir(parents=True)
    (folder / "report" / "report.html").write_text("<!doctype html>")
    (folder / "report" / "figures" / "fid.svg").write_text("<svg/>")
    (folder / "report" / ".half").write_text("")
    made = export(finished.plan, finished.store, folder / "out.zip", folder / "report")
    file = zipfile.ZipFile(made.path)
    assert (made.files, made.bytes) == (len(file.namelist()), (folder / "out.zip").stat().st_size)
    return file


def inside(file: zipfile.ZipFile, name: str) -> bytes:
    return file.read(f"tiny/{name}")


def test_everything_of_the_sweep_is_in_it(exported: zipfile.ZipFile, finished: Ran) -> None:
    names = {name.removeprefix("tiny/") for name in exported.namelist()}
    records = {task.record_name for task in finished.plan.tasks.values() if task.kind not in BLOCK_KINDS}
    influences = {f"influence/{cell.digest}.npz" for cell in finished.plan.cells}
    tops = {
        "README.txt",
        "sweep.yaml",
        "plan.json",
        "results.json",
        "cells.csv",
        "report/report.html",
        "report/figures/fid.svg",
    }
    assert names == tops | records | influences
    readme = inside(exported, "README.txt").decode()
    for name in names:
        assert name.partition("/")[0] in readme or name == "README.txt"
    assert "8 of 8 cells are scored" in readme
    assert max(map(len, readme.splitlines())) <= 120


def test_the_numbers_are_those_of_the_report(exported: zipfile.ZipFile, finished: Ran) -> None:
    document = json.loads(inside(exported, "results.json"))
    assert metrics(document) == metrics(finished.document())
    assert inside(exported, "cells.csv").decode() == cells_csv(collect(finished.plan, finished.store))
    assert inside(exported, "sweep.yaml").decode() == finished.plan.sweep.text
    cell = document["cells"][0]
    assert cell["digest"] in inside(exported, "cells.csv").decode()


def test_an_interval_follows_from_the_influences(exported: zipfile.ZipFile, tmp_path: Path) -> None:
    """On pixels, whose rank is above 40, the report gives none; the definition that README.txt gives still holds."""
    cell = json.loads(inside(exported, "results.json"))["cells"][0]
    with np.load(io.BytesIO(inside(exported, f"influence/{cell['digest']}.npz"))) as arrays:
        assert set(arrays) == {"fid", "fid_digits", "fid_held_out", "fid_held_out_digits"}
        for name, array in arrays.items():
            assert array.shape == (40,)
            score = cell["metrics"][name]
            if score["low"] is not None:
                half = 1.96 * array.std(ddof=1) / 40**0.5
                assert (score["low"], score["high"]) == pytest.approx((score["value"] - half, score["value"] + half))
            assert np.isfinite(influence_interval(score["value"], array)).all()


def test_equal_results_are_equal_bytes(exported: zipfile.ZipFile, finished: Ran, tmp_path: Path) -> None:
    """From a copy of the store, at another time."""
    store = Store(shutil.copytree(finished.store.root, tmp_path / "store").as_posix())
    report = Path(str(exported.filename)).parent / "report"
    made = export(finished.plan, store, tmp_path / "again.zip", report)
    assert made.path.read_bytes() == Path(str(exported.filename)).read_bytes()


def test_a_partial_sweep_gives_a_partial_file(finished: Ran, tmp_path: Path) -> None:
    store = Store(shutil.copytree(finished.store.root, tmp_path / "store").as_posix())
    for scored in finished.plan.cells[0].scores:
        store.delete(finished.plan.tasks[scored.task].record_name)
    other = finished.plan.tasks[finished.plan.cells[1].scores[0].task].record_name
    Path(store.path(other)).write_text("{}")  # damaged
    with zipfile.ZipFile(export(finished.plan, store, tmp_path / "out.zip").path) as file:
        assert "6 of 8 cells are scored" in inside(file, "README.txt").decode()
        assert f"tiny/{other}" not in file.namelist()
        assert f"tiny/influence/{finished.plan.cells[0].digest}.npz" not in file.namelist()
        assert len(json.loads(inside(file, "results.json"))["missing"]) == 2
    assert store.list("quarantine") == []


def test_nothing_is_replaced_unless_forced(finished: Ran, tmp_path: Path) -> None:
    target = tmp_path / "out.zip"
    target.write_text("mine")
    with pytest.raises(BadInput, match="exists already"):
        export(finished.plan, finished.store, target)
    assert target.read_text() == "mine"
    export(finished.plan, finished.store, target, force=True)
    assert zipfile.is_zipfile(target)
    assert os.listdir(tmp_path) == ["out.zip"]


def test_what_cannot_be_a_file(finished: Ran, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"is a folder; give the name of the zip file, such as .*tiny\.zip"):
        export(finished.plan, finished.store, tmp_path)
    with pytest.raises(BadInput, match="there is no folder"):
        export(finished.plan, finished.store, tmp_path / "deep" / "out.zip")


def test_a_failure_leaves_nothing_behind(finished: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right, calls = zipfile.ZipFile.writestr, iter(range(1000))

    def full(self: zipfile.ZipFile, *arguments: Any, **options: Any) -> None:
        if next(calls) == 5:
            raise OSError(28, "No space left on device")
        right(self, *arguments, **options)

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(EnvironmentProblem, match="No space left on device"):
        export(finished.plan, finished.store, tmp_path / "out.zip")
    assert os.listdir(tmp_path) == []
