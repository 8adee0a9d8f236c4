"""measure: the noise shift of a stream. Its first blocks are sampled again under observation, and must equal the stored
ones: bit for bit on the kind of device that sampled them, up to rounding on another.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.errors import TaskError
from orchestrator.store.arrays import pack
from orchestrator.tasks.context import Context, finish
from orchestrator.tasks.outputs import read_block
from orchestrator.tasks.sample import as_stored, draw, seed_of
from orchestrator.tasks.task import Costs, Kind, Task

if TYPE_CHECKING:
    import numpy as np

ROUGH = 5e-2  # difference of bfloat16 from float32, in [-1, 1] (nag.numerics); two devices differ by less


def run(context: Context, task: Task) -> None:
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

    block, states = stream.params["block"], None
    for number in range(-(-params["count"] // block)):
        x, _, _ = draw(context, stream, np.arange(number * block, (number + 1) * block), observe)
        arrays, record = read_block(context.store, stream.digest, number)
        why = _why_rounded(stream, as_stored(stream, x), arrays["samples"], record, context)
        states = states if why is None else f"states within rounding of the samples: {why}"
        context.tell(task.digest, number + 1, -(-params["count"] // block) + 1)
    return {t: np.concatenate(parts)[: params["count"]] for t, parts in seen.items()}, states


def _why_rounded(
    stream: Task, again: np.ndarray, kept: np.ndarray, record: dict[str, Any], context: Context
) -> str | None:
    """None if the samples are equal, bit for bit; else why they differ by rounding: another kind of device, or another
    micro-batch. Raises TaskError for any other difference, since what is measured must be what is scored.
    """
    import numpy as np

    from nag.hardware import differs, kind

    why = differs(record.get("kind_of_device"), kind(context.options.device))
    if record["micro_batch"] != context.options.micro_batch:
        why = ", ".join(filter(None, (why, f"micro_batch {record['micro_batch']} and {context.options.micro_batch}")))
    if np.array_equal(again, kept):
        return None
    gap = np.abs(again.astype(np.float64) - kept.astype(np.float64))
    if why is None:
        raise TaskError(
            f"sampling the stream again on the same kind of device gave other samples (by up to {gap.max():.3g}); "
            "nothing is measured from them"
        )
    if not _within(gap, kept, stream.params["precision"]):
        raise TaskError(
            f"sampling the stream again gave other samples (by up to {gap.max():.3g}), more than rounding explains "
            f"({why}); nothing is measured from them"
        )
    return why


def _within(gap: np.ndarray, kept: np.ndarray, precision: Mapping[str, Any]) -> bool:
    """Whether rounding explains the gap (nag.numerics): at most one step of the stored type, or a root mean square of
    5e-2 (in [-1, 1]) if the network was not evaluated in float32.
    """
    import numpy as np

    if not np.isfinite(gap).all():
        return False
    if precision.get("dtype", "float32") != "float32" or precision.get("tf32", False):
        return float(np.sqrt((gap**2).mean())) <= ROUGH * (127.5 if kept.dtype == np.uint8 else 1.0)
    if kept.dtype == np.uint8:
        return bool((gap <= 1).all())
    return bool((gap <= np.maximum(2e-3, 1e-5 + np.spacing(np.abs(kept)).astype(np.float64))).all())


def _guess_s(task: Task, costs: Costs) -> float:
    """The time of the blocks that are sampled again."""
    return -(-task.params["count"] // task.params["block"]) * costs.task_s(task.stream)


KIND = Kind(version=2, run=run, guess_s=_guess_s, scores_cells=True, column="scores")
