"""The study: each sweep has a row and a published report, whose sweep file is the one that is here."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml

from orchestrator.spec.reader import read_sweep

ROOT = Path(__file__).parents[1]
STUDY = sorted((ROOT / "sweeps/study").glob("*.yaml"))
PUBLISHED = ROOT / "results/published/study"


@pytest.mark.parametrize("path", STUDY, ids=lambda path: path.stem)
def test_a_report_is_of_its_sweep_file_and_complete(path: Path) -> None:
    report = (PUBLISHED / path.stem / "report.md").read_text()
    there = report.partition("```yaml\n")[2].partition("\n```")[0]
    assert yaml.safe_load(there) == yaml.safe_load(path.read_text())  # its comments tell the answer, which comes later
    with (PUBLISHED / path.stem / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["arm"] for row in rows} == {cell.arm for cell in read_sweep(path).cells}
    assert {row["complete"] for row in rows} == {"true"}
    assert f"| `{path.stem}` |" in (ROOT / "docs/studies.md").read_text()


def test_each_rival_is_an_arm() -> None:
    """The methods on NAG's axis, CFG and its kin, and what mends the mismatch otherwise: alone and at equal NFE."""
    sweep = read_sweep(ROOT / "sweeps/study/rivals.yaml")
    rivals = {
        *("plain", "nag", "sg", "tsg", "icg", "cfg", "apg", "cfg_zero", "autoguidance"),
        *("eps_scaling", "time_shift", "nlc"),
    }
    assert {cell.arm for cell in sweep.cells} == rivals


def test_sft_has_both_forms_of_dog_and_both_readings_of_nag_ready() -> None:
    """DoG guides 4 channels by its README and 3 in its release; NAG-ready by dropout or by the null branch alone."""
    text = (ROOT / "sweeps/paper/table2_sft.yaml").read_text()
    arms = {cell.arm: cell for cell in read_sweep(ROOT / "sweeps/paper/table2_sft.yaml").cells}
    channels = {
        name: next(each.channels for each in arms[name].guidance if hasattr(each, "channels"))
        for name in ("dog", "dog_nag", "dog_3", "dog_3_nag")
    }
    assert channels == {"dog": "all", "dog_nag": "all", "dog_3": 3, "dog_3_nag": 3}
    networks = {arms[name].params["network"] for name in ("nag", "branch_nag")}
    assert networks == {"ready", "branch"}
    for said in ("as DoG's README says", "as DoG's released", '"NAG-ready" has two readings'):
        assert said in text
