"""A sweep by its name in a store: without its YAML, and without the user's own code, everything is told the same."""

from __future__ import annotations

import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import BadInput, CorruptFile
from orchestrator.execution.engine import keep_plan
from orchestrator.identity import canonical, checksum
from orchestrator.notebook import open_sweep
from orchestrator.plan.make import plan
from orchestrator.plan.model import StoredPlan, only_arms
from orchestrator.plan.stored_plan import document as document_of
from orchestrator.plan.stored_plan import plan_checksum, plan_of_sweep, read_plan
from orchestrator.report.archive import export
from orchestrator.report.comparisons import compare
from orchestrator.report.document import document
from orchestrator.report.results import collect
from orchestrator.report.write import write_report
from orchestrator.spec import user_code
from orchestrator.spec.reader import read_sweep
from orchestrator.store.layout import plan_name
from orchestrator.store.store import Store
from orchestrator.tracking.runs import runs
from orchestrator.tracking.view import experiment_tags
from tests.orchestrator.conftest import TINY, Ran, changed, command, metrics, nagbench, run_here
from tests.orchestrator.users_files import FILES, laid_out

MEASURED = changed(
    TINY,
    "sampler:",
    """\
  meter:
    data: {name: digits}
    model: {name: noise_level, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 4, batch: 16, lr: 1e-3}
measure: {name: noise_shift, estimator: meter, count: 20, levels: 4}
sampler:""",
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("measured")
    (folder / "sweep.yaml").write_text(MEASURED)
    return run_here(folder / "sweep.yaml", folder / "store")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("own")
    return run_here(laid_out(folder / "sweeps", FILES), folder / "store")


@pytest.fixture(params=["measured", "own"])
def ran(request: pytest.FixtureRequest) -> Ran:
    return request.getfixturevalue(request.param)


def test_it_is_told_the_same(ran: Ran, tmp_path: Path) -> None:
    """Results, pages and MLflow's runs, from the plan of the file and from the plan of the store."""
    stored = plan_of_sweep(ran.store, ran.plan.sweep.name)
    assert type(stored) is StoredPlan
    assert plan_checksum(stored) == plan_checksum(ran.plan)
    assert stored.arms == ran.plan.arms
    pages, told = [], []
    for each, folder in ((ran.plan, tmp_path / "file"), (stored, tmp_path / "store")):
        results = collect(each, ran.store)
        write_report(results, compare(results, ran.store), ran.store, folder, "the command")
        pages.append({str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()})
        made = sorted(runs(results, ran.store, folder), key=lambda run: run.key)
        told.append(
            [
                document(results, ran.store),
                experiment_tags(results),
                [(run.state, run.name, run.folders) for run in made],
            ]
        )
    assert told[0] == told[1]
    assert pages[0].keys() == pages[1].keys()
    assert len(pages[0]) > 3
    assert [name for name in pages[0] if pages[0][name] != pages[1][name]] == []


def entries(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_no_code_of_the_user_runs(own: Ran, tmp_path: Path) -> None:
    """Whoever wrote to the store may have planted it."""
    for name in [name for name in sys.modules if name.startswith(user_code.PACKAGE)]:
        del sys.modules[name]
    stored = plan_of_sweep(own.store, own.plan.sweep.name)
    results = collect(stored, own.store)
    compare(results, own.store)
    assert metrics(document(results, own.store)) == metrics(own.document())
    export(stored, own.store, tmp_path / "stored.zip")
    assert not any(name.startswith(user_code.PACKAGE) for name in sys.modules)
    export(own.plan, own.store, tmp_path / "file.zip")
    ours, theirs = (entries(tmp_path / f"{name}.zip") for name in ("stored", "file"))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_every_command_that_looks(measured: Ran, tmp_path: Path) -> None:
    """In a folder with the store and nothing else."""
    shutil.copytree(measured.store.root, tmp_path / "results" / "store")
    shown = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}}
    status = nagbench("status", "tiny", "--json", **shown)
    assert json.loads(status.stdout)["cells"] == {"total": 8, "done": 8, "failed": 0, "missing": 0}, status.stderr
    report = nagbench("report", "tiny", "--tracking", "none", **shown)
    assert report.returncode == 0, report.stderr
    assert (tmp_path / "results" / "reports" / "tiny" / "report.html").is_file()
    part = nagbench("report", "tiny", "--arm", "cfg", "--json", "--tracking", "sqlite:///mlflow.db", **shown)
    assert {cell["arm"] for cell in json.loads(part.stdout)["cells"]} == {"cfg"}, part.stderr
    cell = measured.plan.cells[0].digest[:10]
    for arguments in (("export", "tiny", "a.zip"), ("logs", "tiny", cell), ("du", "tiny")):
        done = nagbench(*arguments, **shown)
        assert done.returncode == 0, done.stderr
    images = nagbench("export", "tiny", "a.npz", "--cell", cell, **shown)
    assert images.returncode == 0, images.stderr
    assert len(command("x")) > 1


def test_a_name_that_is_none(measured: Ran) -> None:
    for name in ("tinny", "-x", "../plans", "sweeps/missing.yaml"):
        with pytest.raises((BadInput, OSError)) as problem:
            open_sweep(name, measured.store.root)
        assert name.lstrip("./-") in str(problem.value)
    with pytest.raises(BadInput, match=r"unknown sweep 'tinny'. Did you mean 'tiny'\? Known: tiny"):
        open_sweep("tinny", measured.store.root)


def test_of_parts_the_whole_counts(measured: Ran, tmp_path: Path) -> None:
    """A part that was run by itself comes last; the answer is still of all cells, until the text changes."""
    store = Store(str(shutil.copytree(measured.store.root, tmp_path / "store")))
    sweep = read_sweep(measured.plan.sweep.path)
    keep_plan(plan(sweep, frozenset({"cfg"})), store)
    assert len(plan_of_sweep(store, "tiny").cells) == 8
    assert plan_of_sweep(store, "tiny").whole
    (tmp_path / "sweep.yaml").write_text(MEASURED + "  more: {cfg: {scale: 3}}\n")
    keep_plan(plan(read_sweep(tmp_path / "sweep.yaml"), frozenset({"more"})), store)
    found = plan_of_sweep(store, "tiny")
    assert [cell.arm for cell in found.cells] == ["more"] * 2
    assert not found.whole
    part = only_arms(plan_of_sweep(measured.store, "tiny"), ["nag"])
    assert ({cell.arm for cell in part.cells}, part.whole) == ({"nag"}, False)
    with pytest.raises(BadInput, match="unknown arm 'nagg'"):
        only_arms(part, ["nagg"])


def kept(store: Store, document: dict[str, Any]) -> str:
    """Under its right name."""
    name = checksum(canonical(document).encode())
    store.create_record(plan_name(name), document)
    return name


DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "an arm with the name of a path": lambda d: d["about"]["arms"][0].update(name="../../x"),
    "an arm against one that is not there": lambda d: d["about"]["arms"][1].update(against="nobody"),
    "a cell of an arm that is not there": lambda d: d["cells"][0].update(arm="nobody"),
    "a sweep with the name of a path": lambda d: d.update(sweep="../x"),
    "a stream that is a score": lambda d: d["cells"][0].update(stream=d["cells"][0]["scores"][0][1]),
    "a stream that is not there": lambda d: d["cells"][0].update(stream="0" * 32),
    "a metric that is not there": lambda d: d["cells"][0]["scores"][0].__setitem__(0, 99),
    "a metric from the end": lambda d: d["cells"][0]["scores"][0].__setitem__(0, -1),
    "a value with the name of a path": lambda d: d["about"]["metrics"][0]["values"][0].update(name="a/b"),
    "a format that is none": lambda d: d["about"]["metrics"][0]["values"][0]["shown"].update(format="evil"),
    "a count in words": lambda d: d["cells"][0].update(count="many"),
    "less than no samples": lambda d: d["cells"][0].update(count=-1),
    "no metrics": lambda d: d["about"].pop("metrics"),
    "cells that are a number": lambda d: d.update(cells=[3]),
    "a precision that is none": lambda d: d["about"].update(precision={"dtype": "float8"}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged(measured: Ran, damage: str) -> None:
    """Whoever writes to the store can write a plan: it is used only as it should be."""
    store = Store(f"memory://{damage.replace(' ', '-')}")
    whole = json.loads(canonical(document_of(measured.plan)))
    assert read_plan(store, kept(store, whole)).sweep.name == "tiny"
    DAMAGES[damage](whole)
    with pytest.raises(CorruptFile, match="is not a plan"):
        read_plan(store, kept(store, whole))


def test_of_a_nagbench_that_kept_no_cells(measured: Ran) -> None:
    store = Store("memory://older")
    older = {key: value for key, value in document_of(measured.plan).items() if key not in ("cells", "floors", "about")}
    name = kept(store, older)
    store.create_record("sweeps/tiny/000001.json", {"plan": name, "time": 1.0})
    with pytest.raises(BadInput, match="name its YAML file"):
        plan_of_sweep(store, "tiny")
