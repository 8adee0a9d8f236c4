"""Pictures of the classes that a metric ranks worst and best: their first samples, beside their first real images.

A score task makes them, as it knows the classes: of 1,000 classes of latents only those that are shown are decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.store.arrays import pack
from orchestrator.store.layout import block_name
from orchestrator.tasks import extract, previews
from orchestrator.tasks.context import Context
from orchestrator.tasks.outputs import read_block
from orchestrator.tasks.task import Task

if TYPE_CHECKING:
    import numpy as np

    from orchestrator.tasks.reference import ReferenceArrays

PICTURES = "classes.safetensors"
CLASSES = 10  # worst, and best, at most
EACH = 4  # samples, and real images, of a class
SIDE = 64  # pixels at most

Table = Mapping[str, Any]  # nag.metrics.metric.ByClass


def extremes(table: Table) -> tuple[list[int], list[int]]:
    """The places of the worst classes, the worst first, and of the best, the best first; no class is among both."""
    column = table["values"].get(table["ranks"], ())
    sign = 1 if table["lower_is_better"] else -1
    ranked = sorted((sign * value, place) for place, value in enumerate(column) if value is not None)
    order = [place for _, place in ranked]
    few = min(CLASSES, len(order) // 2)
    return order[::-1][: max(few, min(1, len(order)))], order[:few]


def of(
    context: Context, task: Task, table: Table, labels: np.ndarray, reference: ReferenceArrays
) -> tuple[dict[str, bytes], str | None]:
    """{PICTURES: ...} for a score task of a cell, and what is not in it and why. labels: of the cell's samples.

    Arrays: samples (n, C, h, w) uint8 with their classes of_samples (n,), real and of_real.
    """
    classes = [table["labels"][place] for places in extremes(table) for place in places]
    try:
        arrays = _samples(context, task, _first_of(labels, classes))
    except previews.NoPicture as error:
        return {}, f"no pictures: {error}"
    arrays["of_samples"] = labels[_first_of(labels, classes)]
    rows = _first_of(reference["labels"], classes)
    note = None
    try:
        arrays |= {"real": _real(context, reference, rows), "of_real": reference["labels"][rows]}
    except (OSError, ValueError, KeyError) as error:  # the reference was made on another machine, or long ago
        note = f"no real images: {error}"
    return {PICTURES: pack(arrays, {})}, note


def _first_of(labels: np.ndarray, classes: Iterable[int]) -> np.ndarray:
    """The rows of the first images of each class, ascending."""
    import numpy as np

    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:EACH] for label in classes]))


def _samples(context: Context, task: Task, rows: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    """Raises NoPicture if they are not in the store, or not images."""
    import numpy as np

    made = context.task(task.params["features"]).params
    stream, block, parts = made["stream"], task.params["block"], []
    for number in np.unique(np.asarray(rows) // block).tolist():
        if not context.store.exists(block_name(stream, number)):
            raise previews.NoPicture("the samples are no longer in the store")
        arrays, _ = read_block(context.store, stream, number)
        parts.append(arrays["samples"][[row - number * block for row in rows if row // block == number]])
    samples = np.concatenate(parts)
    if decode := made.get("decode"):
        samples = extract.decoded_by(context, decode, samples)
    if not previews.are_images(samples):
        raise previews.NoPicture(f"samples of shape {samples.shape[1:]}, which nothing decodes")
    return {"samples": previews.smaller(samples, SIDE)}


def _real(context: Context, reference: ReferenceArrays, rows: np.ndarray) -> np.ndarray:
    """The reference's rows are its first images, in their order."""
    from nag.datasets.dataset import to_uint8

    data = context.rebuild("datasets", reference.task.params["data"])
    return previews.smaller(to_uint8(data.open("train").images(rows)), SIDE)
