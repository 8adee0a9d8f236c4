"""A distance against NFE (network function evaluations). The best setting of each arm at each NFE."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.report.comparisons import Group
from orchestrator.report.estimates import Estimate, best, cost, panel_title, price, shown_estimate, standings
from orchestrator.report.figures.captions import band_words, floor_words, sample_words
from orchestrator.report.figures.colours import MUTED, Colours
from orchestrator.report.figures.curves import CROWD_WORDS, Panel, is_crowd, labelled, panels_of
from orchestrator.report.figures.drawing import Drawing
from orchestrator.report.figures.panels import TOP, Name, Names, axis_limits, axis_titles, muted_line, panels
from orchestrator.report.figures.scale import bar, seeds
from orchestrator.report.formatting import CUT, calls_text, label, metric_name, value_text
from orchestrator.report.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOG_FROM = 4.0  # ratio of the highest to the lowest NFE from which the axis is logarithmic


def against_calls(results: Results, metric: str, colours: Colours) -> Drawing | None:
    shown = panels_of(results, metric, sampler=False)
    if not shown:
        return None
    prices = [calls for panel in shown for group in _groups(panel) if (calls := price(group))]
    if not prices:
        return None
    title = metric_name(results, metric)
    figure, all_axes = panels(len(shown), top=TOP if len(shown) > 1 else 0.1)
    known = [one for panel in shown for group in _groups(panel) if (one := shown_estimate(results, group, metric))]
    floor = results.floor_of(metric)
    all_axes[0].set_ylim(
        axis_limits(
            [seed for one in known for seed in one.seeds] + ([floor.value] if floor else []),
            [bound for one in known for bound in (one.low, one.high)],
        )
    )
    _price_axis(all_axes[0], prices)
    for axes, panel in zip(all_axes, shown, strict=True):
        axes.set_title(panel_title(panel.params, [other.params for other in shown]))
        label = f"held-out {value_text(floor.value)} ({floor.words})" if floor else ""
        if floor:
            muted_line(axes, floor.value, label)
        _panel(axes, results, panel, metric, colours, (floor.value, label) if floor else None)
    axis_titles(all_axes, "NFE of one sample", title)
    caption = " ".join(
        filter(
            None,
            (
                f"{title} against NFE (network function evaluations of one sample), {sample_words(results, metric)}.",
                "Large: the best setting of an arm at this NFE, chosen on the same samples; pale: its other settings.",
                "Stepped line: the Pareto front: no setting at a lower or equal NFE is better."
                if len(set(prices)) > 1
                else "",
                band_words(known, "Vertical bars"),
                CUT if any(one.cut for one in known) else "",
                floor_words(results, metric),
                CROWD_WORDS if any(map(is_crowd, shown)) else "",
            ),
        )
    )
    return Drawing(f"{metric}_calls", "calls", f"{title} against NFE", caption, figure, len(shown) > 1)


def _groups(panel: Panel) -> list[Group]:
    return [point.group for curve in panel.curves for point in curve.points]


def _price_axis(axes: Axes, prices: list[float]) -> None:
    few = sorted(set(prices))
    if max(few) / min(few) > LOG_FROM:
        axes.set_xscale("log")
        axes.set_xlim(min(few) / 1.35, max(few) * 1.9)
    else:
        low, high = axis_limits(few, pad=0.15)
        axes.set_xlim(low, high + 0.12 * (high - low))  # for the names
    ticks: list[float] = []
    for value in few:  # labels that do not touch
        places = axes.transData.transform([(value, 1.0), (ticks[-1] if ticks else value, 1.0)])[:, 0]
        if not ticks or places[0] - places[1] > 20:
            ticks.append(value)
    axes.set_xticks(ticks, [calls_text(tick) for tick in ticks])
    axes.set_xticks([], minor=True)


def front(results: Results, metric: str, panel: Panel) -> list[tuple[float, float]]:
    """The Pareto front of a panel: (NFE, value) of settings with no better one at a lower or equal NFE."""
    points = [(calls, point.estimate.mean) for c in panel.curves for point in c.points if (calls := price(point.group))]
    kept: list[tuple[float, float]] = []
    for calls, value in sorted(points, key=lambda point: (point[0], cost(results, metric, point[1]))):
        if not kept or cost(results, metric, value) < cost(results, metric, kept[-1][1]):
            kept.append((calls, value))
    return kept


def _front(axes: Axes, points: list[tuple[float, float]], names: Names) -> Name:
    """Draw the front as steps to the right edge."""
    xs, ys = [x for x, _ in points] + [axes.get_xlim()[1]], [y for _, y in points] + [points[-1][1]]
    axes.plot(xs, ys, color=MUTED, linewidth=0.8, drawstyle="steps-post", zorder=1)
    for (x, y), after in itertools.pairwise(zip(xs, ys, strict=True)):
        names.avoid([x, after[0], after[0]], [y, y, after[1]])
    return Name("Pareto front", MUTED, [(xs[-1], ys[-1]), (xs[-2], ys[-1])])


def _panel(
    axes: Axes,
    results: Results,
    panel: Panel,
    metric: str,
    colours: Colours,
    floor: tuple[float, str] | None,
) -> None:
    names, wanted = Names(axes), []
    if floor:
        names.cover(*floor)
    points = front(results, metric, panel)
    last = [_front(axes, points, names)] if len({price(group) for group in _groups(panel)}) > 1 else []
    by_arm: dict[str, dict[float, list[Group]]] = {}
    for curve in panel.curves:
        for point in curve.points:
            calls = price(point.group)
            if calls:
                by_arm.setdefault(curve.arm, {}).setdefault(calls, []).append(point.group)
    dodge = _dodges(axes, by_arm)
    kept = {curve.arm for curve in panel.curves if curve.name in labelled(results, metric, panel)}
    for arm, at in by_arm.items():
        mark = colours.mark(arm)
        xs: list[float] = []
        means: list[tuple[Estimate, Group]] = []
        for calls, members in sorted(at.items()):
            x = dodge(arm, calls)
            top = best(results, members, metric)
            for group in members:
                known = shown_estimate(results, group, metric)
                assert known is not None
                if group is top:
                    _best(axes, x, known, mark)
                    xs, means = [*xs, x], [*means, (known, group)]
                    names.avoid([x] * len(known.seeds), list(known.seeds))
                else:
                    axes.plot(
                        x,
                        known.mean,
                        linestyle="none",
                        marker=colours.marker(arm),
                        markersize=4,
                        color=mark,
                        markeredgewidth=0,
                        alpha=0.35,
                    )
        ys = [known.mean for known, _ in means]
        axes.plot(
            xs, ys, color=mark, linewidth=1.2, marker=colours.marker(arm), markersize=6, markeredgewidth=0, zorder=3
        )
        names.avoid(xs, ys)
        costs = standings(results, metric, [known for known, _ in means])
        place = costs.index(min(costs))
        text = label(results, means[place][1]) if len(xs) == 1 else arm
        ends = [(xs[-1], ys[-1]), (xs[0], ys[0])] if len(xs) > 1 else [(xs[0], ys[0])]
        if arm in kept:
            wanted.append(Name(text, colours.text(arm), ends))
    names.place([*wanted, *last])


def _best(axes: Axes, x: float, known: Estimate, mark: str) -> None:
    bar(axes, x, known, mark)
    seeds(axes, [x] * len(known.seeds), known.seeds, mark)


def _dodges(axes: Axes, by_arm: dict[str, dict[float, list[Group]]]) -> Callable[[str, float], float]:
    """A function (arm, NFE) -> x that draws arms of the same NFE slightly apart."""
    step = 7.0  # points

    def place(arm: str, calls: float) -> float:
        sharing = [other for other, at in by_arm.items() if calls in at]
        shift = step * (sharing.index(arm) - (len(sharing) - 1) / 2)
        x, y = axes.transData.transform((calls, axes.get_ylim()[0]))
        return float(axes.transData.inverted().transform((x + shift, y))[0])

    return place
