"""Every arm's difference from its baseline with its interval, one row per setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from orchestrator.report.comparisons import Comparison, Group, groups
from orchestrator.report.estimates import best, distances, headline_metric, panel_of
from orchestrator.report.figures.captions import sample_words
from orchestrator.report.figures.colours import INK, MUTED, Colours
from orchestrator.report.figures.drawing import Drawing
from orchestrator.report.figures.panels import axis_limits, panels
from orchestrator.report.formatting import SAMPLING_NOISE, against, label, metric_name, over_seeds_text, row_of
from orchestrator.report.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROWS_AT_MOST = 24  # with more settings, only the best of each arm with each sampler
ROW = 0.26  # inches
LEFT_AT_MOST = 3.2  # inches of names
NARROW = 1.4  # inches of names with which the figure fits a column


def differences(
    results: Results, comparisons: Sequence[Comparison], chosen: Mapping[str, Group], colours: Colours
) -> Drawing | None:
    known = {row.metric for row in comparisons if row.difference is not None}
    metrics = [metric for metric in distances(results) if metric in known]
    if not metrics:
        return None
    shown = [group for arm in results.plan.sweep.arms if arm.against for group in groups(results, arm.name)]
    shown = [group for group in shown if row_of(comparisons, group, metrics[0])]
    every = len(shown)
    if len(shown) > ROWS_AT_MOST:
        shown = _best_in_panels(results, shown)
    if len(shown) > ROWS_AT_MOST:
        shown = [group for group in shown if chosen.get(group.arm) == group]
    if not shown:
        return None
    names = []
    for group in shown:
        row = row_of(comparisons, group, metrics[0])
        assert row is not None
        names.append(_name(label(results, group), against(results, row)))
    left = min(LEFT_AT_MOST, 0.15 + 0.059 * max(map(len, names)))
    wide = len(metrics) > 1 or left > NARROW
    figure, all_axes = panels(
        len(metrics), max(0.8, ROW * len(shown) + 0.2), columns=2, wide=wide, left=left, share_x=False
    )
    for axes, metric in zip(all_axes, metrics, strict=True):
        _panel(axes, results, comparisons, shown, metric, colours)
    all_axes[0].set_yticks(range(len(shown)), names)
    for text, group in zip(all_axes[0].get_yticklabels(), shown, strict=True):
        text.set_color(colours.text(group.arm))
    seeds = max(len(row.per_seed) for row in comparisons)
    kinds = {row.interval for row in comparisons if row.metric in metrics}
    words = [
        "Difference from the baseline; left of zero is better. Each distance is corrected for its bias in N, "
        f"{sample_words(results, metrics[0])}."
    ]
    if "t" in kinds:
        words.append(f"Bars: {over_seeds_text({seeds})}, paired by seed; small circles: each seed.")
    if "influence" in kinds:
        words.append(f"Bars{' with one seed' if 't' in kinds else ''}, paired by sample: {SAMPLING_NOISE}.")
    if len(shown) < every:
        words.append("Only the best setting of each arm, for each sampler, is shown.")
    return Drawing("differences", "verdict", "Difference from the baseline", " ".join(words), figure, tall=wide)


def _name(own: str, baseline: str) -> str:
    """`cfg 1.5 euler against plain`: the words at the end that both share once."""
    ours, theirs = own.split(" "), baseline.split(" ")
    while len(theirs) > 1 and len(ours) > 1 and ours.pop() == theirs[-1]:
        theirs.pop()
    return f"{own} against {' '.join(theirs)}"


def _best_in_panels(results: Results, shown: Sequence[Group]) -> list[Group]:
    """The best setting of each arm with each sampler."""
    metric = headline_metric(results)
    by_panel: dict[tuple[str, str], list[Group]] = {}
    for group in shown:
        by_panel.setdefault((group.arm, str(panel_of(results, group))), []).append(group)
    kept = [best(results, members, metric) if metric else None for members in by_panel.values()]
    return [group for group in kept if group is not None]


def _panel(
    axes: Axes,
    results: Results,
    comparisons: Sequence[Comparison],
    shown: Sequence[Group],
    metric: str,
    colours: Colours,
) -> None:
    axes.set_title(metric_name(results, metric))
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    values: list[float] = [0.0]
    bands: list[float | None] = []
    for place, group in enumerate(shown):
        row = row_of(comparisons, group, metric)
        if row is None or row.difference is None:
            axes.text(0, place, "  no difference", color=MUTED, fontsize=6.5, va="center")
            continue
        mark = colours.mark(group.arm)
        values += [row.difference, *row.per_seed]
        if row.low is not None and row.high is not None:
            bands += [row.low, row.high]
            axes.plot([row.low, row.high], [place, place], color=mark, linewidth=2.0, alpha=0.75, zorder=2)
        axes.plot(
            row.difference,
            place,
            marker=colours.marker(group.arm),
            markersize=6,
            color=mark,
            markeredgewidth=0,
            zorder=3,
        )
        if len(row.per_seed) > 1:
            axes.plot(
                row.per_seed,
                [place] * len(row.per_seed),
                linestyle="none",
                marker="o",
                markersize=3.2,
                markerfacecolor="none",
                markeredgecolor=mark,
                markeredgewidth=0.7,
                zorder=4,
            )
    axes.set_xlim(axis_limits(values, bands, pad=0.06))
    axes.locator_params(axis="x", nbins=6)
    axes.set_ylim(len(shown) - 0.5, -0.75)
    axes.set_xlabel(f"difference in {metric_name(results, metric)}")
