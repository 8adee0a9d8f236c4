"""measure: the noise shift or the effective guidance scale of a stream, whose first blocks are sampled again for it."""

from __future__ import annotations

from orchestrator.tasks.context import Context
from orchestrator.tasks.measure_scale import measure_scale
from orchestrator.tasks.measure_shift import measure_shift
from orchestrator.tasks.task import Costs, Kind, Task

MEASURES = {"noise_shift": measure_shift, "effective_scale": measure_scale}


def run(context: Context, task: Task) -> None:
    MEASURES[task.params["measure"]["name"]](context, task)


def _guess_s(task: Task, costs: Costs) -> float:
    """The time of the blocks that are sampled again."""
    times = 1 + task.params.get("finer", 0)
    return times * -(-task.params["count"] // task.params["block"]) * costs.task_s(task.stream)


KIND = Kind(version=2, run=run, guess_s=_guess_s, scores_cells=True, column="scores")
