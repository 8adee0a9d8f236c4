"""Cells of unlike precision in one report."""

from __future__ import annotations

from pathlib import Path

import pytest

from nag.numerics import Precision
from orchestrator.report.answer import limits
from orchestrator.report.comparisons import compare
from orchestrator.report.precisions import of_stream, words
from orchestrator.report.results import collect
from tests.orchestrator.conftest import TINY, changed, run_here

HALF = """\
  half:
    data: {name: digits}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 8, batch: 16, noise_dropout: 0.2, precision: {dtype: bfloat16}}
sampler: {name: euler, steps: 2}
"""


@pytest.mark.parametrize(
    ("precision", "wanted"),
    [
        (Precision(), "float32"),
        (Precision(tf32=True), "float32, with TF32"),
        (Precision(dtype="bfloat16", compile=True), "bfloat16, compiled"),
    ],
)
def test_precision_in_words(precision: Precision, wanted: str) -> None:
    assert words(precision) == wanted


def test_a_comparison_across_precisions_is_noted(tmp_path: Path) -> None:
    text = changed(
        TINY,
        *("sampler: {name: euler, steps: 2}\n", HALF),
        *("  plain: {}", "  plain: {network: sit}", "seed: {grid: [0, 1]}", "seed: 0"),
        *("  nag: {nag: {scale: {grid: [1.0, 2.0]}}}", "  nag: {network: sit, nag: {scale: 1.0}}"),
        *("  cfg: {cfg:", "  cfg: {network: half, cfg:"),
    )
    (tmp_path / "sweep.yaml").write_text(text)
    ran = run_here(tmp_path / "sweep.yaml", tmp_path / "store")
    results = collect(ran.plan, ran.store)
    rows = compare(results, ran.store)
    (said,) = [line for line in limits(results, rows, {}) if "unlike precision" in line]
    assert said == (
        "Of unlike precision (sampled in float32, trained in bfloat16; sampled in float32, trained in float32): "
        "cfg against plain. This alone may move a distance."
    )
    assert {of_stream(ran.plan, cell.stream) for cell in ran.plan.cells if cell.cell.arm == "nag"} == {
        "sampled in float32, trained in float32"
    }
