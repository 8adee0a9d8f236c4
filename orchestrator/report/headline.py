"""The first lines of a report: who won, by how much, how sure, at what price; and what was compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from orchestrator.report.comparisons import Group
from orchestrator.report.estimates import estimate, headline_metric, panel_of, panel_title, price, standings
from orchestrator.report.formatting import (
    calls_text,
    count_text,
    half_width_text,
    label,
    listed,
    metric_name,
    p_text,
    plural,
    value_text,
)
from orchestrator.report.results import Results
from orchestrator.report.verdicts import CHOICE, Verdict

WON = ("better", "mixed", "alike", "undecided", "worse")  # the verdicts, the best first
LISTED = 3  # samplers, networks or data sets that a line names


def headline(results: Results, ruled: Sequence[Verdict]) -> str:
    """The verdict of the best arm in one sentence, and how many comparisons ended how; empty without a verdict."""
    if not ruled:
        return ""
    tested = [one for one in ruled if one.tested]
    if not tested:
        if not any((one.reason or "").startswith(CHOICE) for one in ruled):
            return " ".join(f"Nothing is tested: {reason}." for reason in dict.fromkeys(one.reason for one in ruled))
        first = _foremost(results, ruled)
        came = f"{_setting(results, first.group)} came out first: {_by(results, first)}"
        return f"Nothing is tested: settings were chosen on the samples that score them. {came}{_cost(first)}."
    first = _foremost(results, tested)
    return f"{_sentence(results, first)} {_counts(tested)}".strip()


def _foremost(results: Results, ruled: Sequence[Verdict]) -> Verdict:
    """The verdict with the best outcome; of equal ones, that of the arm with the best value."""
    rank = {outcome: place for place, outcome in enumerate(WON)}
    known = [(one, estimate(one.group, one.metric)) for one in ruled]
    costs = standings(results, ruled[0].metric, [value for _, value in known if value])
    placed = zip([one for one, value in known if value], costs, strict=True)
    return min(placed, key=lambda pair: (rank.get(pair[0].outcome or "", 0), pair[1]))[0]


def _sentence(results: Results, one: Verdict) -> str:
    arm, baseline = _setting(results, one.group), _setting(results, one.baseline)
    sure = f"p {p_text(one.adjusted_p)}" + (" after correction" if one.p != one.adjusted_p else "")
    by = f"{_by(results, one)}; {sure}{_cost(one)}."
    match one.outcome:
        case "better":
            alone = f" by {metric_name(results, one.metric)} only" if one.alone else ""
            return f"{arm} is better than {baseline}{alone}: {by}"
        case "mixed":
            agree = results.plan.sweep.compare.agree
            worse = [w.metric for w in one.words if w.metric in agree and w.outcome == "worse"]
            names = listed([metric_name(results, metric) for metric in worse])
            return f"No arm is better than its baseline. {arm} against {baseline} is mixed, worse in {names}: {by}"
        case "alike":
            return f"No arm is better than its baseline. {arm} is alike {baseline}, within the margin: {by}"
        case "undecided":
            return f"No arm is better than its baseline. {arm} cannot be told from {baseline}: {by}"
        case _:
            return f"Every arm is worse than its baseline. The nearest, {arm} against {baseline}: {by}"


def _by(results: Results, one: Verdict) -> str:
    """`FID 4.71 against 6.64, −1.93 ± 0.51 (29 % lower)`"""
    ours, theirs = estimate(one.group, one.metric), estimate(one.baseline, one.metric)
    values = f" {value_text(ours.mean)} against {value_text(theirs.mean)}" if ours and theirs else ""
    text = f"{metric_name(results, one.metric)}{values}"
    if one.difference is None:
        return text
    text += f", {half_width_text(one.difference, one.low, one.high)}"
    if theirs and theirs.mean and results.shown(one.metric).at_least == 0:
        share = abs(one.difference / theirs.mean)
        text += f" ({100 * share:.2g} % {'lower' if one.difference < 0 else 'higher'})"
    return text


def _cost(one: Verdict) -> str:
    ours, theirs = price(one.group), price(one.baseline)
    if not ours or not theirs:
        return ""
    if ours == theirs:
        return f"; equal price, {calls_text(ours)} NFE a sample"
    return f"; price {calls_text(ours)} NFE a sample against {calls_text(theirs)}"


def _counts(tested: Sequence[Verdict]) -> str:
    if len(tested) == 1:
        return ""
    counts = Counter(str(one.outcome) for one in tested)
    return f"Of {len(tested)} comparisons: {listed([f'{counts[word]} {word}' for word in WON if counts[word]])}."


def _setting(results: Results, group: Group) -> str:
    return label(results, group)


def facts(results: Results) -> str:
    """Data, network, N, training seeds, sampler and the evaluator's name if the sweep has one: `data digits · network
    sit · N = 1,000 samples a cell · 3 training seeds · sampler euler · protocol adm`.
    """
    streams = [results.plan.tasks[cell.stream].params for cell in results.plan.cells]
    groups = {(cell.arm, tuple(panel_of(results, _alone(cell)).items())): _alone(cell) for cell in results.cells}
    samplers = [panel_title(_sampler(results, group), []) for group in groups.values()]
    seeds = {len(seeds) for seeds in _seeds(results).values()}
    parts = [
        _some("data", [_data(results, str(stream["network"])) for stream in streams]),
        _some("network", [str(cell.params["network"]) for cell in results.cells if "network" in cell.params]),
        f"N = {count_text({planned.count for planned in results.plan.cells})} samples a cell" if streams else "",
        f"{count_text(seeds)} training seed{'' if seeds == {1} else 's'}" if seeds else "",
        _some("sampler", samplers),
        f"protocol {results.plan.sweep.protocol}" if results.plan.sweep.protocol else "",
    ]
    return " · ".join(filter(None, parts))


def _alone(cell: Any) -> Group:
    return Group(cell.arm, cell.params, (cell,))


def _sampler(results: Results, group: Group) -> dict[str, object]:
    return {key: value for key, value in panel_of(results, group).items() if key.startswith("sampler")}


def _seeds(results: Results) -> dict[str, set[str]]:
    """The trainings of each arm's settings."""
    found: dict[str, set[str]] = {}
    metric = headline_metric(results)
    for cell in results.cells:
        if metric is None or metric in cell.scores:
            found.setdefault(cell.arm, set()).update(map(str, _alone(cell).by_training()))
    return found


def _some(kind: str, names: Sequence[str]) -> str:
    known = [*dict.fromkeys(filter(None, names))]
    if len(known) > LISTED:
        return f"{len(known)} {kind}{'' if kind == 'data' else 's'}"
    return f"{kind}{'s' if len(known) > 1 and kind != 'data' else ''} {listed(known)}" if known else ""


def _data(results: Results, network: str) -> str:
    """The name of a network's data set, with its folder and resolution; empty if its task does not say."""
    task = results.plan.tasks.get(network)
    while task is not None and "data" not in task.params:
        task = results.plan.tasks.get(str(task.params.get("init", "")))
    data: Mapping[str, Any] = task.params["data"] if task else {}
    if "name" not in data:
        return ""
    fields = data.get("fields", {})
    folder = results.plan.places.get(str(fields.get("path", "")), "")
    more = [PurePath(folder).name] if folder else []
    more += [plural(int(fields["resolution"]), "pixel")] if "resolution" in fields else []
    return f"{data['name']} ({', '.join(more)})" if more else str(data["name"])
