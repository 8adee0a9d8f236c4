"""Precision against recall: fidelity against diversity. One panel per sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.report.estimates import Estimate, panel_title, shown_estimate
from orchestrator.report.figures.captions import band_words, sample_words
from orchestrator.report.figures.colours import Colours
from orchestrator.report.figures.curves import CROWD_WORDS, Curve, Panel, is_crowd, labelled, panels_of
from orchestrator.report.figures.drawing import Drawing
from orchestrator.report.figures.panels import Name, Names, axis_limits, axis_titles, panels
from orchestrator.report.formatting import CUT, metric_name, plural, short
from orchestrator.report.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMED_POINTS = 10  # in a panel; with more, only the last of each line is named


def precision_recall(results: Results, recall: str, precision: str, colours: Colours) -> Drawing | None:
    """Diversity and fidelity by one extractor: the two values that their metric's `plane` names."""
    shown = [panel for panel in panels_of(results, precision) if any(_pairs(results, c, recall) for c in panel.curves)]
    if not shown:
        return None
    figure, all_axes = panels(len(shown))
    pairs = [pair for panel in shown for curve in panel.curves for pair in _pairs(results, curve, recall)]
    xs, ys = ([value for pair in pairs for value in (*pair[at].seeds, pair[at].mean)] for at in (1, 0))
    wide, high = ([bound for pair in pairs for bound in (pair[at].low, pair[at].high)] for at in (1, 0))
    all_axes[0].set(xlim=axis_limits(xs, wide, pad=0.12), ylim=axis_limits(ys, high, pad=0.12))
    inside = [*all_axes[0].get_xlim(), *all_axes[0].get_ylim()]
    for axes, panel in zip(all_axes, shown, strict=True):
        axes.set_title(panel_title(panel.params, [other.params for other in shown]))
        axes.grid(axis="x")
        axes.locator_params(axis="x", nbins=5)
        _panel(axes, results, panel, recall, labelled(results, precision, panel), colours)
    suffix = results.suffix(precision)
    diversity, fidelity = metric_name(results, recall), metric_name(results, precision)
    axis_titles(all_axes, f"{diversity}: diversity", f"{fidelity}: fidelity")
    seeds = max(len(pair[0].seeds) for pair in pairs) if pairs else 0
    caption = (
        f"{_upper(_bare(results, precision))} against {diversity}, {sample_words(results, precision)}. Filled: mean "
        f"over {plural(seeds, 'training seed')}{'; small: each seed' if seeds > 1 else ''}. A line joins the settings "
        "of an arm in the order of its scale. Up and right is better."
    )
    known = [one for pair in pairs for one in pair]
    caption += f" {band_words(known, 'Bars')}" if any(one.low is not None for one in known) else ""
    caption += f" {CUT}" if any(one.cut for one in known) else ""
    caption += " Bars are cut at the frame." if _beyond(wide, inside[:2]) or _beyond(high, inside[2:]) else ""
    caption += f" {CROWD_WORDS}" if any(map(is_crowd, shown)) else ""
    title = f"{_upper(fidelity)} against {_bare(results, recall)}"
    name = f"{precision.removesuffix(suffix)}_{recall}"
    return Drawing(name, "precision_recall", title, caption, figure, len(shown) > 1)


def _bare(results: Results, metric: str) -> str:
    """A metric's name without its extractor."""
    return metric_name(results, metric).partition(" (")[0]


def _upper(words: str) -> str:
    return words[:1].upper() + words[1:]


def _beyond(bounds: Sequence[float | None], limits: Sequence[float]) -> bool:
    return any(bound is not None and not limits[0] <= bound <= limits[1] for bound in bounds)


def _bars(axes: Axes, names: Names, x: Estimate, y: Estimate, colour: str) -> None:
    """The intervals of a point, as thin bars."""
    how: dict[str, Any] = {"color": colour, "linewidth": 0.7, "alpha": 0.45, "zorder": 1.5}
    if x.low is not None and x.high is not None:
        axes.plot([x.low, x.high], [y.mean, y.mean], **how)
        names.avoid([x.low, x.high], [y.mean, y.mean])
    if y.low is not None and y.high is not None:
        axes.plot([x.mean, x.mean], [y.low, y.high], **how)
        names.avoid([x.mean, x.mean], [y.low, y.high])


def _pairs(results: Results, curve: Curve, recall: str) -> list[tuple[Estimate, Estimate]]:
    pairs = [(point.estimate, shown_estimate(results, point.group, recall)) for point in curve.points]
    return [(precision, known) for precision, known in pairs if known is not None]


def _panel(axes: Axes, results: Results, panel: Panel, recall: str, kept: set[str], colours: Colours) -> None:
    names, wanted = Names(axes), []
    every = sum(len(curve.points) for curve in panel.curves) <= NAMED_POINTS
    for curve in panel.curves:
        mark = colours.mark(curve.arm)
        known = [(point, shown_estimate(results, point.group, recall)) for point in curve.points]
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
            _bars(axes, names, other, point.estimate, mark)
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
