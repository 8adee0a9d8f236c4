"""A distance against the guidance scale: a panel for each sampler and guidance, a line for each arm, all its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.report.estimates import Estimate, panel_title, standings
from orchestrator.report.figures.captions import band_words, floor_words, sample_words
from orchestrator.report.figures.colours import Colours
from orchestrator.report.figures.curves import (
    CROWD_WORDS,
    Curve,
    Panel,
    by_guidance,
    is_crowd,
    labelled,
    panels_of,
    scale_title,
)
from orchestrator.report.figures.drawing import Drawing
from orchestrator.report.figures.panels import COLUMNS, Name, Names, axis_limits, axis_titles, muted_line, panels
from orchestrator.report.formatting import CUT, metric_name, value_text
from orchestrator.report.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAND = 0.12  # opacity


def against_scale(results: Results, metric: str, colours: Colours) -> Drawing | None:
    shown = by_guidance(results, panels_of(results, metric))
    if not shown:
        return None
    title = metric_name(results, metric)
    guided = len({panel.guidance for panel in shown})
    columns = guided if 1 < guided <= COLUMNS else None
    figure, all_axes = panels(len(shown), columns=columns, share_x=False)
    known = [point.estimate for panel in shown for curve in panel.curves for point in curve.points]
    floor = results.floor_of(metric)
    label = f"held-out {value_text(floor.value)} ({floor.words})" if floor else ""
    low, high = axis_limits(
        [seed for one in known for seed in one.seeds] + ([floor.value] if floor else []),
        [bound for one in known for bound in (one.low, one.high)],
    )
    all_axes[0].set_ylim(low, high)
    for axes, panel in zip(all_axes, shown, strict=True):
        axes.set_title(panel_title(panel.params, [other.params for other in shown]))
        frame = _frame([other for other in shown if other.guidance == panel.guidance])
        axes.set_xlim(frame)
        axes.set_xlabel(scale_title(panel.guidance))
        kept = labelled(results, metric, panel)
        foremost = [curve for curve in _foremost(results, metric, panel) if curve.name in kept]
        if floor:
            muted_line(axes, floor.value, label)
        _panel(axes, panel, foremost, kept, colours, frame, (floor.value, label) if floor else None)
    axis_titles(all_axes, "", title, columns)
    several = any(len({curve.arm for curve in panel.curves}) < len(panel.curves) for panel in shown)
    cut = any(bound is not None and not low <= bound <= high for one in known for bound in (one.low, one.high))
    caption = " ".join(
        filter(
            None,
            (
                f"{title} against the guidance scale, {sample_words(results, metric)}.",
                "Each guidance has its own axis; curves start where it is off, at the arm's baseline."
                if guided > 1
                else "Curves start where the guidance is off, at the arm's baseline.",
                band_words(known, "Bands"),
                "An arm without a scale is a horizontal line.",
                "Where an arm has several lines, the best has the band." if several else "",
                "Bands are cut at the frame." if cut else "",
                CUT if any(one.cut for one in known) else "",
                CROWD_WORDS if any(map(is_crowd, shown)) else "",
                floor_words(results, metric),
            ),
        )
    )
    return Drawing(f"{metric}_scale", "scale", f"{title} against guidance scale", caption, figure, len(shown) > 1)


def _frame(panels: Sequence[Panel]) -> tuple[float, float]:
    """The limits of the scale's axis, with room for the names."""
    xs = [point.x for panel in panels for curve in panel.curves for point in curve.points if point.x is not None]
    left, right = axis_limits(xs, pad=0.06)
    return left, right + 0.14 * (right - left)


def _foremost(results: Results, metric: str, panel: Panel) -> list[Curve]:
    """The curve with each arm's best point. If an arm has several curves, only this one has a band."""
    best: dict[str, tuple[float, Curve]] = {}
    for curve in panel.curves:
        value = min(standings(results, metric, [point.estimate for point in curve.points]))
        if curve.arm not in best or value < best[curve.arm][0]:
            best[curve.arm] = (value, curve)
    return [curve for _, curve in best.values()]


def _panel(
    axes: Axes,
    panel: Panel,
    foremost: list[Curve],
    kept: set[str],
    colours: Colours,
    frame: tuple[float, float],
    floor: tuple[float, str] | None,
) -> None:
    """foremost: the curves with a band; kept: those with a name; floor: a line with its label."""
    names, wanted = Names(axes), []
    if floor:
        names.cover(*floor)
    width = frame[1] - frame[0]
    dodge = _dodges(panel, 0.012 * width)
    for curve in panel.curves:
        mark, marker = colours.mark(curve.arm), colours.marker(curve.arm)
        if all(point.x is None for point in curve.points):
            for point in curve.points:
                _level(axes, point.estimate, mark, frame)
                mean = point.estimate.mean
                names.avoid([frame[0], frame[1]], [mean, mean])
                anchors = [(frame[0] + share * width, mean) for share in (0.86, 0.02, 0.45)]
                wanted.append(Name(curve.name, colours.text(curve.arm), anchors))
            continue
        xs = [point.x + dodge.get(curve.name, 0.0) for point in curve.points if point.x is not None]
        known = [point.estimate for point in curve.points if point.x is not None]
        means = [one.mean for one in known]
        if len(xs) == 1:
            bar(axes, xs[0], known[0], mark)
        elif all(one.low is not None for one in known) and curve in foremost:
            axes.fill_between(
                xs,
                [one.low or 0.0 for one in known],
                [one.high or 0.0 for one in known],
                color=mark,
                alpha=BAND,
                linewidth=0,
            )
        axes.plot(
            xs,
            means,
            color=mark,
            linewidth=1.6 if curve in foremost else 0.8,
            marker=marker,
            markersize=5,
            markeredgewidth=0,
            zorder=3,
        )
        for x, one in zip(xs, known, strict=True):
            seeds(axes, [x] * len(one.seeds), one.seeds, mark)
            names.avoid([x] * len(one.seeds), list(one.seeds))
        names.avoid(xs, means)
        if curve.name in kept:
            wanted.append(Name(curve.name, colours.text(curve.arm), [(xs[-1], means[-1]), (xs[0], means[0])]))
    names.place(wanted)


def _level(axes: Axes, known: Estimate, colour: str, frame: tuple[float, float]) -> None:
    """An arm without a scale: a horizontal line with its band, its seeds at the left edge."""
    if known.low is not None and known.high is not None:
        axes.axhspan(known.low, known.high, color=colour, alpha=BAND, linewidth=0)
    axes.axhline(known.mean, color=colour, linewidth=1.4, zorder=2)
    x = frame[0] + 0.012 * (frame[1] - frame[0])
    seeds(axes, [x] * len(known.seeds), known.seeds, colour)


def bar(axes: Axes, x: float, known: Estimate, colour: str) -> None:
    """The interval of a single point, as a vertical bar."""
    if known.low is not None and known.high is not None:
        axes.plot([x, x], [known.low, known.high], color=colour, linewidth=1.2, alpha=0.7, zorder=2)


def seeds(axes: Axes, xs: list[float], ys: tuple[float, ...] | list[float], colour: str) -> None:
    """Every training seed, small and hollow."""
    if len(ys) > 1:
        axes.plot(
            xs,
            ys,
            linestyle="none",
            marker="o",
            markersize=3.2,
            markerfacecolor="none",
            markeredgecolor=colour,
            markeredgewidth=0.7,
            alpha=0.85,
            zorder=4,
        )


def _dodges(panel: Panel, step: float) -> dict[str, float]:
    """Offsets that draw single points at the same scale slightly apart."""
    at: dict[float, list[Curve]] = {}
    for curve in panel.curves:
        for point in curve.points:
            if point.x is not None:
                at.setdefault(point.x, []).append(curve)
    return {
        curve.name: step * (place - (len(sharing) - 1) / 2) * 1.5
        for sharing in at.values()
        if len(sharing) > 1
        for place, curve in enumerate(sharing)
        if len(curve.points) == 1
    }
