"""What is missing of a plan, by blocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from orchestrator.plan.make import plan
from orchestrator.plan.progress import Done, missing
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store


def test_a_score_needs_its_last_block_too(write: Callable[..., Path], tmp_path: Path) -> None:
    """50 samples are two blocks of 20 and a part of a third, which is made whole."""
    planned = plan(read_sweep(write("count: 40", "count: 50")))
    todo = missing(planned, Done(Store(str(tmp_path / "store"))))
    blocks = [numbers for digest, numbers in todo.items() if planned.tasks[digest].kind in ("sample", "extract")]
    assert len(blocks) == 8 * 3
    assert all(numbers == [0, 1, 2] for numbers in blocks)
