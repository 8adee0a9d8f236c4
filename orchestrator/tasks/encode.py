"""encode: one block of a data set's training images as latents: mean and standard deviation of the posterior, of each
image and its flip.

A block is a shard of nag.datasets.latents; the last one may be shorter. The extract tasks of the same bundle take the
reference's features from its images while they are in memory. Trainings read the blocks as `Latents`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.identity import digest
from orchestrator.store.layout import block_name
from orchestrator.tasks.task import Costs, Kind, Task

if TYPE_CHECKING:
    import numpy as np

    from nag.datasets.dataset import Split
    from orchestrator.tasks.context import Context

ENCODED = 16  # images in the autoencoder at once: at 256 x 256 each takes a third of a GB there
Images = tuple[dict[str, "np.ndarray"], dict[str, Any]]


def run(context: Context, task: Task, number: int) -> None:
    import numpy as np

    from nag.datasets.dataset import skipped, to_uint8
    from nag.datasets.latents import encode_shard

    started = time.time()
    data, split, indices = _source(context, task, number)
    autoencoder = task.params["autoencoder"]
    vae = context.load("decoder", digest(autoencoder), lambda: opened(context, autoencoder))
    kept: list[np.ndarray] = []  # for the extract tasks of this bundle
    extracted = any(other.params.get("stream") == task.digest for other in context.tasks.values())
    done = 0

    def see(images: np.ndarray, labels: np.ndarray) -> None:
        nonlocal done
        done += len(labels)
        context.tell(task.digest, done, len(indices))
        if extracted:
            kept.append(to_uint8(images))

    arrays = encode_shard(split, indices, vae, batch=min(ENCODED, context.options.micro_batch), see=see)
    record = {
        "kind": task.kind,
        "digest": task.digest,
        "number": number,
        "count": len(indices),
        "num_classes": data.num_classes,
        "skipped": skipped(split),
        "started": round(started, 3),
        "seconds": round(time.time() - started, 4),
        "device": context.options.device,
        "micro_batch": min(ENCODED, context.options.micro_batch),
    }
    context.store.create_arrays(block_name(task.digest, number), arrays, record)
    if kept:
        images = {"samples": np.concatenate(kept), "labels": arrays["labels"]}
        context.load("block", _images_key(task, number), lambda: (images, {"skipped": record["skipped"]}))


def images_of(context: Context, task: Task, number: int) -> Images:
    """The images that a block encodes, uint8 (N, 3, H, W), and their labels; from memory if it was just encoded."""
    from nag.datasets.dataset import skipped, to_uint8

    def make() -> Images:
        _, split, indices = _source(context, task, number)
        images = {"samples": to_uint8(split.images(indices)), "labels": split.labels(indices)}
        return images, {"skipped": skipped(split)}

    return context.load("block", _images_key(task, number), make)


def _images_key(task: Task, number: int) -> str:
    return f"{block_name(task.digest, number)} images"


def _source(context: Context, task: Task, number: int) -> tuple[Any, Split, np.ndarray]:
    """The data set, its training split, a block's indices. Raises ValueError if the number of images has changed."""
    import numpy as np

    from nag.datasets.dataset import originals

    params = task.params
    data, split = context.load("split", task.digest, lambda: _opened(context, params["data"]))
    if originals(split) != params["count"]:
        raise ValueError(f"there are {originals(split):,} images to train on, {params['count']:,} were planned")
    first = number * params["block"]
    return data, split, np.arange(first, min(first + params["block"], params["count"]), dtype=np.int64)


def _opened(context: Context, data: Mapping[str, Any]) -> tuple[Any, Split]:
    dataset = context.rebuild("datasets", data)
    return dataset, dataset.open("train")


def opened(context: Context, autoencoder: Mapping[str, Any]) -> Any:
    """The autoencoder of this identity with its weights, on the device."""
    return context.rebuild("autoencoders", autoencoder).open(context.options.device)


def _images_in(task: Task, costs: Costs, record: Mapping[str, Any] | None) -> float:
    return float(record["count"] if record else task.params["block"])


KIND = Kind(
    version=2,
    run=run,
    guess_s=lambda task, costs: 25.0,
    makes_blocks=True,
    finite=True,
    unit="images",
    cost_units=_images_in,
)
