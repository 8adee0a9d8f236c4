"""extract: every output of one extractor on one block of stored samples."""

from __future__ import annotations

import time
from typing import Any

from orchestrator.tasks import Context, Task, block_name

VERSION = 1


def run(context: Context, task: Task, number: int) -> None:
    import numpy as np
    import torch

    stream = task.params["stream"]
    name = block_name(stream, number)
    arrays, sampled = context.load("block", name, lambda: context.store.read_arrays(name))
    started = time.time()
    extractor = context.extractor(task.params)
    parts: list[dict[str, Any]] = []
    for first in range(0, len(arrays["samples"]), context.options.micro_batch):
        batch = torch.from_numpy(arrays["samples"][first : first + context.options.micro_batch])
        parts.append({name: out.cpu().numpy() for name, out in extractor(batch.to(context.options.device)).items()})
    outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} | {"labels": arrays["labels"]}
    record = {
        "kind": task.kind,
        "digest": task.digest,
        "sampled": sampled,
        "started": round(started, 3),
        "seconds": round(time.time() - started, 4),
    }
    context.store.create_arrays(block_name(task.digest, number), outputs, record)
