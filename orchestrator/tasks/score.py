"""score: one metric of a cell against a reference, or of other images: held-out ones for the floor, any images for
`nagbench score`.

Only the outputs that the metric needs are read: each output of Inception is 0.4 GB for 50,000 samples.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from nag.metrics.metric import by_rows
from nag.metrics.neighbours import computed_on
from orchestrator.errors import TaskError
from orchestrator.identity import canonical
from orchestrator.spec.user_code import user_line
from orchestrator.store.arrays import pack
from orchestrator.tasks import class_pictures
from orchestrator.tasks.context import Context, finish
from orchestrator.tasks.outputs import read_block
from orchestrator.tasks.reference import ReferenceArrays
from orchestrator.tasks.task import Kind, Task

if TYPE_CHECKING:
    import numpy as np

NO_HELD_OUT = "the data set has no held-out images, or too few"


def run(context: Context, task: Task) -> None:
    started = time.time()
    params = task.params
    metric = context.rebuild("metrics", params["metric"])
    reference = ReferenceArrays(context, params["reference"])
    samples, cost = _samples(context, task, metric.needs)
    record = {"reference_size": reference.size_for(metric), "count": len(samples["labels"]), **cost}
    # Without held-out images the outputs are empty, with one dimension.
    wide = [samples[name].shape[1] for name in metric.needs if samples[name].ndim == 2]
    if not by_rows(metric) and wide:  # the report judges whether N is enough for it
        record["dimension"] = max(wide)
    if reference.record["sizes"].get("held_out", 0) < _held_out_needed(task, metric):
        empty = {"value": None, "low": None, "high": None, "extrapolated": None, "reason": NO_HELD_OUT}
        finish(context, task, {}, {"values": dict.fromkeys(metric.names, empty), **record}, started)
        return
    try:
        with computed_on(context.options.device):
            scores = metric(samples, reference)
    except ValueError as error:
        if user_line(error):  # from a metric of the user's, whose file and line are reported
            raise
        whose = context.task(params["reference"]).params["extractor"]["name"]
        raise TaskError(f"{params['metric']['name']} on {whose}, against {reference.source}: {error}") from error
    files = {"arrays.safetensors": pack(scores["arrays"], {})} if scores["arrays"] else {}
    if table := scores.get("by_class"):
        record["by_class"], record["no_pictures"] = table, None
        if table["ranks"] and task.params["features"] is not None:
            made, record["no_pictures"] = class_pictures.of(context, task, table, samples["labels"], reference)
            files |= made
    finish(context, task, files, {"values": scores["values"], **record}, started)


def _held_out_needed(task: Task, metric: Any) -> int:
    """How many held-out images the task needs, to score them or as a reference; 0 if none."""
    if _split(task) == "held_out":
        return metric.least
    return 2 if metric.against == "held_out" else 0


def _split(task: Task) -> str | None:
    """The split of the reference that is scored like a cell, if the task scores one."""
    return "held_out" if task.params["features"] is None and "samples" not in task.params else None


def _samples(context: Context, task: Task, needs: frozenset[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The outputs that a metric needs of the images it scores, and what they cost. Cached for metrics that need the
    same.
    """
    import numpy as np

    names = sorted({*needs, "labels"})
    if task.params["features"] is not None:
        key = f"{task.params['features']} {task.params['count']} {names}"
        return context.load("features", key, lambda: _of_cell(context, task, names))
    images = ReferenceArrays(context, task.params.get("samples", task.params["reference"]), _split(task) or "train")
    count = task.params.get("count")
    return {name: images[name][:count] if name in images else np.empty(0) for name in names}, {}


def _of_cell(context: Context, task: Task, names: list[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """`_samples` for a cell: its first `count` samples, in the order of their indices."""
    import numpy as np

    count, block = task.params["count"], task.params["block"]
    outputs: dict[str, np.ndarray] = {}
    sample_s = extract_s = calls = 0.0
    micro_batches, devices, kinds = set(), set(), {}
    for number in range(-(-count // block)):
        arrays, record = read_block(context.store, task.params["features"], number)
        taken = min(block, count - number * block)
        for name in names:
            whole = outputs.setdefault(name, np.empty((count, *arrays[name].shape[1:]), arrays[name].dtype))
            whole[number * block : number * block + taken] = arrays[name][:taken]
        sample_s, extract_s = sample_s + record["sampled"]["seconds"], extract_s + record["seconds"]
        calls += record["sampled"]["network_calls"] * taken / count
        micro_batches.add(record["sampled"]["micro_batch"])
        devices.add(record["sampled"]["device"])
        kind = record["sampled"].get("kind_of_device", {})
        kinds[canonical(kind)] = kind
        context.tell(task.digest, number + 1, -(-count // block) + 1)
    return outputs, {
        "sample_seconds": round(sample_s, 3),
        "extract_seconds": round(extract_s, 3),
        "network_calls": round(calls) if abs(calls - round(calls)) < 1e-9 else round(calls, 2),
        "micro_batches": sorted(micro_batches),
        "devices": sorted(devices),
        "kinds_of_device": [kinds[key] for key in sorted(kinds)],
    }


KIND = Kind(
    version=1,
    run=run,
    guess_s=lambda task, costs: 20.0,
    scores_cells=True,
    column="scores",
    cost_class=lambda task, costs: [task.params["metric"], task.params.get("count")],
)
