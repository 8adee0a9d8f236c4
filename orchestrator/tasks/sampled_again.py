"""Sample the first blocks of a stream again under observation. They must equal the stored ones, since what is measured
must be what is scored: bit for bit on the kind of device that sampled them, up to rounding on another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.errors import TaskError
from orchestrator.tasks.context import Context
from orchestrator.tasks.outputs import read_block
from orchestrator.tasks.sample import as_stored, draw
from orchestrator.tasks.task import Task

if TYPE_CHECKING:
    import numpy as np

    from nag.samplers.fixed_step import Observe
    from orchestrator.tasks.sample import Watch

ROUGH = 5e-2  # difference of bfloat16 from float32, in [-1, 1] (nag.numerics); two devices differ by less


def sample_again(
    context: Context, task: Task, observe: Observe | None = None, watch: Watch | None = None
) -> tuple[str | None, np.ndarray]:
    """Sample all blocks with the first `count` samples of a measure task's stream. observe, watch: as of `draw`.

    Returns None, or why the states equal those of the stored samples only up to rounding; and the labels (count,).
    Raises TaskError if the samples differ by more.
    """
    import numpy as np

    stream, count = context.task(task.params["stream"]), task.params["count"]
    block, states, every = stream.params["block"], None, []
    for number in range(-(-count // block)):
        x, labels, _ = draw(context, stream, np.arange(number * block, (number + 1) * block), observe, watch)
        arrays, record = read_block(context.store, stream.digest, number)
        why = _why_rounded(stream, as_stored(stream, x), arrays["samples"], record, context)
        every.append(labels)
        states = states if why is None else f"states within rounding of the samples: {why}"
        context.tell(task.digest, number + 1, -(-count // block) + 1)
    return states, np.concatenate(every)[:count]


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
