"""Rows of `python -m benchmarks.metrics later`."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks import metrics


def test_a_metric_by_itself_has_a_row_of_its_value_time_and_memory(tmp_path: Path) -> None:
    options = argparse.Namespace(n=60, reference=40, dim=8, threads=1)
    metrics._write_outputs(tmp_path, options, ("features", "held_out"))
    place = next(place for place, (path, _) in enumerate(metrics.LATER) if path.endswith(":Vendi"))
    [(name, took, peak, own)] = metrics._measured(str(tmp_path), options, place)
    assert name.startswith("vendi: vendi ")
    assert took > 0
    assert 0 <= own < peak


def test_a_process_that_fails_is_told_after_its_rows(tmp_path: Path) -> None:
    """Here there are no outputs to read."""
    options = argparse.Namespace(threads=1)
    with pytest.raises(SystemExit, match=r"-m benchmarks\.metrics each --folder .* --place 0 ended with 1"):
        list(metrics._measured(str(tmp_path), options, 0))
