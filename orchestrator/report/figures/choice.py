"""The curve of a choice: the metric against the one tuned value, and the chosen value on fresh samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.plan.model import Choice, Trial
from orchestrator.report.choices import confirmed_group, named
from orchestrator.report.estimates import estimate
from orchestrator.report.figures.colours import INK, Colours
from orchestrator.report.figures.drawing import Drawing
from orchestrator.report.figures.panels import across, axis_limits, panels
from orchestrator.report.formatting import listed, metric_name
from orchestrator.report.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AT_MOST = 6  # figures
WIDE = 10  # times the smallest value: then the axis is logarithmic


def choices(results: Results, colours: Colours) -> list[Drawing]:
    """A figure for each combination of the factors outside arms, with a panel for each choice of a single number.
    Other choices have their table.
    """
    by_factors: dict[str, list[Choice]] = {}
    for choice in results.choices:
        if tuned_number(choice):
            by_factors.setdefault(str(sorted(choice.params.items())), []).append(choice)
    shown = list(by_factors.values())[:AT_MOST]
    return [_figure(results, one, f"choices_{i}" if i else "choices", colours) for i, one in enumerate(shown)]


def _figure(results: Results, shown: Sequence[Choice], name: str, colours: Colours) -> Drawing:
    figure, all_axes = panels(len(shown), share_x=False)
    values = list[float]()
    for place, (axes, choice) in enumerate(zip(all_axes, shown, strict=True)):
        values += _panel(axes, results, choice, colours)
        if place % across(len(shown)) == 0:
            axes.set_ylabel(metric_name(results, choice.metric))
    all_axes[0].set_ylim(axis_limits(values, []))
    caption = (
        "How the settings were chosen, on other samples than those of the verdict: means over training seeds without "
        "the bias in N, at the first rung, where all have equally many samples. Filled: went on with more samples. "
        "Ring: chosen, or leading. Cross: the chosen setting on the verdict's samples."
    )
    scores = sorted({choice.first_score for choice in shown if " on " in choice.first_score})
    caption += f" The curves are of {listed(scores)}, which is lower than in full." if scores else ""
    return Drawing(name, "choices", "The choice, on other samples", caption, figure, len(shown) > 1)


def tuned_number(choice: Choice) -> str:
    """The one parameter in which the candidates differ, if it is a number in all; else ""."""
    keys = {key for trial in choice.trials for key in trial.params}
    varying = [key for key in sorted(keys) if len({str(trial.params.get(key)) for trial in choice.trials}) > 1]
    if len(varying) != 1 or len(_scored(choice)) < 2:
        return ""
    values = [trial.params.get(varying[0]) for trial in choice.trials]
    return varying[0] if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values) else ""


def _panel(axes: Axes, results: Results, choice: Choice, colours: Colours) -> list[float]:
    """Draw a choice, and return its values."""
    key, mark = tuned_number(choice), colours.mark(choice.arm)
    trials = sorted(_scored(choice), key=lambda one: float(one.params[key]))
    xs, ys = [float(one.params[key]) for one in trials], [_at_first_rung(choice, one) for one in trials]
    axes.plot(xs, ys, color=mark, linewidth=1.2, zorder=2)
    few = min(one.count for one in trials)
    best = choice.chosen or choice.leader
    for x, y, one in zip(xs, ys, trials, strict=True):
        face = mark if one.count > few else "none"
        axes.plot(x, y, marker=colours.marker(choice.arm), markersize=5, color=mark, markerfacecolor=face, zorder=3)
        if one == best:
            axes.plot(x, y, marker="o", markersize=11, color="none", markeredgecolor=INK, markeredgewidth=1.1, zorder=4)
    group = confirmed_group(results, choice)
    known = estimate(group, choice.metric) if group else None
    if known and best:
        confirmed = known.mean if known.corrected is None else known.corrected
        axes.plot(
            float(best.params[key]), confirmed, marker="x", markersize=7, color=INK, markeredgewidth=1.6, zorder=5
        )
        ys = [*ys, confirmed]
    if xs[0] > 0 and xs[-1] >= WIDE * xs[0]:
        axes.set_xscale("log")
    axes.set_xlabel(key.removesuffix(".scale") + (" scale" if key.endswith(".scale") else ""))
    axes.set_title(named(results, choice))
    return ys


def _scored(choice: Choice) -> list[Trial]:
    return [trial for trial in choice.trials if choice.metric in trial.values]


def _at_first_rung(choice: Choice, trial: Trial) -> float:
    return float(trial.values[choice.metric])
