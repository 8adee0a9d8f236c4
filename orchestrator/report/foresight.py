"""What could have been seen: the difference that these training seeds detect, and the seeds that the margin needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.plan.model import StoredPlan
from orchestrator.plan.progress import Done
from orchestrator.report.comparisons import Comparison, compare
from orchestrator.report.estimates import estimate
from orchestrator.report.formatting import plural, value_text
from orchestrator.report.results import Results, collect
from orchestrator.report.verdicts import Verdict, families, verdicts
from orchestrator.store.store import Store

LITERATURE = (0.01, 0.02)  # spread of FID between trainings, as a share of it (arXiv 2606.20536)
SEEDS_SHOWN = 1000  # more are not worth a number
TENTHS = 8  # nag.verdict.POWER in words: 8 of 10 cases


@dataclass(frozen=True)
class Detectable:
    """difference: found with 80 % power, in the metric's unit, None for several baselines; share: of the baseline's
    value. spread: over training seeds, of the paired differences, as a share of the baseline's value; with one training
    (`seeds` 1) the standard error of sampling. seeds_needed: for the margin; None with one training.
    """

    comparisons: int
    seeds: int
    spread: float
    share: float
    difference: float | None
    margin: float  # a share of the baseline's value
    seeds_needed: int | None


def detectable_difference(results: Results, comparisons: Sequence[Comparison]) -> Detectable | None:
    """From the spread over training seeds of the tested differences, its mean square over arms; None if none is tested,
    or if a baseline is at 0.
    """
    from nag.verdict import detectable, seeds_needed

    tested = [one for one in verdicts(results, comparisons) if one.tested]
    seeds = max((one.seeds for one in tested), default=0)
    used = [one for one in tested if one.seeds == seeds]
    known = {id(one): abs(value.mean) for one in used if (value := estimate(one.baseline, one.metric))}
    if not used or not all(known.get(id(one)) for one in used):
        return None
    spread = (sum((_spread(one) / known[id(one)]) ** 2 for one in used) / len(used)) ** 0.5
    margin = sum((one.margin or 0.0) / known[id(one)] for one in used) / len(used)
    m = len(tested)
    share = detectable(spread / seeds**0.5, seeds - 1, m) if seeds > 1 else detectable(spread, None, m)
    baselines = {round(value, 12) for value in known.values()}
    return Detectable(
        comparisons=m,
        seeds=seeds,
        spread=spread,
        share=share,
        difference=share * baselines.pop() if len(baselines) == 1 else None,
        margin=margin,
        seeds_needed=seeds_needed(spread, margin, m) if seeds > 1 else None,
    )


def _spread(one: Verdict) -> float:
    """The standard deviation of a difference over training seeds; with one seed the standard error of sampling."""
    from scipy.special import stdtrit

    from nag.intervals import Z

    assert one.low is not None
    assert one.high is not None
    half = (one.high - one.low) / 2
    return half / Z if one.interval != "t" else half * one.seeds**0.5 / float(stdtrit(one.seeds - 1, 0.975))


def limit(results: Results, comparisons: Sequence[Comparison]) -> str:
    """The limit that a report tells; empty if nothing is tested."""
    known = detectable_difference(results, comparisons)
    if known is None:
        return ""
    size = percent(known.share)
    size = f"{value_text(known.difference)} ({size})" if known.difference is not None else f"{size} of the baseline"
    heard = f"{plural(known.seeds, 'training seed')} and {plural(known.comparisons, 'comparison')}"
    text = f"With {heard}, a difference of {size} would have been found in {TENTHS} of 10 cases"
    if known.seeds_needed is None:
        return f"{text}, on these networks: retraining is not in it. {_literature(known.comparisons, known.margin)}"
    return f"{text}; for the margin of {percent(known.margin)}, {_seeds(known.seeds_needed)} are needed."


def forecast(plan: StoredPlan, store: Store, done: Done) -> list[str]:
    """What `plan` tells before anything ran: what its training seeds will detect. Empty if nothing is compared."""
    from nag.verdict import detectable

    if not plan.metrics:
        return []
    results = collect(plan, store, done)
    m = comparisons_planned(results)
    if not m:
        return []
    if any(cell.scores for cell in results.cells):
        known = detectable_difference(results, compare(results, store))
        if known is not None and known.seeds > 1:
            return [_known(known, _seeds_planned(results))]
    seeds, margin = _seeds_planned(results), _margin(results)
    lines = []
    if seeds > 1:
        sizes = [percent(detectable(cv / seeds**0.5, seeds - 1, m)) for cv in LITERATURE]
        heard = f"{seeds} training seeds and {plural(m, 'comparison')}"
        lines.append(
            f"With {heard}, differences of {sizes[0]} to {sizes[1]} of the baseline's value will be found in {TENTHS} "
            f"of 10 cases, if trainings differ by the literature's 1 to 2 %."
        )
    else:
        lines.append("With one training seed the verdict is on that network alone: retraining is not in it.")
    if margin is not None:
        lines.append(_literature(m, margin))
    return lines


def _known(known: Detectable, seeds: int) -> str:
    """With the spread that the store knows, for the seeds that are planned."""
    from nag.verdict import detectable

    m = known.comparisons
    size = percent(detectable(known.spread / seeds**0.5, seeds - 1, m)) if seeds > 1 else percent(known.share)
    return (
        f"With {plural(seeds, 'training seed')} and {plural(m, 'comparison')}, a difference of {size} of the "
        f"baseline's value will be found in {TENTHS} of 10 cases, by the spread of {known.seeds} seeds in the store; "
        f"for the margin of {percent(known.margin)}, {_seeds(known.seeds_needed or 0)} are needed."
    )


def _literature(comparisons: int, margin: float) -> str:
    from nag.verdict import seeds_needed

    few, many = (seeds_needed(cv, margin, comparisons) for cv in LITERATURE)
    span = f"{few} to {many} training seeds are" if few < many else f"{_seeds(few)} are"
    return f"For the margin of {percent(margin)}, {span} needed, if trainings differ by the literature's 1 to 2 %."


def _margin(results: Results) -> float | None:
    """As a share of the baseline's value; None for a margin in a unit, before that value is known."""
    rule = results.plan.sweep.compare
    return rule.margin if rule.relative else None


def _seeds_planned(results: Results) -> int:
    """The fewest training seeds of an arm's setting that is compared."""
    counts = [len(group.by_training()) for _, candidates in families(results) for group in candidates]
    counts += [len(race.candidates[0].streams) for race in results.plan.races if race.follows is None]
    return min(counts, default=0)


def comparisons_planned(results: Results) -> int:
    """How many comparisons will be tested: single settings, for each combination of the factors outside arms."""
    held = {arm.name for arm, _ in families(results)}
    compared = {arm.name for arm in results.plan.sweep.arms if arm.against} - held  # no cell before the choice
    races = sum(race.arm in compared for race in results.plan.races)
    return sum(len(candidates) == 1 for _, candidates in families(results)) + races


def percent(share: float) -> str:
    """`1.3 %`, `12 %`"""
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:,.0f} %"


def _seeds(count: int) -> str:
    return f"more than {SEEDS_SHOWN:,} training seeds" if count > SEEDS_SHOWN else plural(count, "training seed")
