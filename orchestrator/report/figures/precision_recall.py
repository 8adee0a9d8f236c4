"""Precision against recall: fidelity against diversity. One panel per sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.report.estimates import Estimate, estimate, panel_title
from orchestrator.report.figures.captions import sample_words
from orchestrator.report.figures.colours import Colours
from orchestrator.report.figures.curves import CROWD_WORDS, Curve, Panel, is_crowd, labelled, panels_of
from orchestrator.report.figures.drawing import Drawing
from orchestrator.report.figures.panels import Name, Names, axis_limits, axis_titles, panels
from orchestrator.report.formatting import metric_name, plural, short
from orchestrator.report.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMED_POINTS = 10  # in a panel; with more, only the last of each line is named


def precision_recall(results: Results, recall: str, precision: str, colours: Colours) -> Drawing | None:
    """Diversity and fidelity by one extractor: the two values that their metric's `plane` names."""
    shown = panels_of(results, precision)
    if not shown:
        return None
    figure, all_axes = panels(len(shown))
    pairs = [pair for panel in shown for curve in panel.curves for pair in _pairs(curve, recall)]
    xs, ys = ([value for pair in pairs for value in (*pair[at].seeds, pair[at].mean)] for at in (1, 0))
    all_axes[0].set(xlim=axis_limits(xs, pad=0.12), ylim=axis_limits(ys, pad=0.12))
    for axes, panel in zip(all_axes, shown, strict=True):
        axes.set_title(panel_title(panel.params, [other.params for other in shown]))
        axes.grid(axis="x")
        _panel(axes, panel, recall, labelled(results, precision, panel), colours)
    suffix = results.suffix(precision)
    diversity, fidelity = metric_name(results, recall), metric_name(results, precision)
    axis_titles(all_axes, f"{diversity}: diversity", f"{fidelity}: fidelity")
    seeds = max(len(pair[0].seeds) for pair in pairs) if pairs else 0
    caption = (
        f"{_upper(_bare(results, precision))} against {diversity}, {sample_words(results, precision)}. Filled: mean "
        f"over {plural(seeds, 'training seed')}{'; small: each seed' if seeds > 1 else ''}. A line joins the settings "
        "of an arm in the order of its scale. Up and right is better."
    )
    caption += f" {CROWD_WORDS}" if any(map(is_crowd, shown)) else ""
    title = f"{_upper(fidelity)} against {_bare(results, recall)}"
    name = f"{precision.removesuffix(suffix)}_{recall}"
    return Drawing(name, "precision_recall", title, caption, figure, len(shown) > 1)


def _bare(results: Results, metric: str) -> str:
    """A metric's name without its extractor."""
    return metric_name(results, metric).partition(" (")[0]


def _upper(words: str) -> str:
    return words[:1].upper() + words[1:]


def _pairs(curve: Curve, recall: str) -> list[tuple[Estimate, Estimate]]:
    pairs = [(point.estimate, estimate(point.group, recall)) for point in curve.points]
    return [(precision, known) for precision, known in pairs if known is not None]


def _panel(axes: Axes, panel: Panel, recall: str, kept: set[str], colours: Colours) -> None:
    names, wanted = Names(axes), []
    every = sum(len(curve.points) for curve in panel.curves) <= NAMED_POINTS
    for curve in panel.curves:
        mark = colours.mark(curve.arm)
        known = [(point, estimate(point.group, recall)) for point in curve.points]
        both = [(point, other) for point, other in known if other is not None]
        if not both:
            continue
        xs, ys = [other.mean for _, other in both], [point.estimate.mean for point, _ in both]
        axes.plot(
            xs,
            ys,
            color=mark,
            linewidth=1.1,
            marker=colours.marker(curve.arm),
            markersize=5.5,
            markeredgewidth=0,
            zorder=3,
        )
        for point, other in both:
            if len(other.seeds) == len(point.estimate.seeds) > 1:
                axes.plot(
                    other.seeds,
                    point.estimate.seeds,
                    linestyle="none",
                    color=mark,
                    marker=colours.marker(curve.arm),
                    markersize=2.6,
                    markeredgewidth=0,
                    alpha=0.55,
                    zorder=2,
                )
                for pair in zip(other.seeds, point.estimate.seeds, strict=True):
                    names.avoid([pair[0]], [pair[1]])
        names.avoid(xs, ys)
        last = len(both) - 1
        for place, (point, _) in enumerate(both):
            if curve.name in kept and (every or place == last):
                scale = "" if point.x is None or last == 0 else f" {short(point.x)}"
                wanted.append(Name(curve.name + scale, colours.text(curve.arm), [(xs[place], ys[place])]))
    names.place(wanted)
