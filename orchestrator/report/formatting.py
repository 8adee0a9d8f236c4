"""Numbers, names and verdicts as text: what tables, figures and sentences share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from orchestrator.plan.reported import FRECHET
from orchestrator.report.comparisons import Comparison, Group, groups
from orchestrator.report.results import Results
from orchestrator.spec.parameters import NFE

VERBS = {
    "better": "beats",
    "worse": "loses to",
    "alike": "does as well, within the margin, as",
    "undecided": "cannot be told from",
    "mixed": "beats",
}
# For a setting that was chosen on the very samples that are compared: a choice, not a test.
CHOSEN_VERBS = VERBS | {
    "better": "came out better than",
    "worse": "came out worse than",
    "mixed": "came out better than",
}
SAMPLING_NOISE = "95 % sampling noise of one training only; another training may differ by more"
CUT = "Intervals are cut at what is possible: no distance is below 0, no share above 1."


def verdict(comparison: Comparison, lower_is_better: bool | None) -> str | None:
    """better | worse | undecided, by whether the interval excludes zero; None if there is no interval. If
    neither direction is better: higher | lower | undecided.
    """
    if comparison.low is None or comparison.high is None:
        return None
    if comparison.low <= 0 <= comparison.high:
        return "undecided"
    if lower_is_better is None:
        return "lower" if comparison.high < 0 else "higher"
    return "better" if (comparison.high < 0) == lower_is_better else "worse"


def label(results: Results, group: Group) -> str:
    """An arm and what differs between its groups, guidance first: `nag 2`, or `nag 2 heun` with several samplers."""
    others = groups(results, group.arm)
    varying = [k for k in group.params if len({str(other.params.get(k)) for other in others}) > 1]
    is_guidance = results.plan.sweep.is_guidance
    varying.sort(key=lambda key: not is_guidance(key))
    several = sum(map(is_guidance, varying)) > 1  # then `cfg 1.5 nag 2` rather than `1.5 2`
    names = {key: f"{key.partition('.')[0]} " if several and is_guidance(key) else "" for key in varying}
    words = [names[key] + (nfe_text(group.params[key]) if key == NFE else short(group.params[key])) for key in varying]
    return " ".join([group.arm, *words]) + (" steps" if varying[-1:] == ["sampler.steps"] else "")


def nfe_text(value: Any) -> str:
    """`NFE 50`: what a sampler's `nfe` allows."""
    return f"NFE {short(value)}"


def short(value: Any) -> str:
    """A parameter's value as a person writes it: 2, not 2.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def row_of(comparisons: Sequence[Comparison], group: Group, metric: str) -> Comparison | None:
    """A group's comparison with its baseline."""
    for row in comparisons:
        if row.arm == group.arm and row.metric == metric and row.params == group.params:
            return row
    return None


def partner(results: Results, row: Comparison) -> Group:
    """The group of the baseline that a comparison is with."""
    return next(group for group in groups(results, row.against) if group.params == row.against_params)


def against(results: Results, row: Comparison) -> str:
    """The label of the group that a comparison is with."""
    return label(results, partner(results, row))


def metric_name(results: Results, metric: str) -> str:
    """`FID`, `recall (pixels)`, `FD-DINOv2`, `Fréchet distance (digits)`."""
    return results.words(metric)


def brief_name(results: Results, metric: str) -> str:
    """A metric's name where space is short: `FD digits` for `Fréchet distance (digits)`."""
    return metric_name(results, metric).replace(FRECHET, "FD").replace(" (", " ", 1).replace(")", "", 1)


def p_text(p: float | None) -> str:
    """`0.012`, `0.34`, `below 0.001`"""
    if p is None:
        return "–"
    return "below 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def reasons(told: Sequence[tuple[str, str]], everyone: int) -> list[str]:
    """Sentences on why something is missing, from pairs (who, reason): each reason once, with those it is of, unless it
    is of everyone.
    """
    by_reason: dict[str, list[str]] = {}
    for who, reason in told:
        by_reason.setdefault(reason, []).append(who)
    of = {reason: list(dict.fromkeys(who)) for reason, who in by_reason.items()}
    return [f"{'' if len(who) == everyone else f'{listed(who)}: '}{reason}." for reason, who in of.items()]


def minus(text: str) -> str:
    return text.replace("-", "−")


def value_text(value: float | None, of: float | None = None) -> str:
    """Three significant digits, at least two decimals below 100; a number below one keeps three decimals or more."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value if of is None else of)
    if size >= 1000:
        return minus(f"{value:,.0f}")
    decimals = 1 if size >= 100 else 2 if size >= 1 else 3 if size >= 0.1 or size == 0 else 4 if size >= 0.01 else 6
    return minus(f"{value:.{decimals}f}")


def interval_text(low: float | None, high: float | None, value: float) -> str:
    """`[low, high]` with as many decimals as the value."""
    return "" if low is None or high is None else f"[{value_text(low, value)}, {value_text(high, value)}]"


def difference_text(value: float, low: float | None, high: float | None) -> str:
    """`−1.85 [−2.64, −1.05]`, with two significant digits of the interval's half width."""
    if low is None or high is None:
        return signed(value)
    decimals = _decimals(value, low, high)
    value, low, high = (round(number, decimals) + 0.0 for number in (value, low, high))  # never -0.00
    return minus(f"{value:+.{decimals}f} [{low:+.{decimals}f}, {high:+.{decimals}f}]")


def wider_text(value: float, plain: tuple[float, float], wide: tuple[float, float]) -> str:
    """Another interval of a difference, `[−2.83, −1.68]`, with the digits of its plain one."""
    decimals = _decimals(value, *plain)
    low, high = (round(number, decimals) + 0.0 for number in wide)
    return minus(f"[{low:+.{decimals}f}, {high:+.{decimals}f}]")


def signed(value: float) -> str:
    return minus(f"{value:+.2f}" if abs(value) >= 1 else f"{value:+.3f}")


def half_width_text(value: float, low: float | None, high: float | None) -> str:
    """`−1.85 ± 0.80`: a difference where space is short. All our intervals are symmetric."""
    if low is None or high is None:
        return signed(value)
    decimals = _decimals(value, low, high)
    return minus(f"{round(value, decimals) + 0.0:+.{decimals}f} ± {(high - low) / 2:.{decimals}f}")


def _decimals(value: float, low: float, high: float) -> int:
    """Two significant digits of the interval's half width, or three of the value if those are fewer."""
    size = max(abs(high - low) / 2, abs(value) / 10) or 0.1
    return min(5, max(1, 1 - math.floor(math.log10(size))))


def count_text(counts: Sequence[int] | set[int]) -> str:
    """`1,000`, or `1,000 to 50,000` if they differ."""
    if not counts:
        return "–"
    return f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"


def calls_text(calls: float) -> str:
    """NFE: `20`, or `13.5` if steps differ in NFE."""
    return f"{calls:,.0f}" if calls == round(calls) else f"{calls:,.1f}"


def seconds_text(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def listed(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1]))) if parts else ""


def plural(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def state_text(results: Results) -> str:
    """`22 of 27 cells done, 1 failed, 4 still to do (2 of them scored in part)`"""
    total = len(results.cells)
    done = sum(cell.complete for cell in results.cells)
    failed = sum(cell.reason is not None for cell in results.cells)
    partly = sum(bool(cell.scores) and not cell.complete for cell in results.cells)
    text = f"{done} of {plural(total, 'cell')} done, {failed} failed, {total - done - failed} still to do"
    text += f" ({partly} of them scored in part)" if partly else ""
    left = sum(choice.chosen is None for choice in results.choices)
    return text + (f", {plural(left, 'choice')} of tuned values open" if left else "")


def over_seeds_text(seeds: set[int]) -> str:
    """`95 % intervals (Student's t) over 3 training seeds`"""
    number = f"{count_text(seeds)} training seed{'' if seeds == {1} else 's'}"
    return f"95 % intervals (Student's t) over {number}"
