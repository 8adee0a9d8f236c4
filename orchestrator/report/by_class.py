"""What a report says of single classes: the worst and the best, and how labels are distributed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from orchestrator.report.comparisons import Group
from orchestrator.report.formatting import label, metric_name, plural, signed, value_text
from orchestrator.report.results import Results
from orchestrator.report.table import Column, Row, Table, TableCell
from orchestrator.tasks.class_pictures import extremes

TITLE = "By class"
SHARES = ("share_of_samples", "share_of_reference")


@dataclass(frozen=True)
class Side:
    """The classes of an arm's best setting. table: as in a record, values as means over the cells that have them."""

    group: Group
    name: str
    table: Mapping[str, Any]
    names: Sequence[str]  # of the classes

    @cached_property
    def places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}


def sides(results: Results, chosen: Mapping[str, Group]) -> dict[str, list[Side]]:
    """By the reported name of a metric's first value, each arm's best setting."""
    found: dict[str, list[Side]] = {}
    for group in chosen.values():
        for key in dict.fromkeys(key for cell in group.cells for key in cell.by_class):
            tables = [cell.by_class[key] for cell in group.cells if key in cell.by_class]
            table = _mean(tables)
            side = Side(group, label(results, group), table, class_names(results, table))
            found.setdefault(key, []).append(side)
    return found


def _mean(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of tables over cells: a class that one of them leaves out has no value."""
    at = [{name: place for place, name in enumerate(table["labels"])} for table in tables]
    labels = [name for name in tables[0]["labels"] if all(name in places for places in at)]

    def mean(column: str, name: int) -> float | None:
        each = [table["values"][column][places[name]] for table, places in zip(tables, at, strict=True)]
        return None if None in each else sum(each) / len(each)

    first = tables[0]
    values = {column: [mean(column, name) for name in labels] for column in first["values"]}
    ranks = {table["ranks"] for table in tables}
    return {
        **first,
        "labels": labels,
        "samples": [first["samples"][at[0][name]] for name in labels],
        "reference": [first["reference"][at[0][name]] for name in labels],
        "values": values,
        "ranks": ranks.pop() if len(ranks) == 1 else next(iter(values)),
    }


def class_names(results: Results, table: Mapping[str, Any]) -> list[str]:
    """The names of a table's classes, from the plan; their numbers if the reference's classes have none."""
    task = results.plan.tasks[results.plan.tasks[table["task"]].params["reference"]]
    fields = task.params.get("data", {}).get("fields", {}).values()
    known = next((results.plan.classes[each] for each in fields if each in _texts(results)), ())
    return [known[number] if 0 <= number < len(known) else str(number) for number in table["labels"]]


def _texts(results: Results) -> set[Any]:
    return {*results.plan.classes}


def tables(results: Results, by_metric: Mapping[str, Sequence[Side]]) -> list[Table]:
    """For each metric that ranks classes, the worst and the best of each arm; for labels, their distribution."""
    made = [_ranked(results, key, each) for key, each in by_metric.items() if any(side.table["ranks"] for side in each)]
    made += [_balance(results, key, each) for key, each in by_metric.items() if _has_shares(each)]
    return made


def every_class(results: Results, by_metric: Mapping[str, Sequence[Side]]) -> list[Table]:
    """Every class, in the order of the labels, with each column that ranks or would."""
    return [_every(results, key, each) for key, each in by_metric.items()]


def _has_shares(each: Sequence[Side]) -> bool:
    return all(name in each[0].table["values"] for name in SHARES)


def _ranked(results: Results, key: str, each: Sequence[Side]) -> Table:
    columns = [Column(""), *(Column(side.name) for side in each)]
    ends = [extremes(side.table) for side in each]
    rows = []
    for end, word in enumerate(("worst", "best")):
        for rank in range(max(len(places[end]) for places in ends)):
            cells = [
                _class_cell(side, places[end][rank]) if rank < len(places[end]) else TableCell("–")
                for side, places in zip(each, ends, strict=True)
            ]
            rows.append(Row((TableCell(f"{word} {rank + 1}"), *cells)))
    notes = ["Values are means over training seeds."]
    if any(side.table["ranks"] == "extrapolated" for side in each):
        notes.append("Ranked without the bias in N, in brackets: few samples alone make no class bad.")
    notes += [f"{side.name}: {words}." for side in each for words in (side.table["left_out"],) if words]
    words = metric_name(results, key)
    return Table(tuple(columns), tuple(rows), f"{words}: the worst and the best classes", tuple(notes))


def _class_cell(side: Side, place: int) -> TableCell:
    table = side.table
    value = value_text(table["values"][next(iter(table["values"]))][place])
    limit = table["values"].get("extrapolated", {place: None})[place] if table["ranks"] == "extrapolated" else None
    beside = f" ({value_text(limit)})" if limit is not None else ""
    return TableCell(side.names[place], f"{value}{beside}, {plural(table['samples'][place], 'sample')}")


def _every(results: Results, key: str, each: Sequence[Side]) -> Table:
    ends = "low", "high"  # of the intervals, which are in the JSON
    shown = [column for column in each[0].table["values"] if column not in ends]
    columns = [Column("class"), Column("reference images", numeric=True)]
    columns += [Column(f"{side.name}: {name.replace('_', ' ')}", numeric=True) for side in each for name in shown]
    columns += [Column(f"{side.name}: samples", numeric=True) for side in each]
    rows = []
    for place, name in enumerate(each[0].names):
        at = [side.places.get(name) for side in each]
        cells = [
            TableCell("–" if i is None else value_text(side.table["values"][column][i]))
            for side, i in zip(each, at, strict=True)
            for column in shown
        ]
        counts = [
            TableCell("–" if i is None else f"{side.table['samples'][i]:,}") for side, i in zip(each, at, strict=True)
        ]
        rows.append(Row((TableCell(name), TableCell(f"{each[0].table['reference'][place]:,}"), *cells, *counts)))
    return Table(tuple(columns), tuple(rows), "Labels" if _has_shares(each) else metric_name(results, key))


def _balance(results: Results, key: str, each: Sequence[Side]) -> Table:
    """How labels are distributed, and what of FID that makes: imbalance told apart from quality."""
    from nag.metrics.label_balance import expected_by_chance

    suffix = results.suffix(key)
    rows = []
    for side in each:
        fid, balanced = (side.group.mean(name + suffix) for name in ("fid", "fid_balanced"))
        price = None if fid is None or balanced is None else fid - balanced
        chance = expected_by_chance(side.table["samples"], side.table["reference"])
        rows.append(
            Row(
                (
                    TableCell(side.name),
                    TableCell(
                        value_text(side.group.mean(f"label_imbalance{suffix}")), f"{value_text(chance)} by chance"
                    ),
                    TableCell(value_text(fid)),
                    TableCell(value_text(balanced)),
                    TableCell("–" if price is None else signed(price)),
                    TableCell(_farthest(side, 1)),
                    TableCell(_farthest(side, -1)),
                ),
                side.group.arm,
            )
        )
    headings = ("label imbalance", "FID", "FID, balanced", "price of the imbalance")
    columns = (
        Column("arm"),
        *(Column(heading, numeric=True) for heading in headings),
        Column("most above its share"),
        Column("most below"),
    )
    notes = (
        "Imbalance: total variation between the classes of samples and reference images. Balanced: each class weighed "
        "as in the reference. What FID is above that comes from the labels, the rest from the samples.",
    )
    return Table(columns, tuple(rows), "Labels of the samples against the reference's", notes)


def _farthest(side: Side, sign: int) -> str:
    """The class with the most samples above (1) or below (-1) its share in the reference."""
    ours, theirs = (side.table["values"][name] for name in SHARES)
    gaps = [sign * (p - q) for p, q in zip(ours, theirs, strict=True)]
    place = max(range(len(gaps)), key=gaps.__getitem__)
    if gaps[place] <= 0:
        return "–"
    return f"{side.names[place]}: {100 * ours[place]:.3g} % for {100 * theirs[place]:.3g} %"


def as_json(results: Results, by_class: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A cell's values by class."""
    named = ("labels", "samples", "reference", "values", "ranks", "lower_is_better", "left_out")
    return {
        key: {"classes": class_names(results, table), **{name: table[name] for name in named}}
        for key, table in by_class.items()
    }
