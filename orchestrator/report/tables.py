"""The tables that compare settings: distances with differences, secondary metrics, and other metrics with cost."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.report.comparisons import Comparison, Group, groups
from orchestrator.report.estimates import (
    distances,
    headline_metric,
    lowest_run,
    price,
    rivals,
    secondary_metrics,
    shown_estimate,
)
from orchestrator.report.formatting import (
    CUT,
    against,
    brief_name,
    calls_text,
    count_text,
    difference_text,
    half_width_text,
    interval_text,
    label,
    listed,
    metric_name,
    nfe_text,
    reasons,
    row_of,
    seconds_text,
    short,
    signed,
    value_text,
    verdict,
)
from orchestrator.report.results import Results
from orchestrator.report.table import Column, Row, Table, TableCell
from orchestrator.spec.parameters import NFE, is_seed

HEADING = 11  # characters per line of a heading in a terminal
ARM, SETTING = Column("arm"), Column("setting", only="page")
AGAINST = Column("against", only="terminal")


@dataclass(frozen=True)
class Setting:
    """A group to show. best_of: of how many settings of its arm it is the best."""

    group: Group
    best_of: int = 1


def best_settings(results: Results, chosen: Mapping[str, Group]) -> list[Setting]:
    """The best setting of each arm."""
    metric = headline_metric(results) or ""
    return [Setting(group, len(rivals(groups(results, arm), metric))) for arm, group in chosen.items()]


def every_setting(results: Results) -> list[Setting]:
    return [Setting(group) for arm in results.plan.sweep.arms for group in groups(results, arm.name)]


def comparison_tables(
    results: Results, comparisons: Sequence[Comparison], settings: Sequence[Setting]
) -> tuple[Table, ...]:
    """Tables of distances and of secondary metrics, if there are any, and of the rest."""
    compared = distances(results)
    tables = [_rest(results, settings)]
    if secondary := _secondary(results, settings, compared):
        tables.insert(0, secondary)
    if compared:
        tables.insert(0, _distances(results, comparisons, settings, compared))
    return tuple(tables)


def shift_table(results: Results, comparisons: Sequence[Comparison], settings: Sequence[Setting]) -> Table | None:
    """The noise shift, late in sampling and over all levels. None if the sweep does not measure it, no rows if nothing
    is measured yet.
    """
    measured = [metric for metric in results.metrics if results.is_shift(metric)]
    if not measured:
        return None
    shown = settings if any(cell.shift for cell in results.cells) else []
    notes = ["A noise shift is best at zero. Late: t < 0.3."]
    if any(setting.best_of > 1 for setting in shown):
        notes.append("The settings are those chosen above, not the ones with the smallest shift.")
    return _compared(results, comparisons, shown, measured, "Noise shift, and difference from the baseline", notes)


def _distances(
    results: Results, comparisons: Sequence[Comparison], settings: Sequence[Setting], metrics: Sequence[str]
) -> Table:
    notes = ["Values are means over training seeds. Differences are paired and corrected for the bias in N."]
    notes.append("Each interval stands alone; only the verdicts are corrected for the number of comparisons.")
    if any(row.selected for row in comparisons):
        notes.append("*: the baseline is itself the best of several settings.")
    page = ["In brackets: 95 % intervals; below a value, that of the arm alone, for the expectation at this N."]
    if any(setting.best_of > 1 for setting in settings):
        page.append("Selected: the best setting of its arm on the very samples that score it.")
    title = "Distances, and difference from the baseline [95 %]"
    table = _compared(results, comparisons, settings, metrics, title, notes)
    floor, terminal = _held_out(results, metrics)
    return replace(table, rows=(*table.rows, *floor), page_notes=tuple(page), terminal_notes=terminal)


def _compared(
    results: Results,
    comparisons: Sequence[Comparison],
    settings: Sequence[Setting],
    metrics: Sequence[str],
    title: str,
    notes: Sequence[str],
) -> Table:
    """A table with each metric next to its difference from the baseline."""
    known: dict[tuple[str, str], list[Comparison]] = {}
    for comparison in comparisons:
        known.setdefault((comparison.arm, comparison.metric), []).append(comparison)
    varying = _varying(results)
    rows = []
    for setting in settings:
        group = setting.group
        by_metric = {metric: row_of(known.get((group.arm, metric), []), group, metric) for metric in metrics}
        partner = next((_partner(results, row) for row in by_metric.values() if row), "")
        cells = [*_names(results, setting, varying), TableCell(partner)]
        for metric, row in by_metric.items():
            cells += [_value(results, group, metric), _difference(results, row)]
        rows.append(Row(tuple(cells), group.arm))
    notes = [*notes, *_no_differences(results, known, settings, metrics), *_cut(results, settings, metrics)]
    columns = [ARM, SETTING, AGAINST]
    for metric in metrics:
        columns += [_column(results, metric), Column("difference", numeric=True, joined=True)]
    return Table(tuple(columns), tuple(rows), title, tuple(notes))


def _no_differences(
    results: Results,
    known: Mapping[tuple[str, str], list[Comparison]],
    settings: Sequence[Setting],
    metrics: Sequence[str],
) -> list[str]:
    """Why differences are missing, below the table."""
    notes = []
    for metric in metrics:
        each = [(one.group, row_of(known.get((one.group.arm, metric), []), one.group, metric)) for one in settings]
        rows = [(group, row) for group, row in each if row]
        told = [(label(results, group), row.reason) for group, row in rows if row.difference is None and row.reason]
        notes += [f"No difference in {metric_name(results, metric)}: {text}" for text in reasons(told, len(rows))]
    return notes


def _cut(results: Results, settings: Sequence[Setting], metrics: Sequence[str]) -> list[str]:
    """A note if an interval is cut."""
    known = [shown_estimate(results, one.group, metric) for one in settings for metric in metrics]
    return [CUT] if any(one and one.cut for one in known) else []


def _secondary(results: Results, settings: Sequence[Setting], compared: Sequence[str]) -> Table | None:
    """Values that are shown but not compared: distances to held-out images, copies, and the lowest run."""
    metrics = secondary_metrics(results)
    runs = [metric for metric in compared if any(lowest_run(one.group, metric) for one in settings)]
    if not metrics and not runs:
        return None
    lows = (_column(results, metric, "lowest run", "lowest") for metric in runs)
    columns = [ARM, SETTING, *(_column(results, metric) for metric in metrics), *lows]
    varying = _varying(results)
    rows = [
        Row(
            (
                *_names(results, setting, varying),
                *(_value(results, setting.group, metric) for metric in metrics),
                *(_lowest(setting.group, metric) for metric in runs),
            ),
            setting.group.arm,
        )
        for setting in settings
    ]
    by_distance = sorted(metrics, key=lambda metric: not results.extrapolates(metric))  # distances first
    notes = [*dict.fromkeys(note for metric in by_distance if (note := results.shown(metric).note))]
    if runs:
        notes.append("Lowest run: some published tables show it. It flatters, and nothing here is ranked by it.")
    title = f"{_secondary_title(results, settings, metrics, runs)}, not compared"
    return Table(tuple(columns), tuple(rows), title, page_notes=(*notes, *_cut(results, settings, metrics)))


def _secondary_title(results: Results, settings: Sequence[Setting], metrics: Sequence[str], runs: Sequence[str]) -> str:
    kinds = [*dict.fromkeys(results.shown(metric).beside for metric in metrics)]
    counts = {lowest[1] for one in settings for metric in runs if (lowest := lowest_run(one.group, metric))}
    kinds += [f"{'the' if kinds else 'The'} lowest of {count_text(counts)} runs"] if runs else []
    return listed([kinds[0], *(kind[:1].lower() + kind[1:] for kind in kinds[1:])])


def _rest(results: Results, settings: Sequence[Setting]) -> Table:
    """Quality metrics other than distances, and the cost of a setting."""
    apart = {*distances(results), *secondary_metrics(results)}
    metrics = [
        metric
        for metric in results.metrics
        if metric not in apart and not results.is_shift(metric) and not results.is_cost(metric)
    ]
    costs = [metric for metric in results.metrics if results.is_cost(metric)]
    first, last = Column("NFE", numeric=True), Column("worker time a cell", "worker\ntime", numeric=True)
    cost = [first, *(_column(results, metric) for metric in costs), last]
    columns = [ARM, SETTING, *(_column(results, metric) for metric in metrics), *cost]
    varying = _varying(results)
    rows = [
        Row(
            (
                *_names(results, setting, varying),
                *(_value(results, setting.group, metric) for metric in metrics),
                _nfe(setting.group),
                *(_value(results, setting.group, metric) for metric in costs),
                _seconds(setting.group),
            ),
            setting.group.arm,
        )
        for setting in settings
    ]
    headings = {results.shown(metric).heading: metric_name(results, metric).partition(" (")[0] for metric in metrics}
    letters = [f"{heading} {name}" for heading, name in headings.items() if heading and len(heading) <= 2]
    title = "Other metrics and cost" if metrics else "Cost"
    notes = tuple(note for metric in costs if (note := results.shown(metric).note))
    terminal = (f"{', '.join(letters)}.",) if letters else ()
    cut = tuple(_cut(results, settings, metrics))
    return Table(tuple(columns), tuple(rows), title, notes, page_notes=cut, terminal_notes=terminal)


def _column(results: Results, metric: str, more: str = "", brief_more: str = "") -> Column:
    name = metric_name(results, metric)
    declared = results.shown(metric).heading
    if declared:
        lines = [declared, results.suffix(metric).removeprefix("_")]
    else:
        lines = textwrap.wrap(brief_name(results, metric), HEADING, break_long_words=False)
    brief = "\n".join(filter(None, [*lines, brief_more]))
    return Column(f"{name}, {more}" if more else name, brief, numeric=True)


def _varying(results: Results) -> set[str]:
    """The parameters, except seeds, that differ between the cells of some arm."""
    values: dict[tuple[str, str], set[str]] = {}
    for cell in results.cells:
        for key, value in cell.params.items():
            values.setdefault((cell.arm, key), set()).add(str(value))
    return {key for (_, key), distinct in values.items() if len(distinct) > 1 and not is_seed(key)}


def _differing(results: Results) -> set[str]:
    """The fields of a guidance, such as `nag.interval.low`, that differ between arms which have it."""
    guided = [cell.params for cell in results.cells]
    keys = {key for params in guided for key in params if results.plan.sweep.is_guidance(key)}

    def values(key: str) -> set[str]:
        family = key.partition(".")[0]
        return {str(params.get(key)) for params in guided if any(k.partition(".")[0] == family for k in params)}

    return {key for key in keys if len(values(key)) > 1}


def _names(results: Results, setting: Setting, varying: set[str]) -> tuple[TableCell, TableCell]:
    """The arm, and what identifies the setting: its guidance, and the parameters that vary within its arm."""
    group, words, differing = setting.group, list[str](), _differing(results)
    for key, value in sorted(group.params.items(), key=lambda item: not results.plan.sweep.is_guidance(item[0])):
        family, _, field = key.rpartition(".")
        if field == "scale":
            words.append(f"{family} {short(value)}")
        elif results.plan.sweep.is_guidance(key):
            words += [f"{key} {short(value)}"] if key in differing or key in varying else []
        elif key in varying:
            plain = f"{short(value)} steps" if field == "steps" else short(value)
            words.append(nfe_text(value) if key == NFE else plain)
    selected = f"selected, best of {setting.best_of}" if setting.best_of > 1 else ""
    return TableCell(group.arm, brief=label(results, group)), TableCell(", ".join(words) or "–", selected)


def _value(results: Results, group: Group, metric: str) -> TableCell:
    known = shown_estimate(results, group, metric)
    if known is None:
        return TableCell("–")
    text = signed(known.mean) if results.shown(metric).format == "signed" else value_text(known.mean)
    missing = "" if known.complete else f"{len(known.seeds)} of {known.planned} seeds"
    return TableCell(text, ", ".join(filter(None, (interval_text(known.low, known.high, known.mean), missing))))


def _lowest(group: Group, metric: str) -> TableCell:
    lowest = lowest_run(group, metric)
    return TableCell(value_text(lowest[0]), f"of {lowest[1]} runs") if lowest else TableCell("–")


def _partner(results: Results, row: Comparison) -> str:
    return against(results, row) + ("*" if row.selected else "")


def _difference(results: Results, row: Comparison | None) -> TableCell:
    if row is None:
        return TableCell()
    if row.difference is None:
        at_n = "" if row.difference_at_n is None else f"{signed(row.difference_at_n)} at N"
        return TableCell(at_n or "–")
    outcome = verdict(row, results.lower_is_better(row.metric)) or "no interval"
    link = "than" if outcome in ("better", "worse", "lower", "higher") else "against"
    seeds = f"{len(row.per_seed)} seeds" if row.interval == "t" else "one training" if row.interval else ""
    detail = ", ".join(filter(None, (f"{outcome} {link} {_partner(results, row)}", seeds)))
    brief = half_width_text(row.difference, row.low, row.high)
    return TableCell(difference_text(row.difference, row.low, row.high), detail, outcome, brief)


def _nfe(group: Group) -> TableCell:
    """What was spent; below it, the steps that followed from a given number of evaluations."""
    calls, steps = price(group), {cell.steps for cell in group.cells if cell.steps is not None}
    taken = f"{count_text(steps)} steps" if NFE in group.params and steps else ""
    return TableCell(calls_text(calls) if calls else "–", taken)


def _seconds(group: Group) -> TableCell:
    seconds = [cell.seconds for cell in group.cells if cell.seconds is not None]
    return TableCell(seconds_text(sum(seconds) / len(seconds)) if seconds else "–")


def _held_out(results: Results, metrics: Sequence[str]) -> tuple[list[Row], tuple[str, ...]]:
    """The row of the held-out images, scored like a cell, and a note on it."""
    known = [results.floor_of(metric) for metric in metrics]
    first = next((floor for floor in known if floor), None)
    if first is None:
        return [], ()
    cells = [TableCell("held-out images", brief="held-out"), TableCell(), TableCell(f"N = {first.count:,}")]
    for floor in known:
        cells += [TableCell(value_text(floor.value), floor.words) if floor else TableCell("–"), TableCell()]
    note = (f"Held-out images: their bias in N is corrected to that of {first.at:,}.",) if first.at else ()
    return [Row(tuple(cells), muted=True)], note
