"""score: one metric of one cell (or of the held-out images, which give the floor) against the reference."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from orchestrator.store import pack, unpack
from orchestrator.tasks import Context, Task, block_name, finish, read_output

if TYPE_CHECKING:
    import numpy as np

VERSION = 1


def run(context: Context, task: Task) -> None:
    started = time.time()
    params = task.params
    metric = context.rebuild("metrics", params["metric"])
    reference = _reference(context, params["reference"], "train")
    if params["features"] is None:
        samples, cost = _reference(context, params["reference"], "held_out"), {}
    else:
        key = f"{params['features']} {params['count']}"
        samples, cost = context.load("features", key, lambda: _samples(context, task))  # all metrics of a cell use them
    scores = metric(samples, reference)
    files = {"arrays.safetensors": pack(scores["arrays"], {})} if scores["arrays"] else {}
    record = {"values": scores["values"], "count": len(samples["labels"]), "reference_size": len(reference["labels"])}
    finish(context, task, files, record | cost, started)


def _reference(context: Context, digest: str, split: str) -> dict[str, np.ndarray]:
    return context.load(
        "reference",
        f"{digest} {split}",
        lambda: unpack(read_output(context.store, "reference", digest, f"{split}.safetensors"))[0],
    )


def _samples(context: Context, task: Task) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The first `count` feature rows of the stream in the order of their indices, and what making them cost."""
    import numpy as np

    count, block = task.params["count"], task.params["block"]
    parts: list[dict[str, np.ndarray]] = []
    sample_s = extract_s = 0.0
    calls, micro_batches, devices = 0.0, set(), set()
    for number in range(-(-count // block)):
        arrays, record = context.store.read_arrays(block_name(task.params["features"], number))
        parts.append({name: array[: count - number * block] for name, array in arrays.items()})
        sample_s, extract_s = sample_s + record["sampled"]["seconds"], extract_s + record["seconds"]
        calls += record["sampled"]["network_calls"] * len(parts[-1]["labels"]) / count
        micro_batches.add(record["sampled"]["micro_batch"])
        devices.add(record["sampled"]["device"])
        context.tell(task.digest, number + 1, -(-count // block) + 1)
    samples = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return samples, {
        "sample_seconds": round(sample_s, 3),
        "extract_seconds": round(extract_s, 3),
        "network_calls": round(calls) if abs(calls - round(calls)) < 1e-9 else round(calls, 2),
        "micro_batches": sorted(micro_batches),
        "devices": sorted(devices),
    }
