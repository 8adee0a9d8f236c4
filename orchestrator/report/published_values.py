"""Published numbers beside ours: shown with how they were measured, never ranked with ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator.report.comparisons import Group, groups
from orchestrator.report.estimates import best, estimate, rivals, stamp_of
from orchestrator.report.formatting import metric_name, short, value_text
from orchestrator.report.results import Results
from orchestrator.report.table import Column, Row, Table, TableCell
from orchestrator.spec.model import Paper, PaperRow

PUBLISHED = "Published numbers beside ours"


@dataclass(frozen=True)
class PublishedValue:
    """One published number. ours: None if nothing is scored yet. settings: of how many settings ours is the best."""

    row: PaperRow
    metric: str
    published: float
    ours: float | None
    count: int | None  # our samples
    settings: int
    agrees: bool | None  # None if no tolerance is given, or N differs

    def as_json(self, paper: Paper) -> dict[str, Any]:
        known = {"arm": self.row.arm, "params": dict(self.row.params), "metric": self.metric}
        numbers = {"published": self.published, "published_count": paper.count, "value": self.ours, "count": self.count}
        allowed = paper.allowed(self.row, self.metric)
        about = {"settings": self.settings, "tolerance": allowed, "within": self.agrees}
        return {**known, **numbers, **about, "source": paper.source, "protocol": paper.protocol}


def published_values(results: Results) -> Iterator[PublishedValue]:
    """Every published number that the sweep repeats, in the order of the file."""
    paper = results.plan.sweep.paper
    for row in paper.rows if paper else ():
        ours = [group for group in groups(results, row.arm) if row.is_of(row.arm, group.params)]
        if not ours:  # the sweep leaves it out, as with --smoke
            continue
        for metric, published in row.values.items():
            yield _beside_ours(results, row, metric, published, ours)


def _beside_ours(results: Results, row: PaperRow, metric: str, published: float, ours: list[Group]) -> PublishedValue:
    paper = results.plan.sweep.paper
    assert paper is not None
    group = best(results, ours, metric) if metric in results.metrics else None
    known = estimate(group, metric) if group else None
    if group is None or known is None:
        return PublishedValue(row, metric, published, None, None, len(ours), None)
    count, allowed = stamp_of(group, metric).get("count"), paper.allowed(row, metric)
    alike = count == paper.count
    agrees = abs(known.mean - published) <= allowed if alike and allowed is not None else None
    return PublishedValue(row, metric, published, known.mean, count, len(rivals(ours, metric)), agrees)


def published_table(results: Results) -> Table | None:
    """None if the sweep names no published numbers, or repeats none of them."""
    paper, entries = results.plan.sweep.paper, list(published_values(results))
    if paper is None or not entries:
        return None
    rows = []
    for one in entries:
        setting = ", ".join(f"{key} {short(value)}" for key, value in one.row.params.items()) or "–"
        name = metric_name(results, one.metric) if one.metric in results.metrics else one.metric
        published = TableCell(value_text(one.published), f"N = {paper.count:,}, protocol {_protocol(paper)}")
        cells = (
            TableCell(one.row.arm),
            TableCell(setting),
            TableCell(name),
            _ours(one),
            published,
            TableCell(_agreement(one, paper)),
        )
        rows.append(Row(cells, one.row.arm))
    for (arm, metric), several in _means(entries).items():
        means = (TableCell(value_text(sum(values) / len(several))) for values in zip(*several, strict=True))
        name = metric_name(results, metric)
        rows.append(
            Row((TableCell(arm), TableCell(f"mean of {len(several)}"), TableCell(name), *means, TableCell()), arm)
        )
    numbers = (Column("ours", numeric=True), Column("published", numeric=True))
    columns = (Column("arm"), Column("setting"), Column("metric"), *numbers, Column("agreement"))
    notes = (
        f"Published at N = {paper.count:,} by {paper.source}; protocol: {paper.protocol}. Not ranked with ours.",
        "Evaluator, reference images, N and even the number of GPUs change such a number.",
    )
    return Table(columns, tuple(rows), PUBLISHED, notes)


def _means(entries: list[PublishedValue]) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """(arm, metric) -> our and the published value on each of several data sets, if all are scored."""
    pairs: dict[tuple[str, str], list[tuple[float | None, float]]] = {}
    for one in (one for one in entries if one.row.params.keys() == {"data"}):
        pairs.setdefault((one.row.arm, one.metric), []).append((one.ours, one.published))
    known = {key: [(a, b) for a, b in several if a is not None] for key, several in pairs.items()}
    return {key: several for key, several in known.items() if 1 < len(several) == len(pairs[key])}


def _protocol(paper: Paper) -> str:
    """`unknown`, or `below`: a note below the table has it."""
    return "unknown" if paper.protocol.startswith("unknown") else "below"


def _ours(one: PublishedValue) -> TableCell:
    if one.ours is None:
        return TableCell("–")
    detail = [f"N = {one.count or 0:,}", f"best of {one.settings} settings" if one.settings > 1 else ""]
    return TableCell(value_text(one.ours), ", ".join(filter(None, detail)))


def _agreement(one: PublishedValue, paper: Paper) -> str:
    """Whether ours confirms the published number; "" if they cannot be compared."""
    allowed = paper.allowed(one.row, one.metric)
    if one.ours is None or allowed is None:
        return ""
    if one.agrees is None:
        return "at another N, so it decides nothing"
    return f"confirmed within {allowed:g}" if one.agrees else f"not confirmed: off by more than {allowed:g}"
