"""Real images for the samples: the first training image of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.errors import NagbenchError
from orchestrator.report.results import Results
from orchestrator.store.store import Store
from orchestrator.tasks.context import Context

if TYPE_CHECKING:
    import numpy as np

SCANNED = 4096  # images in which each class is looked for
AT_MOST = 100_000  # images of a data set; to open a larger one takes too long for a report


def data_of(results: Results, stream: str) -> dict[str, Any]:
    """The identity of the data set of a stream's network; {} if its task names none."""
    task = results.plan.tasks.get(str(results.plan.tasks[stream].params["network"]))
    while task is not None and "data" not in task.params:
        task = results.plan.tasks.get(str(task.params.get("init", "")))
    return dict(task.params["data"]) if task else {}


def class_names(results: Results, stream: str) -> tuple[str, ...]:
    """The names of the classes of a data set in a folder; () if they have none."""
    content = data_of(results, stream).get("fields", {}).get("path")
    return tuple(results.plan.classes.get(str(content), ()))


def real_images(results: Results, store: Store, stream: str, labels: Sequence[int]) -> np.ndarray | None:
    """(len(labels), C, H, W) uint8; None if the data set is not on this machine, is of latents or a user's own code, is
    large, or lacks a class among its first images.
    """
    import numpy as np

    data = data_of(results, stream)
    sizes = [entry["stamp"].get("reference_size") or 0 for cell in results.cells for entry in cell.scores.values()]
    if "name" not in data or max(sizes, default=0) > AT_MOST:
        return None
    context = Context(store, tasks=dict(results.plan.tasks), places=dict(results.plan.places))
    try:
        dataset = context.rebuild("datasets", data)
        if dataset.stores != "pixels":
            return None
        split = dataset.open("train")
        known = np.asarray(split.labels(np.arange(min(len(split), SCANNED))))
        if not set(labels) <= set(known.tolist()):
            return None
        images = split.images(np.array([int(np.argmax(known == label)) for label in labels]))
    except (OSError, ValueError, KeyError, NagbenchError):
        return None
    pixels: np.ndarray = np.round((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8)
    return pixels
