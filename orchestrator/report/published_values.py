"""A paper's numbers beside ours: shown, with how they were measured, and never ranked with ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator.report.comparisons import Group, groups
from orchestrator.report.estimates import best, estimate, rivals, stamp_of
from orchestrator.report.formatting import metric_name, short, value_text
from orchestrator.report.results import Results
from orchestrator.report.tables import Item, Table
from orchestrator.spec.model import Paper, PaperRow


@dataclass(frozen=True)
class Beside:
    """One published number. ours: None where it is not scored yet. settings: of how many of ours this is the best."""

    row: PaperRow
    metric: str
    published: float
    ours: float | None
    count: int | None  # our samples
    settings: int
    agrees: bool | None  # None where no tolerance is given, or the two are of other counts

    def as_json(self, paper: Paper) -> dict[str, Any]:
        known = {"arm": self.row.arm, "params": dict(self.row.params), "metric": self.metric}
        numbers = {"published": self.published, "published_count": paper.count, "value": self.ours, "count": self.count}
        allowed = paper.allowed(self.row, self.metric)
        about = {"settings": self.settings, "tolerance": allowed, "within": self.agrees}
        return {**known, **numbers, **about, "source": paper.source, "protocol": paper.protocol}


def beside(results: Results) -> Iterator[Beside]:
    """Every published number that the sweep repeats, in the order of the file."""
    paper = results.plan.sweep.paper
    for row in paper.rows if paper else ():
        ours = [group for group in groups(results, row.arm) if row.is_of(row.arm, group.params)]
        if not ours:  # left out, as under --smoke
            continue
        for metric, published in row.values.items():
            yield _beside(results, row, metric, published, ours)


def _beside(results: Results, row: PaperRow, metric: str, published: float, ours: list[Group]) -> Beside:
    paper = results.plan.sweep.paper
    assert paper is not None
    group = best(results, ours, metric) if metric in results.metrics else None
    known = estimate(group, metric) if group else None
    if group is None or known is None:
        return Beside(row, metric, published, None, None, len(ours), None)
    count, allowed = stamp_of(group, metric).get("count"), paper.allowed(row, metric)
    alike = count == paper.count
    agrees = abs(known.mean - published) <= allowed if alike and allowed is not None else None
    return Beside(row, metric, published, known.mean, count, len(rivals(ours, metric)), agrees)


def paper_table(results: Results) -> Table | None:
    """None where the sweep names no published numbers, or repeats none of them."""
    paper, found = results.plan.sweep.paper, list(beside(results))
    if paper is None or not found:
        return None
    rows: list[tuple[Item, ...]] = []
    for one in found:
        setting = ", ".join(f"{key} {short(value)}" for key, value in one.row.params.items()) or "–"
        name = metric_name(results, one.metric) if one.metric in results.metrics else one.metric
        published = Item(value_text(one.published), f"N = {paper.count:,}, protocol {_protocol(paper)}")
        rows.append((Item(one.row.arm), Item(setting), Item(name), _ours(one), published, Item(verdict(one, paper))))
    arms = [one.row.arm for one in found]
    for (arm, metric), several in _means(found).items():
        ours, published = (sum(values) / len(several) for values in zip(*several, strict=True))
        name = metric_name(results, metric)
        rows.append((Item(arm), Item(f"mean of {len(several)}"), Item(name), *map(_item, (ours, published)), Item("")))
        arms.append(arm)
    columns = ("arm", "setting", "metric", "ours", "published", "")
    notes = (
        f"Published: {paper.source}. How it was measured: {paper.protocol}.",
        "Not ranked with ours: evaluator, reference images, N and even the number of GPUs change such a number.",
    )
    return Table(columns, tuple(rows), tuple(arms), frozenset({3, 4}), notes)


def _means(found: list[Beside]) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """By arm and metric, ours and the published value on each of several data sets, where all of them are scored."""
    pairs: dict[tuple[str, str], list[tuple[float | None, float]]] = {}
    for one in (one for one in found if one.row.params.keys() == {"data"}):
        pairs.setdefault((one.row.arm, one.metric), []).append((one.ours, one.published))
    known = {key: [(a, b) for a, b in several if a is not None] for key, several in pairs.items()}
    return {key: several for key, several in known.items() if 1 < len(several) == len(pairs[key])}


def _item(value: float) -> Item:
    return Item(value_text(value))


def _protocol(paper: Paper) -> str:
    """`unknown`, or as it is told below the table."""
    return "unknown" if paper.protocol.startswith("unknown") else "below"


def _ours(one: Beside) -> Item:
    if one.ours is None:
        return Item("–")
    detail = [f"N = {one.count or 0:,}", f"best of {one.settings} settings" if one.settings > 1 else ""]
    return Item(value_text(one.ours), ", ".join(filter(None, detail)))


def verdict(one: Beside, paper: Paper) -> str:
    """Whether ours confirms what was published, where that can be said."""
    allowed = paper.allowed(one.row, one.metric)
    if one.ours is None or allowed is None:
        return ""
    if one.agrees is None:
        return "another N, so neither confirmed nor not"
    return f"confirmed within {allowed:g}" if one.agrees else f"not confirmed: off by more than {allowed:g}"


def sentences(results: Results) -> list[str]:
    """The same in lines for a terminal."""
    paper, lines = results.plan.sweep.paper, []
    for one in beside(results) if paper else ():
        assert paper is not None
        setting = " ".join(short(value) for value in one.row.params.values())
        what = " ".join(filter(None, (one.row.arm, setting)))
        ours = "not scored yet" if one.ours is None else f"{value_text(one.ours)} at N = {one.count or 0:,}"
        said = verdict(one, paper)
        told = f"{what}: {one.metric} {ours}; published {value_text(one.published)}"
        lines.append(f"{told}; {said}" if said else f"{told}.")
    if lines and paper:
        source = f"Published at N = {paper.count:,} by {paper.source}"
        lines.append(f"{source}; protocol: {paper.protocol}. Not ranked with ours.")
    return lines
