"""The noise shift of a stream: readings of an estimator on its states while it is sampled again, and on true states."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from orchestrator.errors import TaskError
from orchestrator.store.arrays import pack
from orchestrator.tasks.context import Context, finish
from orchestrator.tasks.sample import seed_of
from orchestrator.tasks.sampled_again import sample_again
from orchestrator.tasks.task import Task

if TYPE_CHECKING:
    import numpy as np


def measure_shift(context: Context, task: Task) -> None:
    import numpy as np

    from nag.noise_shift import NoiseShift, predictions, shift, true_states

    started = time.time()
    params = task.params
    g = context.estimator(params["estimator"])
    observed, states = _observe(context, task, g)
    split = context.rebuild("datasets", params["data"]).open("train")
    seed = seed_of(context.task(params["stream"]))  # the true states differ by training seed, as samples do
    device, batch = context.options.device, context.options.micro_batch
    true = [
        predictions(g, true_states(split, g.interpolant, t, params["count"], seed), device, batch)
        for t in sorted(observed)[::-1]
    ]
    t = np.array(sorted(observed)[::-1])
    sampled = [observed[level] for level in sorted(observed)[::-1]]
    arrays = {"t": t, "sampled": np.array(sampled, dtype=np.float32), "true": np.array(true, dtype=np.float32)}
    if not len(t):
        raise TaskError("a sampler of one step passes through no level between noise and data")
    measured = shift(t, arrays["sampled"].astype(np.float64), arrays["true"].astype(np.float64))
    values = {}
    for name in NoiseShift.names:
        score = measured.pop(name)
        reason = None if score else "the sampler stops at no level below 0.3"
        empty = {"value": None, "low": None, "high": None}
        values[name] = {**(score or empty), "extrapolated": None, "reason": reason}
    files = {"shift.safetensors": pack(arrays, {})}
    record = {"values": values, "shift": measured, "count": params["count"], "states": states}
    finish(context, task, files, record, started)


def _observe(context: Context, task: Task, g: Any) -> tuple[dict[float, np.ndarray], str | None]:
    """level -> predictions (count,) on the sampler's states at that level; and why these states equal those of the
    stored samples only up to rounding, or None.
    """
    import numpy as np

    from nag.noise_shift import observed_steps

    params = task.params
    stream = context.task(params["stream"])
    wanted = set(observed_steps(context.rebuild("samplers", stream.params["sampler"]).steps, params["levels"]))
    seen: dict[float, list[np.ndarray]] = defaultdict(list)

    def observe(step: int, t: float, x: Any) -> None:
        if step in wanted:
            seen[t].append(g(x).cpu().numpy())

    states = sample_again(context, task, observe)
    return {t: np.concatenate(parts)[: params["count"]] for t, parts in seen.items()}, states
