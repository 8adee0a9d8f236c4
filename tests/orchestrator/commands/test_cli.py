"""The commands as a user runs them: output, exit codes, error messages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.orchestrator.conftest import Ran, nagbench, run_here


@pytest.fixture
def store(finished: Ran, tmp_path: Path) -> Path:
    shutil.copytree(finished.store.root, tmp_path / "store")
    return tmp_path / "store"


def test_check(write: Callable[..., Path]) -> None:
    path = write("count: 40", "count: 160", "{grid: [0, 1]}", "{grid: [0, 1, 2]}")
    done = nagbench("check", path)
    assert (done.returncode, done.stdout) == (0, f"{path}: good. 12 cells in 3 arms, 4 trainings.\n")
    assert json.loads(nagbench("check", path, "--json").stdout) == {
        "sweep": "tiny",
        "arms": 3,
        "cells": 12,
        "absent": [],
        "notes": [],
        "classes": {},
        "overrides": [],
        "warnings": [],
    }


def test_a_mistake_is_one_message(write: Callable[..., Path]) -> None:
    path = write("scale: 1.5", "scal: 1.5")
    done = nagbench("check", path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert (
        done.stderr == f"{path}:13: arms.cfg.cfg: unknown key 'scal'. Did you mean 'scale'? "
        "Known: channels, interval, scale, schedule.\n"
    )
    with_json = nagbench("plan", path, "--json")
    assert json.loads(with_json.stdout) == {"error": done.stderr.rstrip("\n"), "exit_code": 2}


def test_plan_shows_what_is_cached(write: Callable[..., Path], store: Path) -> None:
    fresh = json.loads(nagbench("plan", write(), "--store", store / "other", "--json").stdout)
    assert fresh["tasks"]["sample"] == {
        "tasks": 8,
        "tasks_to_do": 8,
        "tasks_in_part": 0,
        "blocks": 16,
        "blocks_to_do": 16,
    }
    assert len(fresh["cells"]) == 8
    more = write("[1.0, 2.0]", "[1.0, 2.0, 3.0]")
    cached = json.loads(nagbench("plan", more, "--store", store, "--json").stdout)
    assert cached["tasks"]["sample"] == {
        "tasks": 10,
        "tasks_to_do": 2,
        "tasks_in_part": 0,
        "blocks": 20,
        "blocks_to_do": 4,
    }
    assert cached["tasks"]["train"] == {
        "tasks": 3,
        "tasks_to_do": 0,
        "tasks_in_part": 0,
        "blocks": 0,
        "blocks_to_do": 0,
    }
    text = nagbench("plan", more, "--store", store).stdout
    assert "4 of 20" in text
    assert "10 cells in 3 arms" in text


def test_a_higher_count_samples_only_new_blocks(write: Callable[..., Path], tmp_path: Path) -> None:
    """`plan` and `status` say so, and do not call what is there removed, although its measurement stays done."""
    measured = ("arms:", "measure: {name: effective_scale, count: 20}\narms:", "seed: {grid: [0, 1]}", "seed: 0")
    path, store = write(*measured, name="measured.yaml"), tmp_path / "measured"
    run_here(path, store)
    more = write(*measured, "count: 40", "count: 60", name="more.yaml")
    counted = json.loads(nagbench("plan", more, "--store", store, "--json").stdout)["tasks"]["sample"]
    assert counted == {"tasks": 4, "tasks_to_do": 4, "tasks_in_part": 4, "blocks": 12, "blocks_to_do": 4}
    for name in ("plan", "status"):
        shown = nagbench(name, more, "--store", store).stdout
        assert "0 + 4 in part" in shown
        assert "4 of 12" in shown
        assert "sampled again" not in shown
    ran = run_here(more, store)
    assert ran.did["sample"] == 4 * 20


def test_plan_check_and_status_write_nothing(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write()
    before = sorted(tmp_path.rglob("*"))
    for name in ("plan", "status"):
        assert nagbench(name, path, "--store", tmp_path / "store").returncode == 0
    assert nagbench("check", path).returncode == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_status(write: Callable[..., Path], store: Path, tmp_path: Path) -> None:
    done = json.loads(nagbench("status", write(), "--store", store, "--json").stdout)
    assert done["cells"] == {"total": 8, "done": 8, "failed": 0, "missing": 0}
    more = json.loads(nagbench("status", write("[1.0, 2.0]", "[1.0, 3.0]"), "--store", store, "--json").stdout)
    assert more["cells"] == {"total": 8, "done": 6, "failed": 0, "missing": 2}
    empty = nagbench("status", write(), "--store", tmp_path / "none")
    assert "Cells: 0 of 8 done, 0 failed, 8 to do." in empty.stdout


def test_run_with_one_arm(write: Callable[..., Path], tmp_path: Path) -> None:
    """Without a terminal, progress is lines and the table comes last; a second run does nothing, without torch."""
    path = write("seed: {grid: [0, 1]}", "seed: 0", "count: 40", "count: 150")
    arguments = ("run", path, "--store", tmp_path / "store", "--tracking", "none", "--arm", "plain", "--workers", "1")
    first = nagbench(*arguments, "--device", "cpu")
    assert first.returncode == 0, first.stderr
    assert "sample: all 160 samples done" in first.stderr
    assert "\x1b" not in first.stdout + first.stderr
    assert "plain" in first.stdout
    assert "held-out" in first.stdout
    block = "import sys\nfor name in ('torch', 'mlflow'): sys.modules[name] = None\n"
    block += "from orchestrator.cli import main\nmain()"
    again = subprocess.run(
        [sys.executable, "-c", block, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout


def test_unknown_arm_and_device(write: Callable[..., Path]) -> None:
    done = nagbench("run", write(), "--arm", "plian", "--tracking", "none")
    assert done.returncode == 2
    assert done.stderr == "--arm: unknown arm 'plian'. Did you mean 'plain'? Known: cfg, nag, plain.\n"
    done = nagbench("run", write(), "--device", "gpu", "--tracking", "none")
    assert done.returncode == 2
    assert done.stderr.startswith("--device: unknown device 'gpu'.")


def test_report_json(finished: Ran, store: Path) -> None:
    done = nagbench("report", finished.plan.sweep.path, "--store", store, "--tracking", "none", "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert found == json.loads(json.dumps(finished.document()))
    assert set(found) >= {"sweep", "cells", "comparisons", "missing", "failed"}
    cell = next(c for c in found["cells"] if c["arm"] == "nag")
    assert cell["params"] == {
        "network": "sit", "train.seed": 0, "sampler": "euler", "sampler.steps": 2, "nag.scale": 1.0,
    }  # fmt: skip
    assert set(cell["metrics"]["fid"]) >= {"value", "low", "high"}
    assert cell["network_calls"] == 4
    assert cell["seconds"] > 0
    row = next(r for r in found["comparisons"] if r["arm"] == "nag" and r["metric"] == "precision")
    assert set(row) >= {
        "arm", "against", "params", "against_params", "selected", "metric", "difference", "difference_at_n", "low",
        "high", "interval", "per_seed",
    }  # fmt: skip
    assert row["interval"] == "t"
    assert len(row["per_seed"]) == 2
    assert "NaN" not in done.stdout


def test_report_of_a_partial_sweep(write: Callable[..., Path], store: Path) -> None:
    done = nagbench("report", write("[1.0, 2.0]", "[1.0, 3.0]"), "--store", store, "--tracking", "none", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert [(cell["arm"], cell["params"]["nag.scale"]) for cell in found["missing"]] == [("nag", 3.0)] * 2


def test_failed_cells_are_named_and_the_rest_goes_on(write: Callable[..., Path], tmp_path: Path) -> None:
    """A task has a log; that of a failed one holds the traceback, and the failure names its path."""
    path = write("lr: 1e-2", "lr: {grid: [1e-2, 1e30]}", "seed: {grid: [0, 1]}", "seed: 0")
    store = tmp_path / "store"
    done = nagbench("run", path, "--store", store, "--tracking", "none", "--device", "cpu", "--workers", "1")
    assert done.returncode == 1
    assert done.stdout.count("failed: ") == 1  # the one training that all four cells need
    assert "failed: plain, nag and cfg, 4 cells alike: " in done.stdout
    assert done.stderr.count(" failed: ") == 1
    assert "the training loss is" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    status = json.loads(nagbench("status", path, "--store", store, "--json").stdout)
    assert status["cells"] == {"total": 8, "done": 4, "failed": 4, "missing": 0}

    log = next(line for line in done.stdout.splitlines() if line.startswith("failed: ")).rpartition("log: ")[2]
    assert "FloatingPointError" in Path(log.rstrip(")")).read_text()
    every = nagbench("logs", path, "--store", store).stdout.splitlines()
    assert {line.split()[0] for line in every} >= {"train", "sample", "extract", "score"}
    assert any("FloatingPointError" in line for line in every)
    digest = json.loads(nagbench("plan", path, "--store", store, "--json").stdout)["cells"][0]["digest"]
    one = nagbench("logs", path, digest[:10], "--store", store).stdout
    assert one.count("== sample") == 1
    assert "done in" in one
    of_failed = nagbench("logs", path, "--failed", "--store", store).stdout
    assert of_failed.count("== ") == of_failed.count("== train") == 1
    assert "FloatingPointError" in of_failed
    assert "done in" not in of_failed
    assert "No task of sweep tiny has failed" in nagbench("logs", path, "--failed", "--store", tmp_path / "none").stdout
    assert "No logs" in nagbench("logs", path, "--store", tmp_path / "none").stdout


def test_smoke_has_the_shape_of_the_sweep(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write("[1.0, 2.0]", "[1.0, 1.5, 2.0]")
    found = json.loads(nagbench("plan", path, "--smoke", "--store", tmp_path / "store", "--json").stdout)
    assert found["sweep"] == "tiny-smoke"
    assert sorted({c["params"]["nag.scale"] for c in found["cells"] if c["arm"] == "nag"}) == [1.0, 2.0]


@pytest.mark.parametrize("name", ["run", "report", "status", "plan"])
def test_a_store_that_is_no_store(write: Callable[..., Path], tmp_path: Path, name: str) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "nagbench.json").write_text('{"format": 99}')
    done = nagbench(name, write(), "--store", tmp_path / "other")
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"store {tmp_path / 'other'} has format 99, this nagbench writes format 1: use another"
    )


def test_a_store_that_cannot_be_written(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    done = nagbench("run", write(), "--store", tmp_path / "file" / "store", "--tracking", "none")
    assert done.returncode == 3
    assert done.stderr.startswith(f"store {tmp_path / 'file' / 'store'} ")
    assert done.stderr.count("\n") == 1
    done = nagbench("run", write(), "--store", "nosuch://bucket/x", "--tracking", "none")
    assert done.returncode == 2
    assert "nosuch" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("width", [80, 200])
def test_tables_fit(finished: Ran, store: Path, width: int) -> None:
    env = os.environ | {"COLUMNS": str(width), "TERM": "dumb", "NO_COLOR": "1"}
    done = nagbench("report", finished.plan.sweep.path, "--store", store, "--tracking", "none", env=env)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("Report: ")]  # a line to copy from
    assert max(map(len, lines)) <= width
    assert "…" not in done.stdout


def test_one_cell_here(finished: Ran, tmp_path: Path) -> None:
    """One cell with fewer samples, in this process."""
    cell = finished.plan.cells[3]
    options = ("--store", tmp_path / "store", "--tracking", "none", "--device", "cpu")
    done = nagbench("run", finished.plan.sweep.path, "--cell", cell.digest[:8], "--count", "20", "--here", *options)
    assert done.returncode == 0, done.stderr
    assert "sample: all 20 samples done" in done.stderr
    assert cell.cell.arm in done.stdout
    done = nagbench("run", finished.plan.sweep.path, "--cell", "zz", *options)
    assert done.returncode == 2
    assert done.stderr.startswith("no cell begins with 'zz'. Known: ")
    assert cell.digest[:12] in done.stderr
    done = nagbench("run", finished.plan.sweep.path, "--count", "20", *options)
    assert (done.returncode, done.stderr) == (
        2,
        "--count needs --cell; for a whole sweep, set sample.count in its file\n",
    )


def test_here_shows_the_traceback(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write("lr: 1e-2", "lr: 1e30")
    done = nagbench("run", path, "--here", "--store", tmp_path / "store", "--tracking", "none", "--device", "cpu")
    assert done.returncode != 0
    assert "nag/training.py" in done.stderr
    assert "FloatingPointError: the training loss is" in done.stderr
