"""measure: the noise shift of a stream. Its first blocks are sampled once more, observed, and must equal the stored
ones.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from orchestrator.errors import TaskError
from orchestrator.store import pack
from orchestrator.tasks import Context, Task, finish, read_block
from orchestrator.tasks.sample import draw, seed_of, stored

if TYPE_CHECKING:
    import numpy as np

VERSION = 2


def run(context: Context, task: Task) -> None:
    import numpy as np

    from nag.noise_level import predictions, shift, true_states

    started = time.time()
    params = task.params
    g = context.estimator(params["estimator"])
    observed = _observe(context, task, g)
    split = context.rebuild("datasets", params["data"]).open("train")
    seed = seed_of(context.task(params["stream"]))  # true states of its own for each training seed, as its samples are
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
    found = shift(t, arrays["sampled"].astype(np.float64), arrays["true"].astype(np.float64))
    values = {}
    for name in ("shift_mean", "shift_late"):
        score = found.pop(name)
        reason = None if score else "the sampler stops at no level below 0.3"
        empty = {"value": None, "low": None, "high": None}
        values[name] = {**(score or empty), "extrapolated": None, "reason": reason}
    files = {"shift.safetensors": pack(arrays, {})}
    finish(context, task, files, {"values": values, "shift": found, "count": params["count"]}, started)


def _observe(context: Context, task: Task, g: Any) -> dict[float, np.ndarray]:
    """level -> predictions (count,) on the states that the sampler passed through there."""
    import numpy as np

    from nag.noise_level import observed_steps

    params = task.params
    stream = context.task(params["stream"])
    wanted = set(observed_steps(context.rebuild("samplers", stream.params["sampler"]).steps, params["levels"]))
    seen: dict[float, list[np.ndarray]] = defaultdict(list)

    def observe(step: int, t: float, x: Any) -> None:
        if step in wanted:
            seen[t].append(g(x).cpu().numpy())

    block = stream.params["block"]
    for number in range(-(-params["count"] // block)):
        x, _, _ = draw(context, stream, np.arange(number * block, (number + 1) * block), observe)
        arrays, record = read_block(context.store, stream.digest, number)
        _same(stored(stream, x), arrays["samples"], record, context)
        context.tell(task.digest, number + 1, -(-params["count"] // block) + 1)
    return {t: np.concatenate(parts)[: params["count"]] for t, parts in seen.items()}


def _same(again: np.ndarray, kept: np.ndarray, record: dict[str, Any], context: Context) -> None:
    """What is measured must be what is scored: equal bits where device and micro-batch are the same, else one
    quantum.
    """
    import numpy as np

    alike = (record["device"], record["micro_batch"]) == (context.options.device, context.options.micro_batch)
    quantum = 1 if kept.dtype == np.uint8 else 2e-3
    gap = float(np.abs(again.astype(np.float64) - kept.astype(np.float64)).max())
    if gap > (0 if alike else quantum):
        raise TaskError(f"sampling the stream again gave other samples (by up to {gap:.3g}); measure nothing from them")
