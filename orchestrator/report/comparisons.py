"""Compare every arm with its baseline: paired, bias-corrected differences with intervals (docs/statistics.md).

The replicate is the training seed: values are averaged over sample seeds, paired by equal training seed, and the
interval is Student's t over them. With one training seed it is the influence interval, and is marked as such.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.report.results import CellResult, Results, influence_of
from orchestrator.spec.model import StoredSweep
from orchestrator.spec.parameters import NFE, is_seed, is_training_seed
from orchestrator.store.store import Store

Params = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Group:
    """The cells of an arm that differ only by their seeds."""

    arm: str
    params: Mapping[str, Any]
    cells: tuple[CellResult, ...]

    def by_training(self) -> dict[Params, list[CellResult]]:
        by_seeds: dict[Params, list[CellResult]] = defaultdict(list)
        for cell in self.cells:
            by_seeds[training_seeds(cell.params)].append(cell)
        return dict(by_seeds)

    def mean(self, metric: str, key: str = "value") -> float | None:
        """Mean over training seeds of the means over sample seeds of scored cells; None if one of them has no value."""
        scored = [[cell for cell in cells if metric in cell.scores] for cells in self.by_training().values()]
        return _mean([_mean([cell.value(metric, key) for cell in cells]) for cells in scored if cells])


def deciding(candidates: Sequence[Group], metric: str) -> str:
    """The key of a score that ranks these groups: `extrapolated`, as in verdicts, if all have it, else `value`."""
    scored = [group for group in candidates if group.mean(metric) is not None]
    return "extrapolated" if all(group.mean(metric, "extrapolated") is not None for group in scored) else "value"


def training_seeds(params: Mapping[str, Any]) -> Params:
    """Training seeds of a cell's network and its ancestors: (network and key, value)."""
    own = str(params["network"])
    seeds = ((f"{own}.{k}" if k == "train.seed" else k, v) for k, v in params.items() if is_training_seed(k))
    return tuple(sorted(seeds))


@dataclass(frozen=True)
class Comparison:
    arm: str
    against: str
    params: Mapping[str, Any]
    against_params: Mapping[str, Any]
    selected: bool  # the baseline is the best of several
    metric: str
    difference: float | None
    difference_at_n: float | None
    low: float | None
    high: float | None
    interval: str | None  # "t" | "influence"
    per_seed: tuple[float, ...]
    reason: str | None  # why a number is missing

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"params": dict(self.params), "per_seed": list(self.per_seed)}


def groups(results: Results, arm: str) -> list[Group]:
    """An arm's cells grouped by their parameters without seeds, in the order of the sweep."""
    by_params: dict[Params, list[CellResult]] = defaultdict(list)
    for cell in results.of(arm):
        by_params[tuple((k, v) for k, v in cell.params.items() if not is_seed(k))].append(cell)
    return [Group(arm, dict(params), tuple(cells)) for params, cells in by_params.items()]


def compare(results: Results, store: Store) -> list[Comparison]:
    """One comparison for each group of an arm with a baseline, and each metric."""
    rows: list[Comparison] = []
    sweep = results.plan.sweep
    for arm in sweep.arms:
        if arm.against is None:
            continue
        baseline = next(other for other in sweep.arms if other.name == arm.against)
        exempt = arm.overrides | baseline.overrides
        candidates, tuned = groups(results, baseline.name), _tuned(results, arm.name, baseline.name)
        for group in groups(results, arm.name):
            agreeing = [other for other in candidates if agree(sweep, group.params, other.params, exempt, tuned)]
            partners = _at_its_price(agreeing, group)
            for metric in results.metrics:
                row = _row(results, store, group, partners, metric)
                if row:
                    rows.append(row)
    return rows


def _tuned(results: Results, *arms: str) -> frozenset[str]:
    """Parameters that are chosen for these arms, each at its own best."""
    choices = [choice for choice in results.choices if choice.arm in arms]
    return frozenset(key for choice in choices for trial in choice.trials for key in trial.params)


def held_equal(sweep: StoredSweep, key: str, overridden: frozenset[str]) -> bool:
    """Whether a setting and its baseline must agree on a parameter that both have: on every axis written outside `arms`
    that neither of them overrides, and on every field of guidance.
    """
    return (key in sweep.shared_axes and key not in overridden) or sweep.is_guidance(key)


def agree(
    sweep: StoredSweep,
    params: Mapping[str, Any],
    others: Mapping[str, Any],
    overridden: frozenset[str],
    tuned: frozenset[str],
) -> bool:
    """Whether the parameters of a setting and of a baseline's agree, except the tuned ones."""
    both = (params.keys() & others.keys()) - tuned
    return all(params[key] == others[key] for key in both if held_equal(sweep, key, overridden))


def _at_its_price(partners: list[Group], group: Group) -> list[Group]:
    """Those that may spend as many network evaluations (`sampler.nfe`); all, if there are none."""
    nfe = group.params.get(NFE)
    return [other for other in partners if nfe is not None and other.params.get(NFE) == nfe] or partners


def _row(results: Results, store: Store, group: Group, partners: list[Group], metric: str) -> Comparison | None:
    sign = -1 if results.lower_is_better(metric) is False else 1
    key = deciding(partners, metric)
    ranked = sorted(
        ((sign * mean, i) for i, partner in enumerate(partners) if (mean := partner.mean(metric, key)) is not None)
    )
    if not ranked:
        return None
    partner = partners[ranked[0][1]]
    pairs = _pairs(group, partner, metric)
    if not pairs:
        return None
    unlike = _stamp_reason(pairs, metric)
    corrects = results.extrapolates(metric)
    at_n = [None if unlike else _difference(pair, metric, "value") for pair in pairs]
    corrected = [None if unlike else _difference(pair, metric, "extrapolated") for pair in pairs] if corrects else at_n
    per_seed = tuple(value for value in corrected if value is not None)
    complete = len(per_seed) == len(pairs)
    difference = low = high = interval = None
    if complete:
        difference, low, high, interval = _interval(store, pairs, metric, per_seed, corrects)
    reason = unlike or (None if complete else _missing_reason(pairs, metric))
    if complete and interval is None and corrects:
        lost = "were not kept (keep: scores)" if results.plan.sweep.keep == "scores" else "cannot be read"
        reason = f"no interval: there is one training seed, and its influences {lost}"
    return Comparison(
        group.arm,
        partner.arm,
        group.params,
        partner.params,
        len(partners) > 1,
        metric,
        difference,
        _mean(at_n),
        low,
        high,
        interval,
        per_seed,
        reason,
    )


Pair = tuple[list[CellResult], list[CellResult]]


def _pairs(group: Group, partner: Group, metric: str) -> list[Pair]:
    """Pairs of cells with equal training seeds, and within them equal sample seeds, that both have the metric."""
    ours, theirs = group.by_training(), partner.by_training()
    equal = {tuple(value for _, value in seed): cells for seed, cells in theirs.items()}  # for other networks
    pairs: list[Pair] = []
    for seed, cells in ours.items():
        match = theirs.get(seed) or equal.get(tuple(value for _, value in seed)) or []
        by_sample = {cell.params.get("sample.seed"): cell for cell in match if metric in cell.scores}
        both = [
            (cell, by_sample[cell.params.get("sample.seed")])
            for cell in cells
            if metric in cell.scores and cell.params.get("sample.seed") in by_sample
        ]
        if both:
            pairs.append(([a for a, _ in both], [b for _, b in both]))
    return pairs


def _difference(pair: Pair, metric: str, key: str) -> float | None:
    ours, theirs = (_mean([cell.value(metric, key) for cell in cells]) for cells in pair)
    return None if ours is None or theirs is None else ours - theirs


def _stamp_reason(pairs: list[Pair], metric: str) -> str | None:
    stamps = [cell.scores[metric]["stamp"] for pair in pairs for cells in pair for cell in cells]
    differing = sorted({key for stamp in stamps for key in stamp if stamp[key] != stamps[0][key]})
    return f"measured differently ({', '.join(differing)}), so not compared" if differing else None


def _missing_reason(pairs: list[Pair], metric: str) -> str | None:
    reasons = [cell.scores[metric]["score"]["reason"] for pair in pairs for cells in pair for cell in cells]
    return next((reason for reason in reasons if reason), None)


def _interval(
    store: Store, pairs: list[Pair], metric: str, per_seed: tuple[float, ...], corrects: bool
) -> tuple[float, float | None, float | None, str | None]:
    import numpy as np

    from nag.intervals import paired_difference, t_interval

    mean, low, high = t_interval(per_seed)
    if low is not None:
        return mean, low, high, "t"
    if corrects or pairs[0][0][0].value(metric, "low") is not None:
        sides = [[influence_of(store, cell.scores[metric]) for cell in cells] for cells in pairs[0]]
        if all(part is not None for side in sides for part in side):
            ours, theirs = (np.concatenate(side) for side in sides)
            _, low, high = paired_difference(mean, ours, 0.0, theirs)
            return mean, low, high, "influence"
    return mean, None, None, None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
