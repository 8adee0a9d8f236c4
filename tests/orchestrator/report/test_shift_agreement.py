"""Whether a smaller noise shift goes with a better score: correlations within each training, in report and JSON."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from orchestrator.report.comparisons import compare
from orchestrator.report.content import report_content
from orchestrator.report.document import document
from orchestrator.report.results import Results
from orchestrator.report.shift_agreement import shift_agreement, shift_agreement_table
from orchestrator.store.store import Store
from tests.orchestrator.synthetic import MEASURED, SWEEP, made


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Store]:
    """Shifts of both signs, of a size that follows the distance within a training and not between them."""
    results, store = made(tmp_path_factory.mktemp("made"), MEASURED, samples=False)
    for cell in results.cells:
        seed, fid = int(str(cell.params["train.seed"])), cell.value("fid") or 0.0
        shift = (0.001 * fid + 0.01 * (2 - seed)) * (-1) ** seed
        for name in ("shift_mean", "shift_late"):
            entry = cell.scores[name]
            cell.scores[name] = {**entry, "score": {**entry["score"], "value": shift if name == "shift_late" else -fid}}
    return results, store


def test_it_is_the_mean_of_spearmans_within_trainings(swept: tuple[Results, Store]) -> None:
    results, _ = swept
    known = shift_agreement(results)
    assert known is not None
    assert known.values.shape[:2] == (3, len(results.cells) // 3)
    late, fid, recall = known.shifts.index("shift_late"), *(known.metrics.index(name) for name in ("fid", "recall"))
    rho = known.found.rho[: len(known.shifts), len(known.shifts) :]
    assert rho[late, fid] == pytest.approx(1)
    own = []
    for seed in range(3):
        cells = [cell for cell in results.cells if cell.params["train.seed"] == seed]
        pairs = [(abs(cell.value("shift_late") or 0), -(cell.value("recall") or 0)) for cell in cells]
        own.append(spearmanr(np.array(pairs)).statistic)
    assert rho[late, recall] == pytest.approx(np.mean(own))


def test_it_is_in_report_and_json(swept: tuple[Results, Store]) -> None:
    results, store = swept
    content = report_content(results, compare(results, store), store, "nagbench run x.yaml")
    section = next(section for section in content.sections() if section.name == "shift")
    table = shift_agreement_table(results)
    assert table is not None
    assert table in section.parts
    fid = next(row for row in table.rows if row.cells[0].text == "Fréchet distance (digits)")
    assert fid.cells[2].text == "1.00 [1.00, 1.00]"
    found = document(results, store)["shift_agreement"]
    assert (found["trainings"], found["settings"]) == (3, len(results.cells) // 3)
    at = found["shifts"].index("shift_late"), found["metrics"].index("fid")
    assert found["rho"][at[0]][at[1]] == found["low"][at[0]][at[1]] == pytest.approx(1)
    assert [training[at[0]][at[1]] for training in found["by_training"]] == pytest.approx([1, 1, 1])


def test_settings_without_a_value_in_some_training_are_left_out(swept: tuple[Results, Store], tmp_path: Path) -> None:
    results, _ = swept
    cells = [dataclasses.replace(cell, scores=dict(cell.scores)) for cell in results.cells]
    del cells[0].scores["shift_late"]
    known = shift_agreement(Results(results.plan, cells, {}))
    assert known is not None
    assert known.values.shape[1] == len(results.cells) // 3 - 1
    assert shift_agreement(Results(results.plan, cells[:6], {})) is None, "too few settings"
    unmeasured, store = made(tmp_path, SWEEP, samples=False)
    assert shift_agreement(unmeasured) is None
    assert document(unmeasured, store)["shift_agreement"] is None
