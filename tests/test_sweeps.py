"""Every sweep file plans, and says at its top the command, the cost and the answer that came out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.plan import plan
from orchestrator.spec import read_sweep

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "sweeps").rglob("*.yaml"))


def test_there_are_sweeps() -> None:
    assert SWEEPS


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: str(path.relative_to(ROOT)))
@pytest.mark.parametrize("smoke", [False, True])
def test_it_plans(path: Path, smoke: bool) -> None:
    planned = plan(read_sweep(path, smoke=smoke))
    assert planned.cells
    assert planned.goals
    seen: set[str] = set()
    for digest, task in planned.tasks.items():
        assert set(task.inputs) <= seen, "inputs come first"
        seen.add(digest)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: str(path.relative_to(ROOT)))
def test_its_header(path: Path) -> None:
    header = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    name = path.relative_to(ROOT)
    assert f"nagbench run {name}" in header
    assert re.search(r"\d+ CPU cores: about \d+ minutes|GPU hours", header), "what it costs"
    assert re.search(r"(?i)answer", header), "what came out"
