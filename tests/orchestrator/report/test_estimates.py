"""Which estimate is the best one."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.report.estimates import Estimate, standings
from tests.orchestrator.synthetic import MEASURED, made


@pytest.mark.parametrize(("lower", "best"), [(True, -0.5), (False, 0.3), (None, -0.1)])
def test_the_best_is_the_lowest_the_highest_or_the_nearest_to_zero(
    tmp_path: Path, lower: bool | None, best: float
) -> None:
    """As the metric has it: a distance, a precision, a noise shift."""
    results, _ = made(tmp_path, MEASURED)
    metric = next(name for name in results.metrics if results.lower_is_better(name) is lower)
    values = (0.3, -0.1, -0.5)
    ranks = standings(results, metric, [Estimate(v, None, None, None, (v,), 1) for v in values])
    assert values[ranks.index(min(ranks))] == best
