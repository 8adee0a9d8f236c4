"""Verdicts: every arm against its baseline on the first metric, corrected for their number (nag/verdict.py, Holm).

A comparison whose arm or baseline is the best of several settings, on the samples that score it, is not tested.
docs/verdict.md says in plain words what a verdict means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestrator.report.comparisons import Comparison, Group, Params, groups
from orchestrator.report.estimates import best, distances, estimate, headline_metric, rivals, secondary_metrics
from orchestrator.report.formatting import partner, row_of, verdict
from orchestrator.report.results import Results
from orchestrator.spec.parameters import is_seed

if TYPE_CHECKING:
    from nag.verdict import Evidence, Ruling
    from orchestrator.plan.model import Choice
    from orchestrator.spec.model import Arm

CHOICE = "a choice and not a test"


@dataclass(frozen=True)
class Word:
    """What another metric says by its own 95 % interval: better | worse | undecided, None if that is not known."""

    metric: str
    outcome: str | None


@dataclass(frozen=True)
class Verdict:
    """An arm's setting against its baseline. outcome: better | worse | alike | undecided | mixed, or None with a reason
    if it is not tested. Differences are in the metric's own direction. low, high: the plain 95 % interval; adjusted:
    for the family. margin: in the metric's unit.
    """

    group: Group
    baseline: Group
    metric: str
    outcome: str | None
    reason: str | None
    difference: float | None
    low: float | None
    high: float | None
    interval: str | None  # "t" over training seeds | "influence": retraining is not in it
    seeds: int
    best_of: int  # settings of the arm in this combination of the factors outside arms
    words: tuple[Word, ...]  # of the other metrics, those of `agree` first
    optima: Mapping[str, Mapping[str, Any]]  # the arm's best setting by other metrics, as far as known
    margin: float | None = None
    p: float | None = None
    adjusted_p: float | None = None
    adjusted_low: float | None = None
    adjusted_high: float | None = None

    @property
    def tested(self) -> bool:
        return self.outcome is not None

    @property
    def alone(self) -> bool:
        """Better by its own metric only: others are known, and none of them calls it better."""
        known = [word for word in self.words if word.outcome is not None]
        return self.outcome == "better" and bool(known) and not any(word.outcome == "better" for word in known)


def verdicts(results: Results, comparisons: Sequence[Comparison]) -> tuple[Verdict, ...]:
    """A verdict for each arm with a baseline and each combination of the factors outside arms; the tested ones are the
    family. What is not compared yet is left out.
    """
    from nag.verdict import rulings

    metric = headline_metric(results)
    if metric is None:
        return ()
    drafts = []
    for arm, candidates in families(results):
        group = best(results, candidates, metric)
        row = row_of(comparisons, group, metric) if group else None
        if group and row:
            drafts.append(_draft(results, comparisons, arm, group, row, len(rivals(candidates, metric))))
    evidence = [_evidence(results, draft) if draft.reason is None else None for draft in drafts]
    ruled = iter(rulings([one for one in evidence if one is not None]))
    sign = _sign(results, metric)
    return tuple(
        draft if one is None else _ruled(results, draft, one, next(ruled), sign)
        for draft, one in zip(drafts, evidence, strict=True)
    )


def families(results: Results) -> list[tuple[Arm, list[Group]]]:
    """The settings of each arm that has a baseline, for each combination of the factors outside arms."""
    every = []
    for arm in results.plan.sweep.arms:
        if arm.against is None:
            continue
        factors = results.plan.sweep.shared_axes - arm.overrides
        by_factors: dict[Params, list[Group]] = {}
        for group in groups(results, arm.name):
            combination = tuple((k, v) for k, v in group.params.items() if k in factors and not is_seed(k))
            by_factors.setdefault(combination, []).append(group)
        every += [(arm, candidates) for candidates in by_factors.values()]
    return every


def choice_of(results: Results, group: Group) -> Choice | None:
    """How the tuned values of a setting were chosen; None for one that was not tuned."""
    for choice in results.choices:
        known = choice.chosen and {**choice.params, **choice.chosen.params}.items() <= group.params.items()
        if known and choice.arm == group.arm:
            return choice
    return None


def _draft(
    results: Results, comparisons: Sequence[Comparison], arm: Arm, group: Group, row: Comparison, best_of: int
) -> Verdict:
    """Before it is tested."""
    return Verdict(
        group=group,
        baseline=partner(results, row),
        metric=row.metric,
        outcome=None,
        reason=_not_tested(results, row, best_of),
        difference=row.difference,
        low=row.low,
        high=row.high,
        interval=row.interval,
        seeds=len(row.per_seed),
        best_of=best_of,
        words=_words(results, comparisons, group, row.metric),
        optima=_optima(results, group, row.metric),
    )


def _not_tested(results: Results, row: Comparison, best_of: int) -> str | None:
    if best_of > 1:
        return f"{CHOICE}: the best of {best_of} settings, by the samples that score it"
    if row.selected:
        return f"{CHOICE}: the baseline is the best of several settings, by the samples that score it"
    if results.lower_is_better(row.metric) is None:
        return f"neither direction of {results.words(row.metric)} is better"
    if row.difference is None or row.low is None:
        return row.reason or "no interval"
    return None


def _sign(results: Results, metric: str) -> int:
    """1 if lower is better, else -1."""
    return -1 if results.lower_is_better(metric) is False else 1


def _evidence(results: Results, draft: Verdict) -> Evidence:
    from scipy.special import stdtrit

    from nag.intervals import Z
    from nag.verdict import Evidence

    assert draft.difference is not None
    assert draft.low is not None
    assert draft.high is not None
    df = draft.seeds - 1 if draft.interval == "t" else None
    half = (draft.high - draft.low) / 2
    se = half / (Z if df is None else float(stdtrit(df, 0.975)))
    return Evidence(_sign(results, draft.metric) * draft.difference, se, df, margin_of(results, draft))


def margin_of(results: Results, draft: Verdict) -> float:
    """The margin in the metric's unit; a relative one is a share of the baseline's value at N, as it is shown."""
    compare = results.plan.sweep.compare
    if not compare.relative:
        return compare.margin
    known = estimate(draft.baseline, draft.metric)
    return compare.margin * abs(known.mean) if known else 0.0


def _ruled(results: Results, draft: Verdict, evidence: Evidence, ruling: Ruling, sign: int) -> Verdict:
    low, high = sorted((sign * ruling.adjusted_low, sign * ruling.adjusted_high))
    agree = results.plan.sweep.compare.agree
    objects = any(word.metric in agree and word.outcome == "worse" for word in draft.words)
    return replace(
        draft,
        outcome="mixed" if ruling.outcome == "better" and objects else ruling.outcome,
        margin=evidence.margin,
        p=ruling.p,
        adjusted_p=ruling.adjusted_p,
        adjusted_low=low,
        adjusted_high=high,
    )


def _words(results: Results, comparisons: Sequence[Comparison], group: Group, metric: str) -> tuple[Word, ...]:
    """Of the metrics in `agree`, then of the other distances, then of the others that have a better direction."""
    agree = results.plan.sweep.compare.agree
    beside = {*secondary_metrics(results)}
    ordered = dict.fromkeys([*agree, *distances(results), *(m for m in results.metrics if m not in beside)])
    words = []
    for other in ordered:
        row = row_of(comparisons, group, other)
        outcome = verdict(row, results.lower_is_better(other)) if row and other in results.metrics else None
        directed = other in results.metrics and results.lower_is_better(other) is not None
        if other != metric and (other in agree or (outcome and directed)):
            words.append(Word(other, outcome if directed else None))
    return tuple(words)


def _optima(results: Results, group: Group, metric: str) -> dict[str, Mapping[str, Any]]:
    """The arm's best setting by each other distance and each metric of `agree`: of all of a grid, or of the candidates
    of a choice whose values are known.
    """
    others = [m for m in dict.fromkeys([*distances(results), *results.plan.sweep.compare.agree]) if m != metric]
    candidates = next((every for _, every in families(results) if group in every), [group])
    choice = choice_of(results, group)
    optima: dict[str, Mapping[str, Any]] = {}
    for other in others:
        if len(candidates) > 1 and (first := best(results, candidates, other)):
            optima[other] = {k: v for k, v in first.params.items() if any(c.params.get(k) != v for c in candidates)}
        elif choice:
            sign = _sign(results, other)
            known = [trial for trial in choice.trials if other in trial.values]
            if len(known) > 1:
                optima[other] = min(known, key=lambda trial: sign * trial.values[other]).params
    return optima
