"""Samples of all arms: one row per arm, the same noise and class in a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.plan.model import StoredCell
from orchestrator.report.comparisons import Group
from orchestrator.report.figures.colours import MUTED, Colours
from orchestrator.report.figures.drawing import COLUMN, PAGE, Drawing
from orchestrator.report.figures.real_images import class_names, real_images
from orchestrator.report.formatting import label, listed
from orchestrator.report.results import Results
from orchestrator.store.store import Store
from orchestrator.tasks import previews
from orchestrator.tasks.sample import seed_of

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

CLASSES_AT_MOST = 12  # with more classes, the first samples of any class
COLUMNS = 10
TILE = 64  # pixels; smaller samples are enlarged by whole factors
INCHES, GAP = 0.56, 0.05  # the largest side of a picture, and the space between two
FEW = 5  # columns that fit a paper's column
LETTER = 0.062  # inches of a letter of a class's name


@dataclass(frozen=True)
class SampleRow:
    arm: str
    name: str
    samples: np.ndarray  # (n, C, H, W) uint8, the first ones
    labels: np.ndarray
    source: tuple[object, ...]  # what determines noise and labels
    stream: str = ""


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
    return SampleRow(group.arm, label(results, group), samples, labels, source, planned.stream)


def sample_grid(
    results: Results, sample_rows: Sequence[SampleRow], notes: Sequence[str], store: Store, colours: Colours
) -> Drawing | None:
    """A row of real images, then one for each arm, below the names of the classes."""
    if not sample_rows:
        return None
    import numpy as np

    source = sample_rows[0].source
    alike = [row for row in sample_rows if row.source == source]
    others = [row.name for row in sample_rows if row.source != source]
    labels = alike[0].labels
    classes = np.unique(labels[np.isfinite(labels)])  # a store may have labels that are not numbers
    by_class = 0 < len(classes) <= CLASSES_AT_MOST
    indices = [int(np.argmax(labels == k)) for k in classes] if by_class else list(range(min(COLUMNS, len(labels))))
    numbers = [int(labels[index]) for index in indices] if len(classes) else []
    shown = [(row.name, colours.text(row.arm), row.samples[indices]) for row in alike]
    real = real_images(results, store, alike[0].stream, numbers) if numbers else None
    if real is not None:
        shown.insert(0, ("real images", MUTED, previews.smaller(real)))
    names = class_names(results, alike[0].stream)
    titles = [names[k] if 0 <= k < len(names) else str(k) for k in numbers]
    figure = _grid(shown, titles)
    what = "the first sample of each class" if by_class else f"samples 0 to {len(indices) - 1}"
    caption = (
        f"A row is the best setting of an arm (first training seed), a column {what}: the same noise and class in "
        "every row. Not cherry-picked."
    )
    if real is not None:
        caption += " Above: the first training image of the class."
    if others:
        caption += f" Drawn from other noise or labels, so not shown: {listed(others)}."
    if notes:
        caption += f" Not shown: {'; '.join(notes)}."
    return Drawing("samples", "samples", "Samples from the same noise", caption, figure, tall=True)


def _grid(shown: Sequence[tuple[str, str, np.ndarray]], titles: Sequence[str]) -> Figure:
    """A figure of rows (name, colour, pictures), as wide as a paper's column or page."""
    from matplotlib.figure import Figure

    count, edge = len(shown[0][2]), 0.06
    left = min(1.5, 0.15 + 0.06 * max(len(name) for name, _, _ in shown))
    width = PAGE if count > FEW else COLUMN
    side = min(INCHES, (width - left - edge) / count - GAP)
    longest = max(map(len, titles), default=0)
    turned = longest * LETTER > side + GAP  # a name that is wider than its column
    top = 0.08 + (longest * LETTER * 0.72 if turned else 0.18)
    whole = (width, top + len(shown) * (side + GAP) + edge)
    figure = Figure(figsize=whole)
    page = figure.add_axes((0, 0, 1, 1))  # one for all, in inches: to draw axes takes longer than all else
    page.set_axis_off()
    for place, (name, colour, pictures) in enumerate(shown):
        low = edge + (len(shown) - 1 - place) * (side + GAP)
        page.text(left - 0.08, low + side / 2, name, ha="right", va="center", color=colour)
        for column, sample in enumerate(pictures):
            x, image = left + column * (side + GAP), picture(sample)
            extent = tile(x, low, side, *image.shape[:2])
            page.imshow(image, extent=extent, interpolation="none", aspect="auto", clip_on=False)
            if place == 0 and titles:
                middle = (x + (0 if turned else side / 2), low + side + 0.04)
                how: dict[str, Any] = {"rotation": 40, "rotation_mode": "anchor"} if turned else {"ha": "center"}
                page.text(*middle, titles[column], va="bottom", fontsize=7, color=MUTED, **how)
    page.set(xlim=(0, whole[0]), ylim=(0, whole[1]))
    return figure


def tile(x: float, low: float, side: float, height: int, width: int) -> tuple[float, float, float, float]:
    """Left, right, bottom, top of an image in the middle of the square whose lower left corner is (x, low)."""
    half_width, half_height = (side / 2 * each / max(height, width) for each in (width, height))
    x, y = x + side / 2, low + side / 2
    return x - half_width, x + half_width, y - half_height, y + half_height


def picture(sample: np.ndarray) -> np.ndarray:
    """(C, H, W) uint8 to (h, w, 3), enlarged so that no viewer blurs it."""
    import numpy as np

    pixels = np.moveaxis(np.broadcast_to(sample, (3, *sample.shape[1:])), 0, -1)
    times = max(1, -(-TILE // max(pixels.shape[:2])))
    return np.ascontiguousarray(pixels.repeat(times, axis=0).repeat(times, axis=1))
