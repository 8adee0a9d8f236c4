"""`plan` and `status` at usual widths: nothing is cut, with and without colour."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.orchestrator.conftest import nagbench

LONG = (
    *("name: tiny", "name: a_rather_long_name_of_a_sweep"),
    *("depth: 1", "depth: {grid: [1, 2]}", "lr: 1e-2", "lr: {grid: [1e-2, 2e-3]}"),
    *("sampler: {name: euler, steps: 2}", "sampler: {name: {grid: [euler, heun]}, steps: {grid: [10, 20]}}"),
    *("  cfg: {cfg: {scale: 1.5}}", "  classifier_free_guidance_of_two_scales: {cfg: {scale: {grid: [1.5, 2.5]}}}"),
)


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_cut(write: Callable[..., Path], tmp_path: Path, width: int) -> None:
    """Headings, digests and names stand whole in every part of a table that is too wide."""
    path = write(*LONG)
    env = os.environ | {"COLUMNS": str(width), "NO_COLOR": "1"}
    for name in ("plan", "status"):
        shown = nagbench(name, path, "--store", tmp_path / "none", env=env).stdout
        assert "\x1b" not in shown
        assert "…" not in shown
        tables = [line for line in shown.splitlines() if not line.rstrip().endswith(".")]  # sentences are whole lines
        assert max(map(len, tables)) <= width
    shown = nagbench("plan", path, "--store", tmp_path / "none", env=env).stdout
    assert re.search(r"(?m)^ [0-9a-f]{12}  plain +1 +0.01 +0 +euler +10", shown)
    assert "and 100 more" in shown
    for part in ("depth", "sampler.", "steps", "scale"):
        assert part in shown
