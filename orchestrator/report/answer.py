"""A sweep's answer in two sentences, NAG against its baselines first, and the limits of that answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from orchestrator.report import devices, foresight, precisions
from orchestrator.report.comparisons import Comparison, Group, groups
from orchestrator.report.estimates import (
    Estimate,
    best,
    distances,
    estimate,
    headline_metric,
    price,
    rivals,
    shown_estimate,
    stamp_of,
    uses_nag,
)
from orchestrator.report.forewarnings import without_partner
from orchestrator.report.formatting import (
    CHOSEN_VERBS,
    SAMPLING_NOISE,
    VERBS,
    against,
    calls_text,
    count_text,
    difference_text,
    interval_text,
    label,
    listed,
    metric_name,
    over_seeds_text,
    partner,
    plural,
    row_of,
    signed,
    state_text,
    value_text,
    verdict,
)
from orchestrator.report.results import Results
from orchestrator.report.verdict_table import NOT_TESTED
from orchestrator.report.verdicts import CHOICE, Verdict, verdicts
from orchestrator.spec.parameters import NFE

NAMED = 3  # arms that a sentence names; the table has the others
LISTED = 5  # parts that a limit lists
NEARLY = 1.1  # prices that follow from one nfe and differ by at most this ratio are called equal


def notices(results: Results) -> list[str]:
    """Notices that the comparison is partial, or that there is none."""
    if not results.plan.metrics:
        return [f"This sweep has no score section: it samples and compares nothing. {state_text(results)}."]
    if results.complete:
        return []
    if headline_metric(results) is None:
        return [f"Nothing is scored yet: {state_text(results)}."]
    return [f"Partial: {state_text(results)}. The comparison covers what is done, and may change."]


def answer(results: Results, comparisons: Sequence[Comparison], chosen: Mapping[str, Group]) -> list[str]:
    """At most two sentences, led by the words of the verdicts; if nothing can be compared, one of them says so."""
    metric = headline_metric(results)
    if metric is None:
        return []
    ruled = verdicts(results, comparisons)
    held = {one.group.arm for one in ruled}
    compared = [arm for arm, group in chosen.items() if arm in held and row_of(comparisons, group, metric)]
    first = [arm for arm in compared if uses_nag(chosen[arm])] or compared
    rest = [arm for arm in compared if arm not in first]
    lowest = _best_of_all(results, chosen, metric)
    if not compared:
        alone = all(arm.against is None for arm in results.plan.sweep.arms)
        why = "There is one arm, so nothing to compare." if alone else "No arm can be compared with its baseline yet."
        return [lowest, why]
    sentences = [_many(results, comparisons, chosen, first, ruled, _first) + "."]
    others = _many(results, comparisons, chosen, rest, ruled, _short)
    sentences.append(f"Without NAG, {others}; {lowest}" if others else lowest)
    return sentences


Sayer = Callable[[Results, Sequence[Comparison], Group, Sequence[Verdict]], str]


def _many(
    results: Results,
    comparisons: Sequence[Comparison],
    chosen: Mapping[str, Group],
    arms: Sequence[str],
    ruled: Sequence[Verdict],
    say: Sayer,
) -> str:
    """The first arms in words, the others as counts."""
    parts = [
        say(results, comparisons, chosen[arm], [one for one in ruled if one.group.arm == arm]) for arm in arms[:NAMED]
    ]
    if others := arms[NAMED:]:
        counts = _outcomes([one for one in ruled if one.group.arm in others])
        parts.append(f"{plural(len(others), 'more arm')} in the table ({counts})")
    return "; ".join(parts)


def _outcomes(ruled: Sequence[Verdict]) -> str:
    """`5 better and 1 undecided`"""
    counts = Counter(one.outcome or NOT_TESTED for one in ruled)
    return listed([f"{counts[word]} {word}" for word in counts])


def _lead(ruled: Sequence[Verdict]) -> str:
    """The verdict's word before a sentence on an arm; with several combinations of factors, how often which."""
    if len(ruled) != 1:
        return f"{_outcomes(ruled)} of {len(ruled)} combinations" if ruled else ""
    return ruled[0].outcome or (CHOICE if (ruled[0].reason or "").startswith(CHOICE) else NOT_TESTED)


def _counts(results: Results, rows: Sequence[Comparison]) -> str:
    """`5 better and 1 undecided`"""
    counts = Counter(verdict(row, results.lower_is_better(row.metric)) or "open" for row in rows)
    return listed([f"{counts[word]} {word}" for word in counts])


def _some(parts: list[str], last: str = "more in the table") -> str:
    return listed([*parts[:LISTED], *([f"{len(parts) - LISTED} {last}"] if len(parts) > LISTED else [])])


def _first(results: Results, comparisons: Sequence[Comparison], group: Group, ruled: Sequence[Verdict]) -> str:
    """One arm in full: its verdict, its score and its baseline's, the difference, and whether other distances agree."""
    metric = ruled[0].metric
    row = row_of(comparisons, group, metric)
    assert row is not None
    name = metric_name(results, metric)
    values = f"{_value(estimate(group, metric))} against {_value(estimate(partner(results, row), metric))}"
    if row.difference is None:
        at_n = "" if row.difference_at_n is None else f", {signed(row.difference_at_n)} at N"
        reason = row.reason or "no difference"
        return f"{_pair(results, row, group)} cannot be decided in {name} ({values}{at_n}; {reason})"
    difference = difference_text(row.difference, row.low, row.high)
    outcome = _outcome(results, row, group, ruled)
    if outcome is None:
        return f"{_pair(results, row, group)} has no interval in {name} ({values}; difference {difference})"
    verb, lead = _verb(row, group, ruled, outcome), _lead(ruled)
    text = f"{label(results, group)} {verb} {against(results, row)} in {name} ({values}; difference {difference})"
    others = [other for other in distances(results) if other != metric]
    if outcome == "mixed":
        others += [other for other in results.plan.sweep.compare.agree if other not in (*others, metric)]
        outcome = "better"
    also = "".join(_also(results, comparisons, group, other, outcome) for other in others)
    return f"{lead[:1].upper()}{lead[1:]}: {text}{also}"


def _also(results: Results, comparisons: Sequence[Comparison], group: Group, metric: str, headline: str) -> str:
    row = row_of(comparisons, group, metric)
    other = row and verdict(row, results.lower_is_better(metric))
    if not other:
        return ""
    name = metric_name(results, metric)
    return f", and is {other} in {name} too" if other == headline else f", but is {other} in {name}"


def _short(results: Results, comparisons: Sequence[Comparison], group: Group, ruled: Sequence[Verdict]) -> str:
    row = row_of(comparisons, group, ruled[0].metric)
    assert row is not None
    outcome = _outcome(results, row, group, ruled)
    if row.difference is None or outcome is None:
        return f"{_pair(results, row, group)} is open"
    difference = difference_text(row.difference, row.low, row.high)
    verb = _verb(row, group, ruled, outcome)
    return f"{_lead(ruled)}: {label(results, group)} {verb} {against(results, row)} ({difference})"


def _outcome(results: Results, row: Comparison, group: Group, ruled: Sequence[Verdict]) -> str | None:
    """The verdict of the group; if it is not tested, what its own interval says."""
    own = next((one.outcome for one in ruled if one.group == group), None)
    return own or verdict(row, results.lower_is_better(row.metric))


def _verb(row: Comparison, group: Group, ruled: Sequence[Verdict], outcome: str) -> str:
    """`beats` only if neither the setting nor the baseline was chosen on these samples."""
    tested = len(ruled) == 1 and ruled[0].group == group and ruled[0].tested
    return (VERBS if tested else CHOSEN_VERBS).get(outcome, f"is {outcome} than")


def _pair(results: Results, row: Comparison, group: Group) -> str:
    return f"{label(results, group)} against {against(results, row)}"


def _value(known: Estimate | None) -> str:
    return value_text(known.mean) if known else "–"


def _best_of_all(results: Results, chosen: Mapping[str, Group], metric: str) -> str:
    group = best(results, list(chosen.values()), metric)
    if group is None:
        return ""
    known, calls = shown_estimate(results, group, metric), price(group)
    assert known is not None
    lower = results.lower_is_better(metric)
    rank = "nearest to zero" if lower is None else "lowest" if lower else "highest"
    interval = interval_text(known.low, known.high, known.mean)
    cost = f", at {calls_text(calls)} NFE a sample" if calls else ""
    corrected = known.corrected is not None and known.corrected != known.mean
    name = f"{'bias-corrected ' if corrected else ''}{metric_name(results, metric)}"
    text = f"{label(results, group)} has the {rank} {name}: {value_text(known.mean)}{' at this N' if corrected else ''}"
    return f"{text}{' ' if interval else ''}{interval}{cost}."


def limits(results: Results, comparisons: Sequence[Comparison], chosen: Mapping[str, Group]) -> list[str]:
    """What limits the answer, most important first."""
    metric = headline_metric(results)
    if metric is None:
        return []
    notes = [_open(results, comparisons, chosen, metric)]
    notes += [_second_opinion(results, comparisons, chosen, other) for other in distances(results) if other != metric]
    notes += [
        _unlike(results, metric),
        _choice(results, comparisons, chosen, metric),
        _selected(results, comparisons, chosen, metric),
        devices.note(results, comparisons, metric),
        precisions.note(results, comparisons, metric),
    ]
    notes += [_certainty(results, comparisons, metric), foresight.limit(results, comparisons)]
    notes += [_price(results, comparisons, chosen, metric)]
    notes += [_size(results, metric), *(_too_few(results, name) for name in distances(results))]
    notes += sorted({f"{metric_name(results, row.metric)}: {row.reason}." for row in comparisons if row.reason})
    return [note for note in notes if note]


def _open(results: Results, comparisons: Sequence[Comparison], chosen: Mapping[str, Group], metric: str) -> str:
    """Arms that have a baseline and no comparison with it: those without a partner, and those not scored yet."""
    sweep = results.plan.sweep
    tuned = {choice.arm: {key for trial in choice.trials for key in trial.params} for choice in results.choices}
    partnerless = without_partner(
        sweep, {arm.name: [c.params for c in results.of(arm.name)] for arm in sweep.arms}, tuned
    )
    names = [
        arm.name
        for arm in results.plan.sweep.arms
        if arm.against and not (arm.name in chosen and row_of(comparisons, chosen[arm.name], metric))
    ]
    alone = [f"{name}: {partnerless[name]}" for name in names if name in partnerless]
    later = [name for name in names if name not in partnerless]
    notes = [f"Not compared yet, because cells are not scored: {listed(later)}."] if later else []
    return " ".join([*(f"Not compared: {words}" for words in alone), *notes])


def _second_opinion(
    results: Results, comparisons: Sequence[Comparison], chosen: Mapping[str, Group], metric: str
) -> str:
    """How the same settings compare by another distance."""
    parts = []
    for group in chosen.values():
        row = row_of(comparisons, group, metric)
        outcome = row and verdict(row, results.lower_is_better(metric))
        if row and outcome and row.difference is not None:
            parts.append(f"{label(results, group)} is {outcome} ({difference_text(row.difference, row.low, row.high)})")
    return f"By {metric_name(results, metric)}, the same settings: {_some(parts)}." if parts else ""


def _choice(results: Results, comparisons: Sequence[Comparison], chosen: Mapping[str, Group], metric: str) -> str:
    """Note that settings were chosen, out of how many, and how all of those compare."""
    parts = []
    for arm, group in chosen.items():
        tried = [other for other, _ in rivals(groups(results, arm), metric)]
        rows = [row for other in tried if (row := row_of(comparisons, other, metric))]
        if len(tried) > 1 and rows:
            counts = _counts(results, rows)
            parts.append(f"{label(results, group)} is the best of {len(tried)} settings of its arm ({counts})")
    if not parts:
        return ""
    end = "each was chosen on the very samples that score it, which flatters it and is not a test"
    return f"{_some(parts)}; {end}."


def _unlike(results: Results, metric: str) -> str:
    """Note that settings were measured in different ways."""
    every = [group for arm in results.plan.sweep.arms for group in groups(results, arm.name)]
    known = [group for group in every if estimate(group, metric)]
    stamps = [stamp_of(group, metric) for group in known]
    differing = sorted({key for stamp in stamps for key in stamp if stamp.get(key) != stamps[0].get(key)})
    if not differing:
        return ""
    return f"Settings were measured differently ({', '.join(differing)}), and only those measured alike are ranked."


def _selected(results: Results, comparisons: Sequence[Comparison], chosen: Mapping[str, Group], metric: str) -> str:
    names = [
        against(results, row)
        for group in chosen.values()
        if (row := row_of(comparisons, group, metric)) is not None and row.selected
    ]
    if not names:
        return ""
    baselines = listed(list(dict.fromkeys(names)))
    return f"{baselines}: the best of several settings of the baseline, a strict choice for the arm."


def _certainty(results: Results, comparisons: Sequence[Comparison], metric: str) -> str:
    rows = [row for row in comparisons if row.metric == metric]
    noise = f"{SAMPLING_NOISE}." if any(row.interval == "influence" for row in rows) else ""
    seeds = {len(row.per_seed) for row in rows if row.interval == "t"}
    if not seeds:
        return noise and f"Intervals: {noise}"
    few = " They assume normally distributed seeds, which so few cannot confirm." if max(seeds) <= 5 else ""
    return f"{over_seeds_text(seeds)}, paired by seed.{few}" + (f" With one seed: {noise}" if noise else "")


def _price(results: Results, comparisons: Sequence[Comparison], chosen: Mapping[str, Group], metric: str) -> str:
    parts = []
    for group in chosen.values():
        row = row_of(comparisons, group, metric)
        if row is None:
            continue
        ours, theirs = price(group), price(partner(results, row))
        if ours and theirs and ours != theirs and not _by_steps_alone(group, ours, partner(results, row), theirs):
            parts.append(f"{label(results, group)} needs {calls_text(ours)} against {calls_text(theirs)}")
    return f"Not at equal cost, in NFE a sample: {_some(parts)}." if parts else ""


def _by_steps_alone(group: Group, ours: float, other: Group, theirs: float) -> bool:
    """Whether two groups may spend the same, and differ by what no whole step fits in."""
    nfe = group.params.get(NFE)
    return nfe is not None and nfe == other.params.get(NFE) and max(ours, theirs) <= NEARLY * min(ours, theirs)


def _size(results: Results, metric: str) -> str:
    stamps = [cell.scores[metric]["stamp"] for cell in results.cells if metric in cell.scores]
    if metric not in distances(results) or not stamps:
        return ""
    name, counts = metric_name(results, metric), {stamp["count"] for stamp in stamps}
    return (
        f"{name} is at N = {count_text(counts)} samples and falls as N grows. Differences are corrected for that bias; "
        "values and their own intervals are not: they are for its expectation at this N."
    )


def _too_few(results: Results, metric: str) -> str:
    """Note that N is too small for the bias correction, so that intervals of differences are too narrow."""
    from nag.intervals import samples_for_difference

    sizes = {
        (cell.scores[metric]["stamp"]["count"], dimension)
        for cell in results.cells
        if metric in cell.scores and (dimension := cell.scores[metric].get("dimension"))
    }
    short = [(count, d) for count, d in sorted(sizes) if count < samples_for_difference(d)]
    if not short or not results.extrapolates(metric):
        return ""
    count, d = short[0]
    return (
        f"{metric_name(results, metric)}: N = {count:,} is too small for dimension {d:,}: below "
        f"{samples_for_difference(d):,} samples the intervals of differences cover less than 95 %, "
        "to the disadvantage of the arm with the smaller spread."
    )
