"""The verdicts as a table, as words for sentences and tags, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.report.estimates import distances, headline_metric, price
from orchestrator.report.formatting import (
    brief_name,
    calls_text,
    count_text,
    difference_text,
    half_width_text,
    label,
    listed,
    metric_name,
    p_text,
    reasons,
    short,
    value_text,
    wider_text,
)
from orchestrator.report.races import unequal
from orchestrator.report.results import Results
from orchestrator.report.table import Column, Row, Table, TableCell
from orchestrator.report.verdicts import CHOICE, Verdict, choice_of
from orchestrator.spec.model import Compare

NOT_TESTED = "not tested"
WORDS = "The report says what the words mean."
MARKS = {"better": "✓", "worse": "✗", "undecided": "≈"}


def verdict_table(results: Results, verdicts: Sequence[Verdict]) -> Table | None:
    """A row for each verdict; None if there is none."""
    metric = headline_metric(results)
    if metric is None or not verdicts:
        return None
    columns = (
        Column("arm"),
        Column("setting"),
        Column("against"),
        Column("NFE", numeric=True),
        Column(f"difference in {metric_name(results, metric)}", "difference", numeric=True),
        Column("verdict"),
        Column("other metrics", "others"),
    )
    rows = tuple(Row(_cells(results, one), one.group.arm) for one in verdicts)
    marks = "✓ better, ✗ worse, ≈ undecided by another metric's own 95 % interval."
    notes = (" ".join(_notes(results, verdicts)),)
    own = "Brackets: plain 95 % intervals; other metrics each by its own."
    return Table(columns, rows, "Verdict", notes, page_notes=(own,), terminal_notes=(f"{marks} {WORDS}",))


def _cells(results: Results, one: Verdict) -> tuple[TableCell, ...]:
    ours, theirs = price(one.group), price(one.baseline)
    nfe = calls_text(ours) if ours else "–"
    unequal = f"against {calls_text(theirs)}" if ours and theirs and ours != theirs else ""
    difference, brief = "–", "–"
    if one.difference is not None:
        difference, brief = (form(one.difference, one.low, one.high) for form in (difference_text, half_width_text))
    word = one.outcome or NOT_TESTED
    return (
        TableCell(label(results, one.group)),
        _setting(results, one),
        TableCell(label(results, one.baseline)),
        TableCell(nfe, unequal, brief=f"{nfe} : {calls_text(theirs or 0)}" if unequal else nfe),
        TableCell(difference, _adjusted(one), brief=brief),
        TableCell(word, _why(results, one), word, loud=True),
        TableCell(_others(results, one), brief=_brief_others(results, one)),
    )


def _setting(results: Results, one: Verdict) -> TableCell:
    """The arm's guidance and what was tuned, and which setting other metrics would choose."""
    choice, params = choice_of(results, one.group), one.group.params
    tuned = dict(choice.chosen.params) if choice and choice.chosen else {}
    keys = [key for key in params if results.plan.sweep.is_guidance(key) or key in tuned]
    own = {key: params[key] for key in keys if key in params}
    scale = next((cell.matched for cell in one.group.cells), None)
    matches = [str(value) for value in own.values() if isinstance(value, str)] if scale is not None else []
    words = params_text({key: scale if value in matches else value for key, value in own.items()})
    details = [f"measured: {text}" for text in matches]
    details += [f"best of {one.best_of} on these samples"] if one.best_of > 1 else []
    other = {metric: best for metric, best in one.optima.items() if not best.items() <= params.items()}
    details += [f"by {brief_name(results, metric)}: {params_text(best)}" for metric, best in other.items()]
    return TableCell(words or "–", "; ".join(details))


def params_text(params: Any) -> str:
    """`cfg 1.5, nag 2, nag.interval.high 0.5`"""
    return ", ".join(f"{key.removesuffix('.scale')} {short(value)}" for key, value in params.items())


def _why(results: Results, one: Verdict) -> str:
    """The small print of a verdict."""
    if one.outcome is None:
        return ""
    parts = [f"p {p_text(one.p)}" + (f", adjusted {p_text(one.adjusted_p)}" if one.p != one.adjusted_p else "")]
    if one.outcome == "alike" and one.margin is not None and not _holds_zero(one):
        parts.append(f"a difference, but within ±{value_text(one.margin)}")
    elif one.outcome in ("alike", "undecided") and one.margin is not None:
        parts.append(f"margin ±{value_text(one.margin)}")
    if one.alone:
        parts.append(f"by {metric_name(results, one.metric)} only")
    if one.outcome == "mixed":
        parts.append(f"worse in {_objections(results, one)}")
    parts += [f"{metric_name(results, name)} not known" for name in unknown(results, one)]
    return "; ".join(parts)


def _holds_zero(one: Verdict) -> bool:
    return one.adjusted_low is None or one.adjusted_high is None or one.adjusted_low <= 0 <= one.adjusted_high


def _objections(results: Results, one: Verdict) -> str:
    agree = results.plan.sweep.compare.agree
    return listed([metric_name(results, w.metric) for w in one.words if w.metric in agree and w.outcome == "worse"])


def unknown(results: Results, one: Verdict) -> list[str]:
    """The metrics of `agree` that say nothing."""
    agree = results.plan.sweep.compare.agree
    return [word.metric for word in one.words if word.outcome is None and word.metric in agree]


def _others(results: Results, one: Verdict) -> str:
    """`better in recall; worse in precision; undecided in FD pixels`"""
    parts = []
    for outcome in ("worse", "better", "undecided", None):
        names = [brief_name(results, word.metric) for word in one.words if word.outcome == outcome]
        if names:
            parts.append(f"{outcome or 'not known'} in {listed(names)}")
    return "; ".join(parts) or "–"


def _brief_others(results: Results, one: Verdict) -> str:
    """`✗ R  ≈ FID pixels  and 3 ✓, 1 ≈`: the metrics of `agree` and distances by name, the others as counts."""

    def name(metric: str) -> str:
        heading = (results.shown(metric).heading if metric in results.metrics else "") or ""
        suffix = results.suffix(metric).removeprefix("_") if heading else ""
        return " ".join(filter(None, [" ".join(heading.split()), suffix])) or brief_name(results, metric)

    named = {*results.plan.sweep.compare.agree, *distances(results)}
    parts, counts = [], []
    for outcome in ("worse", "better", "undecided", None):
        metrics, mark = [word.metric for word in one.words if word.outcome == outcome], MARKS.get(outcome or "", "?")
        if names := [name(metric) for metric in metrics if metric in named]:
            parts.append(f"{mark} {', '.join(names)}")
        if others := len(metrics) - len(names):
            counts.append(f"{others} {mark}")
    parts += [f"{'and ' if parts else ''}{', '.join(counts)}"] if counts else []
    return "  ".join(parts) or "–"


def _adjusted(one: Verdict) -> str:
    """`adjusted [−2.83, −1.68]`; empty if it is not tested."""
    if one.difference is None or one.low is None or one.high is None:
        return ""
    if one.adjusted_low is None or one.adjusted_high is None:
        return ""
    return "adjusted " + wider_text(one.difference, (one.low, one.high), (one.adjusted_low, one.adjusted_high))


def _notes(results: Results, verdicts: Sequence[Verdict]) -> list[str]:
    """What holds for all verdicts, and why some are none."""
    tested = [one for one in verdicts if one.tested]
    notes = []
    if tested:
        family = "one comparison" if len(tested) == 1 else f"corrected for {len(tested)} comparisons (Holm)"
        seeds = {one.seeds for one in tested if one.interval == "t"}
        over = f" over {count_text(seeds)} training seeds" if seeds else ""
        by = metric_name(results, tested[0].metric)
        notes.append(f"By {by} at 5 %{over}, {family}; margin {margin_text(results.plan.sweep.compare)}.")
    if any(choice_of(results, one.group) for one in verdicts):
        notes.append("Tuned settings were chosen on other samples.")
    if any((one.reason or "").startswith(CHOICE) for one in verdicts):
        notes.append(f"Not tested: a setting that was chosen on the samples that score it is {CHOICE}.")
    others = [(label(results, one.group), one.reason) for one in verdicts if one.reason and CHOICE not in one.reason]
    notes += [f"Not tested: {text}" for text in reasons(others, len(verdicts))]
    if any(one.interval == "influence" for one in tested):
        notes.append("With one training seed a verdict is on these networks: retraining is not in it.")
    return [*notes, *filter(None, [unequal(results.choices)])]


def margin_text(compare: Compare) -> str:
    """`1.3 % of the baseline's value`, `0.5`"""
    return f"{100 * compare.margin:g} % of the baseline's value" if compare.relative else f"{compare.margin:g}"


def tag_text(results: Results, one: Verdict) -> str:
    """`better than plain`, `mixed against plain: worse in recall`, `not tested: a choice and not a test: ...`"""
    if one.outcome is None:
        return f"{NOT_TESTED}: {one.reason}"
    link = "than" if one.outcome in ("better", "worse") else "against"
    only = f" by {metric_name(results, one.metric)} only" if one.alone else ""
    text = f"{one.outcome} {link} {label(results, one.baseline)}{only}"
    return f"{text}: worse in {_objections(results, one)}" if one.outcome == "mixed" else text


def as_json(results: Results, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    compare = results.plan.sweep.compare
    return {
        "metric": headline_metric(results),
        "level": 0.05,
        "correction": "Holm",
        "comparisons": sum(one.tested for one in verdicts),
        "margin": compare.margin,
        "relative": compare.relative,
        "agree": list(compare.agree),
        "arms": [_row(results, one) for one in verdicts],
    }


def _row(results: Results, one: Verdict) -> dict[str, Any]:
    numbers = ("difference", "low", "high", "adjusted_low", "adjusted_high", "p", "adjusted_p", "margin", "interval")
    choice = choice_of(results, one.group)
    return {
        "arm": one.group.arm,
        "params": dict(one.group.params),
        "against": one.baseline.arm,
        "against_params": dict(one.baseline.params),
        "chosen": dict(choice.chosen.params) if choice and choice.chosen else None,
        "outcome": one.outcome,
        "reason": one.reason,
        "by_one_metric_only": one.alone,
        **{name: getattr(one, name) for name in numbers},
        "training_seeds": one.seeds,
        "nfe": price(one.group),
        "against_nfe": price(one.baseline),
        "others": {word.metric: word.outcome for word in one.words},
        "best_by": {metric: dict(params) for metric, params in one.optima.items()},
    }
