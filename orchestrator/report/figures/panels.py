"""Panels with margins in inches, their limits, and names next to their lines."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.report.figures.colours import MUTED
from orchestrator.report.figures.drawing import COLUMN, PAGE

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHTS = {1: 2.1, 2: 2.1, 4: 1.9}  # inches of the axes, by the number of panels
MANY = 1.6  # of other numbers
COLUMNS = 3
LEFT, RIGHT, TOP, BOTTOM = 0.52, 0.1, 0.28, 0.42
GAP_X, GAP_Y = 0.22, 0.62


def panels(
    count: int,
    height: float | None = None,
    columns: int | None = None,
    wide: bool = False,
    left: float = LEFT,
    share_x: bool = True,
    share_y: bool = True,
    gap_y: float = GAP_Y,
    top: float = TOP,
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels in rows of `columns`, with shared axes by default. It is as wide as a paper's column
    if it has one panel and is not `wide`, else as wide as a page. height: of the axes in inches.
    """
    from matplotlib.figure import Figure

    height = height or HEIGHTS.get(count, MANY)
    columns = min(columns or across(count), count)
    rows = -(-count // columns)
    whole = (PAGE if wide or count > 1 else COLUMN, top + rows * height + (rows - 1) * gap_y + BOTTOM)
    gap_x = GAP_X if share_y else LEFT
    width = (whole[0] - left - RIGHT - (columns - 1) * gap_x) / columns
    figure = Figure(figsize=whole)
    all_axes: list[Axes] = []
    for place in range(count):
        row, column = divmod(place, columns)
        x = left + column * (width + gap_x)
        y = BOTTOM + (rows - 1 - row) * (height + gap_y)
        first = all_axes[0] if all_axes else None
        place_in = (x / whole[0], y / whole[1], width / whole[0], height / whole[1])
        axes = figure.add_axes(place_in, sharex=first if share_x else None, sharey=first if share_y else None)
        if column and share_y:
            axes.tick_params(labelleft=False)
        all_axes.append(axes)
    return figure, all_axes


def across(count: int) -> int:
    """The number of panels in a row."""
    return 2 if count == 4 else min(count, COLUMNS)


def axis_titles(all_axes: Sequence[Axes], x: str, y: str, columns: int | None = None) -> None:
    """The x title under the lowest panel of each column, the y title at the first of each row."""
    columns = columns or across(len(all_axes))
    for place, axes in enumerate(all_axes):
        if place % columns == 0:
            axes.set_ylabel(y)
        if x and place + columns >= len(all_axes):
            axes.set_xlabel(x)


def axis_limits(values: Iterable[float], bands: Iterable[float | None] = (), pad: float = 0.08) -> tuple[float, float]:
    """Limits with room for all values. Bands widen them up to a limit and are cut beyond."""
    inside = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(inside), max(inside)
    span = (high - low) or abs(high) * 0.2 or 1.0
    wide = [band for band in bands if band is not None and math.isfinite(band)]
    low = max(min([low, *wide]), low - 0.6 * span)
    high = min(max([high, *wide]), high + 0.6 * span)
    return low - pad * (high - low or span), high + pad * (high - low or span)


@dataclass
class Name:
    """A name to place next to the first of its anchors that has room."""

    text: str
    colour: str
    anchors: Sequence[tuple[float, float]]  # in data coordinates


SIZE = 7.0
OFFSETS = [
    (x * reach, y * reach)
    for reach in (1.0, 1.8, 3.0, 4.5, 6.5)
    for x, y in ((1, 0), (0.8, 0.7), (0.8, -0.7), (0, 1), (0, -1), (-0.8, 0.7), (-0.8, -0.7), (-1, 0))
]
REACH = 7.0  # points from an anchor to its name


@dataclass
class Names:
    """Places names so that they cover neither each other nor points and lines. Coordinates are points of the page."""

    axes: Axes
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    points: list[tuple[float, float]] = field(default_factory=list)

    def avoid(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        """Keep names off a line through these points (data coordinates)."""
        shown = self.axes.transData.transform(list(zip(xs, ys, strict=True))).tolist() if xs else []
        self.points += [(x, y) for x, y in shown]
        for (x0, y0), (x1, y1) in itertools.pairwise(shown):
            steps = max(2, int(math.hypot(x1 - x0, y1 - y0) / 5))
            self.points += [(x0 + (x1 - x0) * k / steps, y0 + (y1 - y0) * k / steps) for k in range(1, steps)]

    def cover(self, y: float, text: str) -> None:
        """Keep names off the label of a muted line at this height."""
        x, _, width, _ = self.axes.bbox.bounds
        low = float(self.axes.transData.transform((0.0, y))[1]) + 1
        self.boxes.append((x + width - 0.58 * SIZE * len(text), low, x + width, low + 1.3 * SIZE))

    def place(self, names: Iterable[Name]) -> None:
        for name in names:
            self._place(name)

    def _place(self, name: Name) -> None:
        import numpy as np

        width, height = 0.58 * SIZE * len(name.text), 1.15 * SIZE
        frame, points = self.axes.bbox.bounds, np.array(self.points).reshape(-1, 2).T
        best: tuple[float, float, float, tuple[float, float]] | None = None
        for rank, anchor in enumerate(name.anchors):
            x, y = self.axes.transData.transform(anchor)
            for dx, dy in OFFSETS:
                left = x + dx * REACH - (width if dx < 0 else width / 2 if dx == 0 else 0)
                low = y + dy * REACH - height / 2
                box = (left, low, left + width, low + height)
                bad = 1000 * self._covered(box) + 40 * _touched(box, *points) + 2000 * _outside(box, frame)
                bad += 6 * math.hypot(dx, dy) + (0 if dx > 0 else 4) + 3 * rank
                if best is None or bad < best[0]:
                    best = (bad, left, low, (float(x), float(y)))
        assert best is not None
        _, left, low, anchor = best
        self.boxes.append((left, low, left + width, low + height))
        middle = (left + width / 2, low + height / 2)
        side = "left" if left >= anchor[0] else "right" if left + width <= anchor[0] else "center"
        x = left if side == "left" else left + width if side == "right" else middle[0]
        to_x, to_y = self.axes.transAxes.inverted().transform((x, middle[1]))
        self.axes.text(
            to_x,
            to_y,
            name.text,
            transform=self.axes.transAxes,
            color=name.colour,
            fontsize=SIZE,
            ha=side,
            va="center_baseline",
        )
        if math.hypot(x - anchor[0], middle[1] - anchor[1]) > 2.2 * REACH:  # far away: a line leads to it
            ends = self.axes.transAxes.inverted().transform([anchor, (x, middle[1])])
            self.axes.plot(
                ends[:, 0], ends[:, 1], transform=self.axes.transAxes, color=name.colour, linewidth=0.5, zorder=1.5
            )

    def _covered(self, box: tuple[float, float, float, float]) -> float:
        """Overlap with names already placed, as a share of this one's area."""
        area = (box[2] - box[0]) * (box[3] - box[1])
        return (
            sum(
                max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
                * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
                for other in self.boxes
            )
            / area
        )


def _touched(box: tuple[float, float, float, float], x: np.ndarray, y: np.ndarray) -> int:
    """How many of the points lie in a box, or next to it."""
    return int(((box[0] - 2 < x) & (x < box[2] + 2) & (box[1] - 1 < y) & (y < box[3] + 1)).sum())


def _outside(box: tuple[float, float, float, float], frame: tuple[float, float, float, float]) -> bool:
    x, y, width, height = frame
    return box[0] < x or box[2] > x + width + 8 or box[1] < y or box[3] > y + height + 4


def muted_line(axes: Axes, y: float, text: str, x: float = 0.995) -> None:
    """A dotted, labelled line across the panel."""
    axes.axhline(y, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
    axes.annotate(
        text,
        (x, y),
        (0, 3),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        color=MUTED,
        fontsize=6.5,
        ha="right",
        va="bottom",
    )
