"""reference: one extractor's outputs on a data set: the training split, which samples are held against, and the
held-out one.
"""

from __future__ import annotations

import time
from typing import Any

from orchestrator.store import pack
from orchestrator.tasks import Context, Task, finish

VERSION = 1
SPLITS = ("train", "held_out")


def run(context: Context, task: Task) -> None:
    import numpy as np

    started = time.time()
    data = context.rebuild("datasets", task.params["data"])
    sizes, files = {}, {}
    for split_name in SPLITS:
        split = data.open(split_name)
        sizes[split_name] = len(split)
        parts: list[dict[str, Any]] = []
        for first in range(0, len(split), context.options.micro_batch):
            indices = np.arange(first, min(first + context.options.micro_batch, len(split)))
            parts.append(_outputs(context, task, split.images(indices)) | {"labels": split.labels(indices)})
            context.tell(task.digest, SPLITS.index(split_name) * len(split) + len(indices), len(SPLITS) * len(split))
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        files[f"{split_name}.safetensors"] = pack(arrays, {"split": split_name})
    finish(context, task, files, {"sizes": sizes}, started)


def _outputs(context: Context, task: Task, images: Any) -> dict[str, Any]:
    import torch

    from nag.datasets import to_uint8

    outputs = context.extractor(task.params)(torch.from_numpy(to_uint8(images)).to(context.options.device))
    return {name: tensor.cpu().numpy() for name, tensor in outputs.items()}
