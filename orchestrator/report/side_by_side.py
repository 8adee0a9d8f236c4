"""Several sweeps, or one of several stores, side by side: one table for each metric and each way of measuring it.

A row is an arm with its parameters without seeds; sweeps that have it share the row. Values with different stamps (N,
extractor, weights, reference) stand in different tables and are never compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.identity import canonical
from orchestrator.report.comparisons import Group, groups
from orchestrator.report.devices import named
from orchestrator.report.estimates import Estimate, estimate, stamp_of
from orchestrator.report.formatting import count_text, listed, short, signed, value_text
from orchestrator.report.results import Results
from orchestrator.report.table import Column, Row, Table, TableCell

Key = tuple[str, str]  # arm, and its parameters as canonical text


@dataclass(frozen=True)
class Side:
    """A sweep as one column. name: of the sweep, with its store if several have that name."""

    name: str
    store: str
    results: Results

    @property
    def devices(self) -> tuple[str, ...]:
        """The kinds of device that sampled it, with torch's version."""
        return tuple(sorted({kind for cell in self.results.cells for kind in named(cell.kinds_of_device)}))


@dataclass(frozen=True)
class Setting:
    """A row: what each side measured, None where it has no such setting or it is not scored."""

    arm: str
    params: Mapping[str, Any]
    values: tuple[Estimate | None, ...]
    same: bool  # whether all sides that have it sampled it with the same digests


@dataclass(frozen=True)
class Measured:
    """A metric, measured in one way."""

    words: str
    name: str
    stamp: Mapping[str, Any]
    lower_is_better: bool | None
    rows: tuple[Setting, ...]


@dataclass
class _Rows:
    words: str
    name: str
    stamp: Mapping[str, Any]
    lower_is_better: bool | None
    cells: dict[Key, dict[int, tuple[Group, Estimate]]] = field(default_factory=dict)


def side_by_side(sides: Sequence[Side]) -> list[Measured]:
    """Every metric of the sides, in their order; those that several sides share come first."""
    found: dict[str, _Rows] = {}
    for place, side in enumerate(sides):
        results = side.results
        every = [group for arm in results.plan.sweep.arms for group in groups(results, arm.name)]
        for metric in results.metrics:
            for group in every:
                known = estimate(group, metric)
                if known is None:
                    continue
                entry = next(cell.scores[metric] for cell in group.cells if metric in cell.scores)
                stamp = stamp_of(group, metric)
                rows = found.setdefault(
                    canonical([entry["name"], stamp]),
                    _Rows(results.words(metric), entry["name"], stamp, results.lower_is_better(metric)),
                )
                key = group.arm, canonical(dict(group.params))
                rows.cells.setdefault(key, {})[place] = group, known
    tables = [_measured(rows, len(sides)) for rows in found.values()]
    return sorted(tables, key=lambda one: -_shared(one))


def _measured(rows: _Rows, sides: int) -> Measured:
    settings = []
    for (arm, _), by_side in rows.cells.items():
        first = next(iter(by_side.values()))[0]
        digests = {tuple(sorted(cell.digest for cell in group.cells)) for group, _ in by_side.values()}
        values = tuple(by_side[place][1] if place in by_side else None for place in range(sides))
        settings.append(Setting(arm, first.params, values, len(by_side) > 1 and len(digests) == 1))
    return Measured(rows.words, rows.name, rows.stamp, rows.lower_is_better, tuple(settings))


def _shared(one: Measured) -> int:
    """How many sides have a value."""
    return sum(any(row.values[place] is not None for row in one.rows) for place in range(len(one.rows[0].values)))


def tables(sides: Sequence[Side], measured: Sequence[Measured]) -> list[Table]:
    """The tables; of two sides also the difference of the second from the first."""
    return [_table(sides, measured, one) for one in measured]


def _table(sides: Sequence[Side], every: Sequence[Measured], one: Measured) -> Table:
    here = [p for p in range(len(sides)) if any(row.values[p] is not None for row in one.rows)]
    pair = here if len(here) == 2 else []
    columns = [Column("setting"), *(Column(sides[place].name, numeric=True) for place in here)]
    columns += [Column("difference", numeric=True)] if pair else []
    keys = _varying(one)
    rows = []
    for row in one.rows:
        cells = [TableCell(_label(row, keys)), *(_cell(row.values[place]) for place in here)]
        if pair:
            first, second = (row.values[place] for place in pair)
            cells.append(TableCell(signed(second.mean - first.mean) if first and second else "–"))
        rows.append(Row(tuple(cells), row.arm))
    return Table(tuple(columns), tuple(rows), _title(every, one), notes=_notes(one, bool(pair)))


def _cell(known: Estimate | None) -> TableCell:
    if known is None:
        return TableCell("–")
    over = f"{len(known.seeds)} training seed{'' if len(known.seeds) == 1 else 's'}"
    if known.low is None or known.high is None:
        return TableCell(value_text(known.mean), over)
    half = value_text((known.high - known.low) / 2, known.mean)
    return TableCell(f"{value_text(known.mean)} ± {half}", over)


def _varying(one: Measured) -> list[str]:
    """The parameters in which the rows differ, guidance and sampler as they come."""
    keys = dict.fromkeys(key for row in one.rows for key in row.params)
    return [key for key in keys if len({canonical(row.params.get(key)) for row in one.rows}) > 1]


def _label(row: Setting, keys: Sequence[str]) -> str:
    words = [f"{key.removesuffix('.scale')} {short(row.params[key])}" for key in keys if key in row.params]
    return f"{row.arm}: {', '.join(words)}" if words else row.arm


def _title(every: Sequence[Measured], one: Measured) -> str:
    """`FID, N = 1,000`, with whatever else tells it from other tables of the metric."""
    alike = [other for other in every if other.words == one.words]
    parts = [one.words]
    if "count" in one.stamp:
        parts.append(f"N = {count_text([one.stamp['count']])}")
    extractors = {canonical(other.stamp.get("extractor")) for other in alike}
    if len(extractors) > 1 and isinstance(one.stamp.get("extractor"), dict):
        parts.append(str(one.stamp["extractor"]["name"]))
    for key in ("weights", "reference_content", "estimator"):
        if len({canonical(other.stamp.get(key)) for other in alike}) > 1:
            parts.append(f"{key.partition('_')[0]} {str(one.stamp.get(key))[:12]}")
    return ", ".join(parts)


def _notes(one: Measured, pair: bool) -> tuple[str, ...]:
    notes = ["± is half a 95 % interval of one value: over training seeds, or of one training's sampling noise."]
    if pair:
        notes.append("A difference between sweeps is not paired by seed and has no interval.")
    if any(row.same for row in one.rows):
        same = [row.arm for row in one.rows if row.same]
        notes.append(f"The same cells on all sides: {listed(list(dict.fromkeys(same)))}.")
    return tuple(notes)


def remarks(sides: Sequence[Side], measured: Sequence[Measured]) -> list[str]:
    """What a reader must know: kinds of device or versions that differ, ways of measuring that are kept apart."""
    found = []
    if len({side.devices for side in sides if side.devices}) > 1 or any(len(side.devices) > 1 for side in sides):
        each = "; ".join(f"{side.name}: {' and '.join(side.devices) or 'nothing sampled'}" for side in sides)
        found.append(
            f"Sampled on different devices or library versions ({each}). Across them, samples of equal seeds agree up "
            "to rounding only, and so do their scores."
        )
    for words in dict.fromkeys(one.words for one in measured):
        ways = [one for one in measured if one.words == words]
        if len(ways) > 1:
            keys = [key for key in ways[0].stamp if len({canonical(way.stamp.get(key)) for way in ways}) > 1]
            differ = listed([{"count": "N"}.get(key, key.replace("_", " ")) for key in keys])
            found.append(f"{words} is measured in {len(ways)} ways, which differ in {differ} and are not compared.")
    missing = [side.name for side in sides if not side.results.complete]
    if missing:
        found.append(f"Not complete yet: {listed(missing)}.")
    return found


def as_json(sides: Sequence[Side], measured: Sequence[Measured]) -> dict[str, Any]:
    return {
        "sides": [
            {"name": side.name, "sweep": side.results.plan.sweep.name, "store": side.store, "devices": [*side.devices]}
            for side in sides
        ],
        "tables": [
            {
                "metric": one.name,
                "words": one.words,
                "stamp": dict(one.stamp),
                "lower_is_better": one.lower_is_better,
                "rows": [
                    {
                        "arm": row.arm,
                        "params": dict(row.params),
                        "same_cells": row.same,
                        "values": [known and _value(known) for known in row.values],
                    }
                    for row in one.rows
                ],
            }
            for one in measured
        ],
        "remarks": remarks(sides, measured),
    }


def _value(known: Estimate) -> dict[str, Any]:
    return {
        "value": known.mean,
        "low": known.low,
        "high": known.high,
        "interval": known.interval,
        "per_seed": [*known.seeds],
    }
