"""The worst and the best classes of an arm: the first samples of each, beside real images of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.errors import CorruptFile
from orchestrator.report.by_class import class_names
from orchestrator.report.comparisons import Group
from orchestrator.report.figures.colours import MUTED
from orchestrator.report.figures.drawing import Drawing
from orchestrator.report.figures.samples import picture
from orchestrator.report.formatting import label, metric_name, value_text
from orchestrator.report.results import Results
from orchestrator.store.arrays import unpack
from orchestrator.store.layout import file_name
from orchestrator.store.store import Store
from orchestrator.tasks import previews
from orchestrator.tasks.class_pictures import EACH, PICTURES, extremes

if TYPE_CHECKING:
    import numpy as np

INCHES, GAP = 0.42, 0.04
NAME = 18  # characters of a class's name
ENDS = ("worst", "best")
KINDS = {"samples": "samples", "real": "real images"}


def drawings(results: Results, chosen: Mapping[str, Group], store: Store) -> list[Drawing]:
    """One for each arm and each metric that ranks classes: of the first cell of the arm's best setting."""
    drawn = []
    for group, key, table in _ranked(chosen):
        arrays = _pictures(store, table["task"])
        if arrays is not None:
            drawn.append(_drawing(results, group, key, table, arrays))
    return drawn


def notes(results: Results, chosen: Mapping[str, Group], store: Store) -> list[str]:
    """Why pictures of classes are missing."""
    lines = []
    for group, key, table in _ranked(chosen):
        reason = table["no_pictures"]
        if reason is None and PICTURES not in store.list(f"files/{table['task']}"):
            reason = "the pictures are no longer in the store"
        if reason:
            lines.append(f"{label(results, group)}, {metric_name(results, key)}: {reason}")
    return lines


def _ranked(chosen: Mapping[str, Group]) -> Iterator[tuple[Group, str, Mapping[str, Any]]]:
    """The tables that rank classes, with their metrics."""
    for group in chosen.values():
        for key, table in group.cells[0].by_class.items():
            if table["ranks"]:
                yield group, key, table


def _pictures(store: Store, task: str) -> dict[str, np.ndarray] | None:
    """None if they are not there, or cannot be read."""
    try:
        arrays = unpack(store.read(file_name(task, PICTURES)))[0]
    except (CorruptFile, ValueError):
        return None
    for images, labels in (("samples", "of_samples"), ("real", "of_real")):
        if images in arrays and not (
            labels in arrays and previews.are_images(arrays[images]) and len(arrays[images]) == len(arrays[labels])
        ):
            return None
    return arrays if "samples" in arrays else None


def _drawing(
    results: Results, group: Group, key: str, table: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> Drawing:
    from matplotlib.figure import Figure

    names, ends = class_names(results, table), extremes(table)
    kinds = ["samples", *(["real"] if "real" in arrays else [])]
    beside = 0.3 + 0.07 * max(len(_short(names[place])) for places in ends for place in places)
    strip = EACH * (INCHES + GAP) + 0.12
    half, top = beside + len(kinds) * strip, 0.42
    whole = (2 * half + 0.2, top + max(map(len, ends)) * (INCHES + GAP) + 0.05)
    figure = Figure(figsize=whole)
    for end, places in enumerate(ends):
        left, height = end * (half + 0.1), len(places) * (INCHES + GAP)
        if not places:
            continue
        figure.text(left / whole[0] + 0.005, 1 - 0.14 / whole[1], ENDS[end], fontweight="bold")
        for row, place in enumerate(places):
            y = whole[1] - top - row * (INCHES + GAP) - INCHES / 2
            words = f"{_short(names[place])}\n{value_text(table['values'][table['ranks']][place])}"
            at = (left + beside - 0.08) / whole[0], y / whole[1]
            figure.text(*at, words, ha="right", va="center", fontsize=7.5)
        for number, kind in enumerate(kinds):
            x = left + beside + number * strip
            figure.text(x / whole[0], 1 - 0.3 / whole[1], KINDS[kind], color=MUTED, fontsize=8)
            size = EACH * (INCHES + GAP), height
            corner = x / whole[0], (whole[1] - top - height) / whole[1]
            axes = figure.add_axes((*corner, size[0] / whole[0], size[1] / whole[1]))
            axes.set_axis_off()
            grid = _grid(arrays[kind], arrays[f"of_{kind}"], [table["labels"][place] for place in places])
            axes.imshow(grid, interpolation="none", aspect="auto")
    name, words = label(results, group), metric_name(results, key)
    caption = (
        f"{name}: the classes that are worst and best by {words}, of the first training seed, with that value"
        f"{' without its bias in N' if table['ranks'] == 'extrapolated' else ''}; the first {EACH} samples of each"
        f"{', then reference images of it' if 'real' in kinds else ''}. Not cherry-picked."
    )
    title = f"{name}: worst and best classes by {words}"
    return Drawing(f"by_class_{key}_{group.arm}", "by_class", title, caption, figure, tall=True)


def _grid(images: np.ndarray, of: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """(h, w, 4) uint8: a row for each class with its pictures, transparent between them. One image, as hundreds of axes
    take minutes to draw.
    """
    import numpy as np

    side = max(picture(images[0]).shape[:2])
    step = side + max(1, round(side * GAP / INCHES))
    grid = np.zeros((len(labels) * step, EACH * step, 4), np.uint8)
    for row, number in enumerate(labels):
        for column, image in enumerate(images[of == number][:EACH]):
            tile = picture(image)
            place = grid[row * step :, column * step :][: tile.shape[0], : tile.shape[1]]
            place[..., :3], place[..., 3] = tile, 255
    return grid


def _short(name: str) -> str:
    return name if len(name) <= NAME else f"{name[: NAME - 1]}…"
