"""Whether the labels of a sweep's images, and their numbers, suffice for metrics by class."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from nag.registry import name_of
from orchestrator.spec.model import Cell, Network, ScoreSection, Sweep
from orchestrator.spec.reference_file import Published
from orchestrator.spec.user_code import StandIn
from orchestrator.spec.yaml_nodes import Node


def goes_by_class(metric: Any) -> bool:
    return not isinstance(metric, StandIn) and metric.least_of_class is not None


def check_classes(score: ScoreSection, cells: Iterable[Cell], node: Node, smoke: bool) -> None:
    """Raise if a metric by class has no labels, or no class with enough images. smoke: few samples are on purpose."""
    asked = {(id(cell.network), cell.sample.count): cell for cell in cells}
    for metric in filter(goes_by_class, score.metrics):
        for cell in asked.values():
            images = score.reference or cell.network.data
            problem = labels_problem(metric, images) or _unlike(metric, cell.network, images)
            if not smoke:
                problem = problem or _too_few_samples(metric, cell) or _too_few_images(metric, images, score.rows)
            if problem:
                raise node.error(f"{problem}.")


def labels_problem(metric: Any, images: Any) -> str | None:
    """Why a metric by class cannot use these images, or None. Reads a folder's listing."""
    if not goes_by_class(metric) or isinstance(images, StandIn):
        return None
    if isinstance(images, Published):
        fix = "compare with a data set, {name: image_folder, path: ...}"
        return f"{name_of(metric)!r} goes by class, and a published file has no labels; {fix}"
    if _classes(images) == 1:
        fix = "give each class a folder, or add a dataset.json with labels"
        return f"{name_of(metric)!r} goes by class, and the images of {name_of(images)!r} have no labels; {fix}"
    return None


def _classes(images: Any) -> int | None:
    """None if the images are not on this machine; invalid ones are reported elsewhere."""
    if images is None or isinstance(images, StandIn | Published):
        return None
    with contextlib.suppress(OSError, ValueError):
        return int(images.num_classes)
    return None


def _unlike(metric: Any, network: Network, images: Any) -> str | None:
    ours, theirs = network.classes, _classes(images)
    if ours is None or theirs is None or ours == theirs:
        return None
    what = f"{name_of(metric)!r} goes by class"
    return f"{what}, but network {network.name!r} has {ours:,} classes, its reference {theirs:,}"


def _too_few_samples(metric: Any, cell: Cell) -> str | None:
    classes = cell.network.classes
    if classes is None or -(-cell.sample.count // classes) >= metric.least_of_class:
        return None
    each, needed = cell.sample.count / classes, metric.least_of_class
    return (
        f"{name_of(metric)!r} needs at least {needed:,} samples of a class, and {cell.sample.count:,} samples of "
        f"{classes:,} classes are {each:.3g} each; raise sample.count to {needed * classes:,} or more"
    )


def _too_few_images(metric: Any, images: Any, rows: int) -> str | None:
    """Of the reference: its largest class among the first `rows`, which are those that are compared."""
    largest = _largest_class(images, rows)
    if largest is None or largest >= metric.least_of_class:
        return None
    return (
        f"{name_of(metric)!r} needs at least {metric.least_of_class:,} reference images of a class, and the largest "
        f"class of {name_of(images)!r} has {largest:,} among the first {rows:,}; give more images, or raise "
        "reference_rows"
    )


def _largest_class(images: Any, rows: int) -> int | None:
    if images is None or isinstance(images, StandIn | Published):
        return None
    import numpy as np

    from nag.datasets.dataset import originals

    with contextlib.suppress(OSError, ValueError):
        split = images.open("train")
        labels = split.labels(np.arange(min(rows, originals(split))))
        return int(np.unique(labels, return_counts=True)[1].max(initial=0))
    return None


def notes(sweep: Sweep) -> Iterator[str]:
    """A line where a distance by class will leave out every class, unless its features span fewer dimensions."""
    score = sweep.score
    for metric in score.metrics if score else ():
        if score is None or isinstance(metric, StandIn) or name_of(metric) != "fid_by_class" or metric.directions:
            continue
        for extractor in score.features:
            counts = {cell.sample.count // classes for cell in sweep.cells if (classes := cell.network.classes)}
            shape = next((cell.network.shape for cell in sweep.cells if cell.network.data is not None), None)
            wide = 0 if shape is None or isinstance(extractor, StandIn) else extractor.dims(shape).get("features", 0)
            if counts and 0 < max(counts) <= wide:
                yield (
                    f"score: 'fid_by_class' on {name_of(extractor)!r}: {max(counts):,} samples a class do not suffice "
                    f"for its {wide:,} columns, unless they span fewer dimensions; give directions: "
                    f"{max(1, max(counts) // 3)}"
                )
