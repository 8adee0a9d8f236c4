"""A sweep with `nfe`, from its YAML to its report: arms of one price are compared, and what was spent is shown."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.orchestrator.conftest import TINY, changed, nagbench

SWEEP = changed(
    TINY,
    "sampler: {name: euler, steps: 2}",
    "sampler: {name: euler, nfe: {grid: [7, 12]}}",
    "name: tiny",
    "name: price",
    "features: [pixels, {name: digits, steps: 5}]",
    "features: [pixels]",
    ", class_accuracy",
    "",
    "  nag: {nag: {scale: {grid: [1.0, 2.0]}}}\n",
    "  heun: {sampler: {name: heun, nfe: {grid: [7, 12]}}}\n"
    "  both: {cfg: {scale: 1.5, interval: {low: 0.3, high: 0.6}}, nag: {scale: 1.0}}\n",
)
STEPS = {
    ("plain", 7): 7,
    ("plain", 12): 12,
    ("heun", 7): 3,
    ("heun", 12): 6,
    ("both", 7): 3,
    ("both", 12): 5,
    ("cfg", 7): 3,
    ("cfg", 12): 6,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the sweep was run by the command."""
    folder = tmp_path_factory.mktemp("price")
    (folder / "price.yaml").write_text(SWEEP)
    arguments = ("--store", "store", "--tracking", "none", "--device", "cpu", "--here")
    done = nagbench("run", "price.yaml", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_plan_shows_steps_and_evaluations(home: Path) -> None:
    wide = os.environ | {"COLUMNS": "200"}
    told = nagbench("plan", "price.yaml", "--store", "store", cwd=home, env=wide).stdout.split("\n")
    line = next(number for number, text in enumerate(told) if set(text.strip()) == {"─"})
    assert told[line - 1].split()[-2:] == ["steps", "NFE"]
    rows = [text.split() for text in told[line + 1 : line + 1 + 2 * len(STEPS)]]
    spent = {(row[1], row[-2], row[-1]) for row in rows}
    assert ("cfg", "3", "6") in spent
    assert ("both", "5", "12") in spent


def test_every_cell_spent_at_most_its_nfe_and_is_compared_at_it(home: Path) -> None:
    told = nagbench("report", "price", "--store", "store", "--tracking", "none", "--json", cwd=home)  # no YAML
    found = json.loads(told.stdout)
    assert len(found["cells"]) == 2 * len(STEPS)
    for cell in found["cells"]:
        nfe = cell["params"]["sampler.nfe"]
        assert cell["steps"] == STEPS[cell["arm"], nfe]
        assert nfe - 2 < cell["network_calls"] <= nfe
        assert "sampler.steps" not in cell["params"]
    rows = [row for row in found["comparisons"] if row["metric"] == "fid"]
    assert len(rows) == 6
    for row in rows:  # also heun's, although it names its nfe itself
        assert row["params"]["sampler.nfe"] == row["against_params"]["sampler.nfe"]
        assert not row["selected"]


def test_the_page_says_what_was_allowed_and_what_was_spent(home: Path) -> None:
    folder = home / "store-reports" / "price"
    text = (folder / "report.md").read_text()
    assert "| cfg 1.5, NFE 12" in text
    assert "12<br><sub>6 steps</sub>" in text
    assert "Not at equal cost" not in text
    page = (folder / "report.html").read_text()
    assert "<small>5 steps</small>" in page
    assert "Distance against NFE" in page
    assert "euler, NFE 12" in (folder / "figures" / "fid_scale.svg").read_text()


def test_arms_that_differ_in_price_by_more_than_a_step_are_told(tmp_path: Path) -> None:
    """With 5 evaluations two steps of NAG inside CFG do not fit: it has 4, a fifth less than plain."""
    text = changed(
        SWEEP,
        "{grid: [7, 12]}}\nsample",
        "5}\nsample",
        "  heun: {sampler: {name: heun, nfe: {grid: [7, 12]}}}\n",
        "",
        ", interval: {low: 0.3, high: 0.6}}, nag: {scale: 1.0}",
        "}, nag: {scale: 1.0}, compose: nested",
    )
    (tmp_path / "price.yaml").write_text(text)
    done = nagbench("run", "price.yaml", "--store", "store", "--tracking", "none", "--here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "store-reports/price/report.md").read_text()
    assert "Not at equal cost, in NFE a sample:" in report
    assert "both needs 4 against 5" in report
