"""The tables of a report: the best setting of each arm, and every setting. Cells are text; pages only lay them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.report.comparisons import Comparison, Group, groups
from orchestrator.report.estimates import beside, distances, estimate, headline_metric, lowest, price, rivals
from orchestrator.report.formatting import (
    against,
    calls_text,
    difference_text,
    interval_text,
    metric_name,
    row_of,
    seconds_text,
    short,
    signed,
    value_text,
    verdict,
)
from orchestrator.report.results import Results
from orchestrator.spec.parameters import is_seed


@dataclass(frozen=True)
class Item:
    """One cell of a table. detail: smaller, below; verdict: better | worse | undecided | lower | higher."""

    text: str
    detail: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Table:
    columns: tuple[str, ...]
    rows: tuple[tuple[Item, ...], ...]
    arms: tuple[str | None, ...] = ()  # of each row, for its colour
    numeric: frozenset[int] = frozenset()  # columns set to the right
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
        return cls(tuple(columns), tuple(tuple(map(Item, row)) for row in rows))


@dataclass(frozen=True)
class Shown:
    """A row to be: a group, and of how many settings of its arm it is the best."""

    group: Group
    best_of: int = 1


def arms_tables(results: Results, comparisons: Sequence[Comparison], chosen: Mapping[str, Group]) -> tuple[Table, ...]:
    """The best setting of each arm, marked as selected where it was one of several: distances, then the rest."""
    shown = _best(results, chosen)
    first, *others = _tables(results, comparisons, shown)
    notes = ["Values: mean over training seeds [95 % interval of the arm by itself]."]
    if distances(results):
        notes[0] = f"{notes[0][:-2]}, for the distance's expectation at this N]."
        notes[0] += " Differences: from the baseline, paired and corrected for the bias in N [95 % interval]."
    if any(one.best_of > 1 for one in shown):
        notes.append("selected: the best of its arm's settings on the very samples that score it.")
    if any(row.selected for row in comparisons):
        notes.append("*: the baseline is itself the best of several.")
    return replace(first, notes=tuple(notes)), *others


def settings_tables(results: Results, comparisons: Sequence[Comparison]) -> tuple[Table, ...]:
    """Every setting of every arm."""
    every = [Shown(group) for arm in results.plan.sweep.arms for group in groups(results, arm.name)]
    return _tables(results, comparisons, every)


def shift_table(results: Results, comparisons: Sequence[Comparison], chosen: Mapping[str, Group]) -> Table | None:
    """The noise shift of the best settings, late in sampling and over all levels. None where the sweep does not
    measure it, without rows where it is not measured yet.
    """
    measured = [metric for metric in results.metrics if results.is_measured(metric)]
    done = any(cell.shift for cell in results.cells)
    if not measured:
        return None
    table = _compared(results, comparisons, _best(results, chosen) if done else [], measured)
    note = "Late is t < 0.3. A shift is best at zero; the settings are those chosen above, not by their shift."
    return replace(table, notes=(note,))


def _best(results: Results, chosen: Mapping[str, Group]) -> list[Shown]:
    metric = headline_metric(results) or ""
    return [Shown(group, len(rivals(groups(results, arm), metric))) for arm, group in chosen.items()]


def _tables(results: Results, comparisons: Sequence[Comparison], shown: Sequence[Shown]) -> tuple[Table, ...]:
    """Distances with their differences, then the same ones otherwise, then what is shown without."""
    measured, other_ways = distances(results), beside(results)
    others = [m for m in results.metrics if m not in (*measured, *other_ways) and not results.is_measured(m)]
    varying = _varying(results)
    columns = ("arm", "setting", *(metric_name(results, metric) for metric in others), "calls", "worker time a cell")
    rows = tuple(
        (
            Item(one.group.arm),
            _setting(results, one, varying),
            *(_value(one.group, metric) for metric in others),
            _calls(one.group),
            _seconds(one.group),
        )
        for one in shown
    )
    plain = Table(columns, rows, tuple(one.group.arm for one in shown), frozenset(range(2, len(columns))))
    if not measured:
        return (plain,)
    compared = _compared(results, comparisons, shown, measured)
    floor = _floor(results, measured)
    compared = replace(compared, rows=(*compared.rows, *floor), arms=(*compared.arms, *[None] * len(floor)))
    return compared, *_beside(results, shown, measured, other_ways), plain


def _beside(
    results: Results, shown: Sequence[Shown], measured: Sequence[str], other_ways: Sequence[str]
) -> tuple[Table, ...]:
    """Distances to the held-out images, copies, and the lowest run; nothing where there is none of them."""
    runs = [metric for metric in measured if any(lowest(one.group, metric) for one in shown)]
    if not runs and not other_ways:
        return ()
    varying = _varying(results)
    columns = ["arm", "setting", *(metric_name(results, metric) for metric in other_ways)]
    columns += [f"{metric_name(results, metric)}, lowest run" for metric in runs]
    rows = [
        (
            Item(one.group.arm),
            _setting(results, one, varying),
            *(_value(one.group, metric) for metric in other_ways),
            *(_lowest(one.group, metric) for metric in runs),
        )
        for one in shown
    ]
    others = sorted(other_ways, key=lambda metric: not results.extrapolates(metric))  # distances first
    notes = [*dict.fromkeys(note for metric in others if (note := results.shown(metric).note))]
    if runs:
        notes.append(
            "Lowest run: the convention of some published tables. It flatters, and nothing here is ranked by it."
        )
    arms = tuple(one.group.arm for one in shown)
    return (Table(tuple(columns), tuple(rows), arms, frozenset(range(2, len(columns))), tuple(notes)),)


def _lowest(group: Group, metric: str) -> Item:
    found = lowest(group, metric)
    return Item(value_text(found[0]), f"of {found[1]} runs") if found else Item("–")


def _compared(
    results: Results, comparisons: Sequence[Comparison], shown: Sequence[Shown], metrics: Sequence[str]
) -> Table:
    """Each metric beside its difference from the baseline."""
    indexed: dict[tuple[str, str], list[Comparison]] = {}
    for row in comparisons:
        indexed.setdefault((row.arm, row.metric), []).append(row)
    varying = _varying(results)
    rows = []
    for one in shown:
        items = [Item(one.group.arm), _setting(results, one, varying)]
        for metric in metrics:
            found = row_of(indexed.get((one.group.arm, metric), []), one.group, metric)
            items += [_value(one.group, metric), _difference(results, found)]
        rows.append(tuple(items))
    columns = ["arm", "setting"]
    for metric in metrics:
        columns += [metric_name(results, metric), "difference"]
    arms = tuple(one.group.arm for one in shown)
    return Table(tuple(columns), tuple(rows), arms, frozenset(range(2, len(columns))))


def _varying(results: Results) -> set[str]:
    """The parameters that differ between the cells of some arm, seeds apart."""
    values: dict[tuple[str, str], set[str]] = {}
    for cell in results.cells:
        for key, value in cell.params.items():
            values.setdefault((cell.arm, key), set()).add(str(value))
    return {key for (_, key), found in values.items() if len(found) > 1 and not is_seed(key)}


def _setting(results: Results, one: Shown, varying: set[str]) -> Item:
    """What is particular to a group: its guidance, and what varies within its arm."""
    words = []
    for key, value in sorted(one.group.params.items(), key=lambda item: not results.plan.sweep.is_guidance(item[0])):
        family, _, field = key.rpartition(".")
        if field == "scale":
            words.append(f"{family} {short(value)}")
        elif key in varying:
            words.append(f"{short(value)} steps" if field == "steps" else short(value))
    return Item(", ".join(words) or "–", f"selected, best of {one.best_of}" if one.best_of > 1 else "")


def _value(group: Group, metric: str) -> Item:
    known = estimate(group, metric)
    if known is None:
        return Item("–")
    missing = "" if known.complete else f"{len(known.seeds)} of {known.planned} seeds"
    detail = ", ".join(filter(None, (interval_text(known.low, known.high, known.mean), missing)))
    return Item(value_text(known.mean), detail)


def _difference(results: Results, row: Comparison | None) -> Item:
    if row is None:
        return Item("")
    if row.difference is None:
        at_n = "" if row.difference_at_n is None else f"{signed(row.difference_at_n)} at N"
        return Item(at_n or "–", row.reason or "")
    found = verdict(row, results.lower_is_better(row.metric)) or "no interval"
    partner = against(results, row) + ("*" if row.selected else "")
    link = "than" if found in ("better", "worse", "lower", "higher") else "against"
    seeds = f"{len(row.per_seed)} seeds" if row.interval == "t" else "one training" if row.interval else ""
    detail = ", ".join(filter(None, (f"{found} {link} {partner}", seeds)))
    return Item(difference_text(row.difference, row.low, row.high), detail, found)


def _calls(group: Group) -> Item:
    calls = price(group)
    return Item(calls_text(calls) if calls else "–")


def _seconds(group: Group) -> Item:
    seconds = [cell.seconds for cell in group.cells if cell.seconds is not None]
    return Item(seconds_text(sum(seconds) / len(seconds)) if seconds else "–")


def _floor(results: Results, metrics: Sequence[str]) -> list[tuple[Item, ...]]:
    """The held-out images, scored like a cell."""
    known = [results.floor_of(metric) for metric in metrics]
    if not any(known):
        return []
    items = [Item("held-out images"), Item("")]
    for one in known:
        items += [Item(value_text(one.value), one.words) if one else Item("–"), Item("")]
    return [tuple(items)]
