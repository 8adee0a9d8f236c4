"""The effective guidance scale along the sampling: the CFG scale that would move each prediction as far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.report.figures.colours import INK, Colours
from orchestrator.report.figures.drawing import Drawing
from orchestrator.report.figures.levels import Line, drawn, panels_by_sampler
from orchestrator.report.figures.panels import Name, Names
from orchestrator.report.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def effective_scale(results: Results, colours: Colours) -> Drawing | None:
    """The scale by level: one panel per sampler, one line per arm."""
    every = panels_by_sampler(results, lambda cell: cell.effective_scale, "scale")
    if every is None:
        return None

    def behind(axes: Axes, names: Names, lines: Sequence[Line]) -> list[Name]:
        axes.axhline(1, color=INK, linewidth=0.8, zorder=1)
        return []

    figure = drawn(results, every, colours, "effective guidance scale", 1.0, behind)
    caption = every.caption(
        "Effective guidance scale: 1 + |update| / |D − D_null|, how far a guidance moves the prediction D, in units of "
        "the distance of D from the prediction under the null class. Plain CFG has its own scale at every level, no "
        "guidance 1. It compares lengths, not directions."
    )
    title = "Effective guidance scale along the sampling"
    return Drawing("effective_scale", "effective_scale", title, caption, figure, tall=True)
