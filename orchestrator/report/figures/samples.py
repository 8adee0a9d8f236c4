"""Samples of all arms: one row per arm, the same noise and class in a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.plan.model import StoredCell
from orchestrator.report.comparisons import Group
from orchestrator.report.figures.colours import MUTED, Colours
from orchestrator.report.figures.drawing import Drawing
from orchestrator.report.formatting import label, listed
from orchestrator.report.results import Results
from orchestrator.store.store import Store
from orchestrator.tasks import previews
from orchestrator.tasks.sample import seed_of

if TYPE_CHECKING:
    import numpy as np

CLASSES_AT_MOST = 12  # with more classes, the first samples of any class
COLUMNS = 10
TILE = 64  # pixels; smaller samples are enlarged by whole factors
INCHES, GAP, ABOVE = 0.56, 0.06, 0.055  # a tile, between two, between a class and its tiles


@dataclass(frozen=True)
class SampleRow:
    arm: str
    name: str
    samples: np.ndarray  # (n, C, H, W) uint8, the first ones
    labels: np.ndarray
    source: tuple[object, ...]  # what determines noise and labels


def rows(results: Results, chosen: Mapping[str, Group], store: Store) -> tuple[list[SampleRow], list[str]]:
    """The first samples of each arm's best setting and first training seed; and why an arm has none."""
    planned_of = {id(cell): planned for planned, cell in zip(results.plan.cells, results.cells, strict=True)}
    sample_rows: list[SampleRow] = []
    reasons: dict[str, list[str]] = {}
    for arm, group in chosen.items():
        cell = group.cells[0]
        row = _row(results, group, planned_of[id(cell)], store)
        if isinstance(row, str):
            reasons.setdefault(row, []).append(arm)
        else:
            sample_rows.append(row)
    return sample_rows, [f"{listed(arms)}: {reason}" for reason, arms in reasons.items()]


def _row(results: Results, group: Group, planned: StoredCell, store: Store) -> SampleRow | str:
    try:
        samples, labels = previews.read(store, planned.stream, planned.extracts)
    except FileNotFoundError:
        return "no samples in the store"
    except previews.NoPicture as error:
        return f"{error}, which have no preview"
    except ValueError as error:
        return f"samples that cannot be read ({error})"
    stream = results.plan.tasks[planned.stream]
    source = (seed_of(stream), stream.params["labels"], stream.params["block"], samples.shape[1:])
    return SampleRow(group.arm, label(results, group), samples, labels, source)


def sample_grid(sample_rows: Sequence[SampleRow], notes: Sequence[str], colours: Colours) -> Drawing | None:
    if not sample_rows:
        return None
    import numpy as np
    from matplotlib.figure import Figure

    source = sample_rows[0].source
    alike = [row for row in sample_rows if row.source == source]
    others = [row.name for row in sample_rows if row.source != source]
    labels = alike[0].labels
    classes = np.unique(labels)
    by_class = len(classes) <= CLASSES_AT_MOST
    indices = [int(np.argmax(labels == k)) for k in classes] if by_class else list(range(min(COLUMNS, len(labels))))
    left = 0.25 + 0.075 * max(len(row.name) for row in alike)
    height, width = len(alike) * (INCHES + GAP), len(indices) * (INCHES + GAP)
    top, edge = 0.3, 0.08
    whole = (left + width + edge, top + height + edge)
    figure = Figure(figsize=whole)
    page = figure.add_axes((0, 0, 1, 1))  # one for all, in inches: to draw axes takes longer than all else
    page.set_axis_off()
    for place, row in enumerate(alike):
        low = edge + (len(alike) - 1 - place) * (INCHES + GAP)
        page.text(left - 0.1, low + INCHES / 2, row.name, ha="right", va="center", color=colours.text(row.arm))
        for column, index in enumerate(indices):
            x, shown = left + column * (INCHES + GAP), picture(row.samples[index])
            page.imshow(
                shown, extent=tile(x, low, *shown.shape[:2]), interpolation="none", aspect="auto", clip_on=False
            )
            if place == 0 and by_class and np.isfinite(labels[index]):  # a store may have labels that are not numbers
                above = (x + INCHES / 2, low + INCHES + ABOVE)
                page.text(*above, str(int(labels[index])), ha="center", fontsize=8, color=MUTED)
    page.set(xlim=(0, whole[0]), ylim=(0, whole[1]))
    what = "the first sample of each class" if by_class else f"samples 0 to {len(indices) - 1}"
    caption = (
        f"A row is the best setting of an arm (first training seed), a column {what}: the same noise and class in "
        "every row. Not cherry-picked."
    )
    if others:
        caption += f" Drawn from other noise or labels, so not shown: {listed(others)}."
    if notes:
        caption += f" Not shown: {'; '.join(notes)}."
    return Drawing("samples", "samples", "Samples from the same noise", caption, figure, tall=True)


def tile(x: float, low: float, height: int, width: int) -> tuple[float, float, float, float]:
    """Left, right, bottom, top of an image in the middle of the square whose lower left corner is (x, low)."""
    half_width, half_height = (INCHES / 2 * side / max(height, width) for side in (width, height))
    x, y = x + INCHES / 2, low + INCHES / 2
    return x - half_width, x + half_width, y - half_height, y + half_height


def picture(sample: np.ndarray) -> np.ndarray:
    """(C, H, W) uint8 to (h, w, 3), enlarged so that no viewer blurs it."""
    import numpy as np

    pixels = np.moveaxis(np.broadcast_to(sample, (3, *sample.shape[1:])), 0, -1)
    times = max(1, -(-TILE // max(pixels.shape[:2])))
    return np.ascontiguousarray(pixels.repeat(times, axis=0).repeat(times, axis=1))
