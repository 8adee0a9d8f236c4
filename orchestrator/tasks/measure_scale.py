"""The effective guidance scale of a stream, from the evaluations of its guided field while it is sampled again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from orchestrator.store.arrays import pack
from orchestrator.tasks.context import Context, finish
from orchestrator.tasks.sampled_again import sample_again
from orchestrator.tasks.task import Task

if TYPE_CHECKING:
    import numpy as np

    from nag.effective_scale import Recording
    from nag.field import Field


def measure_scale(context: Context, task: Task) -> None:
    """The record has the value, its curve by level, and `network_calls`: the evaluations for one sample that were made
    besides sampling. They are not in the NFE of the cell. The influence of each sample is a file.
    """
    import numpy as np

    from nag.effective_scale import BINS, Recording, summary

    started = time.time()
    count = task.params["count"]
    recordings: list[tuple[np.ndarray, Recording]] = []

    def watch(guided: Field, network: Field, indices: np.ndarray) -> Any:
        kept = indices[indices < count]
        recordings.append((kept, Recording(guided, network, len(kept))))
        return recordings[-1][1]

    states, _ = sample_again(context, task, watch=watch)
    parts = [(indices, each.t, each.scale) for indices, each in recordings if len(indices)]
    sample = np.concatenate([np.tile(indices, len(t)) for indices, t, _ in parts])
    t, scale = (np.concatenate([part[place].ravel() for part in parts]) for place in (1, 2))
    sampler = context.rebuild("samplers", context.task(task.params["stream"]).params["sampler"])
    measured = summary(sample, t, scale, BINS if sampler.adaptive else None)
    record = {
        "values": {"effective_scale": measured["score"]},
        "curve": measured["curve"],
        "count": count,
        "states": states,
        "network_calls": sum(each.network_calls for _, each in recordings) / count,
    }
    files = {"arrays.safetensors": pack({"influence": measured["influence"].astype(np.float32)}, {})}
    finish(context, task, files, record, started)
