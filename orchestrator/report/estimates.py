"""Estimates of a group of cells: its mean over training seeds with an interval; and which group is best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.report.comparisons import Group, groups
from orchestrator.report.formatting import nfe_text, short
from orchestrator.report.results import CellResult, Results
from orchestrator.spec.parameters import NFE, is_seed


@dataclass(frozen=True)
class Estimate:
    """A group's estimate of a metric. corrected: the mean without its bias in N, None if a seed has no such value. It
    ranks settings but is not shown, because alone it does not estimate the limit of large N.
    """

    mean: float
    low: float | None
    high: float | None
    interval: str | None  # "t" over training seeds | "influence": sampling noise of one training
    seeds: tuple[float, ...]  # one value per training seed
    planned: int  # training seeds that the sweep asks for
    corrected: float | None = None
    cut: bool = False  # whether its interval was cut at what is possible

    @property
    def complete(self) -> bool:
        return len(self.seeds) == self.planned


def estimate(group: Group, metric: str) -> Estimate | None:
    """The estimate over the training seeds that are scored; None if there are none."""
    from nag.intervals import t_interval

    trainings = list(group.by_training().values())
    done = [cells for cells in trainings if all(_finite(cell.value(metric)) for cell in cells)]
    if not done:
        return None
    seeds = tuple(_mean([cell.value(metric) for cell in cells]) for cells in done)
    mean, low, high = t_interval(seeds)
    interval = "t" if low is not None else None
    if len(seeds) == 1:
        half = _half(done[0], metric)
        if half is not None:
            low, high, interval = mean - half, mean + half, "influence"
    without_bias = [cell.value(metric, "extrapolated") for cells in done for cell in cells]
    corrected = None
    if all(map(_finite, without_bias)):
        corrected = _mean([_mean([cell.value(metric, "extrapolated") for cell in cells]) for cells in done])
    return Estimate(mean, low, high, interval, seeds, len(trainings), corrected)


def shown_estimate(results: Results, group: Group, metric: str) -> Estimate | None:
    """The estimate, its interval cut at the values that are possible: no distance is below 0, no share above 1."""
    known = estimate(group, metric)
    if known is None or known.low is None or known.high is None:
        return known
    shown = results.shown(metric)
    low = known.low if shown.at_least is None else min(known.mean, max(known.low, shown.at_least))
    high = known.high if shown.at_most is None else max(known.mean, min(known.high, shown.at_most))
    return replace(known, low=low, high=high, cut=(low, high) != (known.low, known.high))


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)


def _half(cells: list[CellResult], metric: str) -> float | None:
    """Half the width of the interval of the mean over sample seeds, which are independent."""
    halves = []
    for cell in cells:
        low, high = cell.value(metric, "low"), cell.value(metric, "high")
        if low is None or high is None:
            return None
        halves.append((high - low) / 2)
    return math.sqrt(sum(half**2 for half in halves)) / len(halves)


def distances(results: Results) -> list[str]:
    """The distances that cells are compared by."""
    return [metric for metric in results.metrics if results.is_distance(metric)]


def lowest_run(group: Group, metric: str) -> tuple[float, int] | None:
    """The lowest value of a group's runs (training and sample seeds), and their number; None for a single run."""
    runs = [value for cell in group.cells if _finite(value := cell.value(metric)) and value is not None]
    return (min(runs), len(runs)) if len(runs) > 1 else None


def secondary_metrics(results: Results) -> list[str]:
    """The metrics that are shown and not compared, such as distances to held-out images and the share of copies."""
    return [metric for metric in results.metrics if results.shown(metric).beside]


def headline_metric(results: Results) -> str | None:
    """The metric that cells are chosen by: the first with a value that leads (`Shown.leads`), else the first distance
    that has one, else the first metric.
    """
    deciding = [metric for metric in results.metrics if not results.is_cost(metric)]
    scored = [metric for metric in deciding if any(_finite(cell.value(metric)) for cell in results.cells)]
    leading = [metric for metric in scored if results.shown(metric).leads]
    return next(iter([*leading, *filter(results.is_distance, scored), *scored]), None)


def best(results: Results, candidates: Sequence[Group], metric: str) -> Group | None:
    """The best of the groups that may be ranked with each other; the first of equals."""
    ranked = rivals(candidates, metric)
    costs = standings(results, metric, [known for _, known in ranked])
    return ranked[costs.index(min(costs))][0] if ranked else None


def standings(results: Results, metric: str, known: Sequence[Estimate]) -> list[float]:
    """Costs that rank these estimates, the lowest best: from bias-corrected values, as for verdicts, if all have one,
    else from means.
    """
    by_corrected = all(one.corrected is not None for one in known)
    values = [one.corrected if by_corrected and one.corrected is not None else one.mean for one in known]
    return [cost(results, metric, value) for value in values]


def rivals(candidates: Sequence[Group], metric: str) -> list[tuple[Group, Estimate]]:
    """The groups that may be ranked with each other: among those measured in the same way with the most samples, the
    ones with the most training seeds done.
    """
    estimated = [(group, known) for group in candidates if (known := estimate(group, metric))]
    if not estimated:
        return []
    stamps = [stamp_of(group, metric) for group, _ in estimated]
    top = max(stamps, key=lambda stamp: (stamp["count"], stamps.count(stamp)))
    alike = [entry for entry, stamp in zip(estimated, stamps, strict=True) if stamp == top]
    most = max(len(known.seeds) for _, known in alike)
    return [(group, known) for group, known in alike if len(known.seeds) == most]


def stamp_of(group: Group, metric: str) -> dict[str, Any]:
    """How the metric was measured in a group's cells: values with different stamps are never ranked."""
    return next((cell.scores[metric]["stamp"] for cell in group.cells if metric in cell.scores), {})


def cost(results: Results, metric: str, value: float) -> float:
    """Lower is better. If neither direction is better, as for a noise shift, zero is best."""
    lower = results.lower_is_better(metric)
    return abs(value) if lower is None else value if lower else -value


def chosen(results: Results) -> dict[str, Group]:
    """The best group of each arm that has one, by the headline metric; without scores, the first."""
    metric = headline_metric(results)
    by_arm = {}
    for arm in results.plan.sweep.arms:
        candidates = groups(results, arm.name)
        group = best(results, candidates, metric) if metric else next(iter(candidates), None)
        if group is not None:
            by_arm[arm.name] = group
    return by_arm


def panel_of(results: Results, group: Group, sampler: bool = True) -> dict[str, object]:
    """The parameters that select a group's panel: its sampler, and every axis written outside `arms`."""
    shared = results.plan.sweep.shared_axes
    return {
        key: value
        for key, value in group.params.items()
        if not is_seed(key)
        and not results.plan.sweep.is_guidance(key)
        and ((key.startswith("sampler") and sampler) or (key in shared and not key.startswith("sampler")))
    }


def panel_title(panel: dict[str, object], panels: Sequence[dict[str, object]]) -> str:
    """`euler, 10 steps`: the sampler always, other parameters where they differ between panels."""
    words = []
    for key, value in panel.items():
        if key == "sampler":
            words.append(str(value).replace("_", " "))
        elif key == "sampler.steps":
            words.append(f"{short(value)} steps")
        elif key == NFE:
            words.append(nfe_text(value))
        elif len({str(other.get(key)) for other in panels}) > 1:
            words.append(f"{key.split('.')[-1]} {short(value)}")
    return ", ".join(dict.fromkeys(words))  # a count may be an axis and differ between stamps


def uses_nag(group: Group) -> bool:
    """Whether NAG of either kind guides a group."""
    return any(key.startswith(("nag.", "nag_classifier.")) for key in group.params)


def price(group: Group) -> float | None:
    """NFE of one sample; a mean if samples differ."""
    return next((cell.network_calls for cell in group.cells if cell.network_calls), None)
