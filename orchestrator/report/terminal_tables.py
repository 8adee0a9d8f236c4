"""Results as tables and sentences for the terminal; a command prints them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich import box
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.report.comparisons import Comparison, Group, groups
from orchestrator.report.estimates import beside, lowest
from orchestrator.report.formatting import (
    against,
    count_text,
    is_distance,
    label,
    listed,
    number,
    row_of,
    share,
    small,
    verdict,
)
from orchestrator.report.results import Results

STYLES = {"better": "green", "worse": "red", "undecided": "yellow"}
FORMATS = {"number": number, "share": share, "signed": small}
MARKS = {"better": "✓", "worse": "✗", "undecided": "≈"}


def comparison_tables(results: Results, comparisons: Sequence[Comparison]) -> RenderableType:
    """The arms with their distances and differences, then their other metrics and price."""
    extrapolated = [metric for metric in results.metrics if is_distance(results, metric)]
    other_ways = beside(results)
    others = [metric for metric in results.metrics if metric not in (*extrapolated, *other_ways)]
    tables: list[RenderableType] = []
    if extrapolated:
        tables.append(_distances(results, comparisons, extrapolated))
    every = [group for arm in results.plan.sweep.arms for group in groups(results, arm.name)]
    runs = [metric for metric in extrapolated if any(lowest(group, metric) for group in every)]
    if other_ways or runs:
        tables.append(_beside(results, every, other_ways, runs))
    tables.append(_others(results, comparisons, others))
    return Stack(*tables)


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )


def _distances(results: Results, comparisons: Sequence[Comparison], metrics: Sequence[str]) -> Table:
    table = _table("Distances, mean over training seeds; difference from the baseline, bias-corrected [95 %]")
    table.add_column("arm")
    table.add_column("against")
    for metric in metrics:
        table.add_column(metric, justify="right")
        table.add_column("difference", justify="right", no_wrap=True)
    for arm in results.plan.sweep.arms:
        for group in groups(results, arm.name):
            row = next((r for m in metrics if (r := row_of(comparisons, group, m))), None)
            cells: list[RenderableType] = [label(results, group), _against(results, row)]
            for metric in metrics:
                cells += [number(group.mean(metric)), _difference(results, row_of(comparisons, group, metric))]
            table.add_row(*cells)
    floors = [results.floor_of(metric) for metric in metrics]
    if known := [floor for floor in floors if floor]:
        shown = [(number(floor.value) if floor else "-", "") for floor in floors]
        words = Text(f"N {known[0].at or known[0].count}", style="dim")
        table.add_row(Text("held-out", style="dim"), words, *(cell for pair in shown for cell in pair))
    return table


def _against(results: Results, row: Comparison | None) -> str:
    return "" if row is None else against(results, row) + ("*" if row.selected else "")


def _difference(results: Results, row: Comparison | None) -> Text:
    if row is None:
        return Text("")
    if row.difference is None:
        return Text("no interval" if row.difference_at_n is None else f"{row.difference_at_n:+.2f} at N")
    interval = "" if row.low is None or row.high is None else f" ± {(row.high - row.low) / 2:.2f}"  # all are symmetric
    found = verdict(row, results.lower_is_better(row.metric))
    mark = f" {MARKS[found]}" if found in MARKS else ""
    return Text(f"{row.difference:+.2f}{interval}{mark}", style=STYLES.get(found or "", ""))


def _beside(results: Results, every: Sequence[Group], metrics: Sequence[str], runs: Sequence[str]) -> Table:
    """What is not compared: distances to held-out images, copies, the lowest run."""
    counts = {found[1] for group in every for metric in runs if (found := lowest(group, metric))}
    words = [results.shown(metric).beside for metric in metrics]
    title = next((each for each, metric in zip(words, metrics, strict=True) if results.extrapolates(metric)), "")
    title += f"{', and the' if title else 'The'} lowest of {count_text(counts)} runs" if runs else ""
    table = _table(f"{title or listed([*dict.fromkeys(words)])}, not compared")
    table.add_column("arm", no_wrap=True)
    headings = [_heading(results, metric) for metric in metrics]
    for name in (*headings, *(f"{_heading(results, metric)}\nlowest" for metric in runs)):
        table.add_column(name, justify="right")
    for group in every:
        values = [_plain(results, metric)(group.mean(metric)) for metric in metrics]
        lows = [number(found[0]) if (found := lowest(group, metric)) else "-" for metric in runs]
        table.add_row(label(results, group), *values, *lows)
    return table


def _plain(results: Results, metric: str) -> Callable[[float | None], str]:
    """How values of a metric are written."""
    return FORMATS[results.shown(metric).format]


def _others(results: Results, comparisons: Sequence[Comparison], metrics: Sequence[str]) -> Table:
    table = _table("Other metrics and price, mean over training seeds (P precision, R recall)")
    table.add_column("arm", no_wrap=True)
    for metric in metrics:
        table.add_column(_heading(results, metric), justify="right")
    table.add_column("calls", justify="right")
    table.add_column("worker s", justify="right")
    for arm in results.plan.sweep.arms:
        for group in groups(results, arm.name):
            seconds = [cell.seconds for cell in group.cells if cell.seconds is not None]
            calls = next((str(cell.network_calls) for cell in group.cells if cell.network_calls), "-")
            table.add_row(
                label(results, group),
                *(_plain(results, metric)(group.mean(metric)) for metric in metrics),
                calls,
                number(sum(seconds) / len(seconds)) if seconds else "-",
            )
    return table


def _heading(results: Results, metric: str) -> str:
    """Short, so that a row fits into 80 columns."""
    suffix = results.suffix(metric)
    name = results.shown(metric).heading or metric.removesuffix(suffix)
    return (name + suffix).replace("_", "\n")


def sentences(results: Results, comparisons: Sequence[Comparison]) -> list[str]:
    """What the comparisons say, in words: one line for each arm's row of the first metric, with the other distances."""
    lines: list[str] = []
    distances = [metric for metric in results.metrics if is_distance(results, metric)]
    for arm in results.plan.sweep.arms:
        for group in groups(results, arm.name):
            parts = []
            for metric in distances:
                row = row_of(comparisons, group, metric)
                found = row and verdict(row, results.lower_is_better(metric))
                if row and found:
                    parts.append(f"{found} in {metric} ({row.difference:+.2f} [{row.low:+.2f}, {row.high:+.2f}])")
            row = row_of(comparisons, group, distances[0]) if distances else None
            if parts and row:
                lines.append(f"{label(results, group)} against {against(results, row)}: {'; '.join(parts)}.")
    return lines


def footnotes(results: Results, comparisons: Sequence[Comparison]) -> list[str]:
    """How to read the tables: where the intervals come from, what a mark means, what is missing and why."""
    notes = []
    intervals = {row.interval for row in comparisons if row.interval}
    seeds = max((len(row.per_seed) for row in comparisons), default=0)
    if "t" in intervals:
        notes.append(f"Intervals: Student's t over {seeds} training seeds.")
    if "influence" in intervals:
        notes.append("Intervals: sampling noise of one training only (influence); another training may differ by more.")
    if intervals:
        notes.append("✓ better than the baseline, ✗ worse, ≈ cannot be told apart.")
    if any(row.selected for row in comparisons):
        notes.append("* the best of several baseline cells, so the comparison is hard on the arm.")
    distances = [metric for metric in results.metrics if is_distance(results, metric)]
    floors = [floor for metric in distances if (floor := results.floor_of(metric))]
    if floors and floors[0].at:
        notes.append(f"held-out: {floors[0].count:,} images, their bias in N corrected to that of {floors[0].at:,}.")
    if comparisons and _several(results):
        notes.append("An arm with several rows was tried several times: its best row is a choice, not a test.")
    notes += sorted({f"{row.metric}: {row.reason}" for row in comparisons if row.reason})
    return notes


def _several(results: Results) -> bool:
    return any(len(groups(results, arm.name)) > 1 for arm in results.plan.sweep.arms)
