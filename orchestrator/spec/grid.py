"""Axes (`{grid: [...]}`), tuned values (`{tune: ...}`) and overrides of arms, on the tree of nodes, before anything is
built from it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from orchestrator.errors import SpecError
from orchestrator.spec.yaml_nodes import Node, show

GRID, TUNE = "grid", "tune"
AXES = (GRID, TUNE)
EXAMPLES = {GRID: "{grid: [1, 2]}", TUNE: "{tune: [1, 2]}"}
METHOD_KEYS = {"name", "use"}  # the key that names a method: one of the registry, or the user's own
POINTS, POINTS_AT_MOST = 9, 65  # values of a tuned range: by default, and at most
RANGE = "A range is {tune: {low: 1.1, high: 4}}, perhaps with points and log: true"
MAX_CELLS = 100_000  # of a sweep; also the limit for the grid points of any part of it
T = TypeVar("T")


class Range(list[Node]):
    """The evenly spaced values of a tuned range of numbers, in order."""

    def words(self, value: Node) -> str:
        """What a message about one of the values adds, since it is not in the file."""
        low, high = self[0].value, self[-1].value
        text = f"It is one of {len(self)} points from {show(self[0])} to {show(self[-1])}"
        if isinstance(value.value, int) or not (isinstance(low, int) and isinstance(high, int)):
            return f"{text}."
        whole = [number for number in range(3, POINTS_AT_MOST + 1) if (high - low) % (number - 1) == 0]
        fix = f"points: {max(whole)} gives whole numbers" if whole else "write a list of whole numbers"
        return f"{text}; {fix}."


@dataclass(frozen=True)
class Axis:
    path: tuple[str, ...]  # keys from the expanded node to the axis
    node: Node

    @property
    def values(self) -> list[Node]:
        return values_of(self.node)

    @property
    def tuned(self) -> bool:
        return TUNE in self.node.value


class Pick(NamedTuple):
    """A value of a tuned axis: its place, how many there are, and whether they are a range of numbers."""

    place: int
    size: int
    ordered: bool


@dataclass(frozen=True)
class GridPoint:
    """One combination of the axes below a node: the node with a value in place of each axis, without nulls."""

    node: Node
    picks: tuple[int, ...]  # position on each axis


def is_axis(node: Node) -> bool:
    return isinstance(node.value, dict) and any(key in node.value for key in AXES)


def values_of(node: Node) -> list[Node]:
    """The values of an axis."""
    return node.value[_key(node)].value


def _key(node: Node) -> str:
    return next(key for key in AXES if key in node.value)


def check_axes(node: Node, inside: str = "") -> None:
    """Raise for the first axis that is malformed, or inside another axis or a list."""
    if is_axis(node):
        key = _key(node)
        if inside:
            fix = "write each combination as a mapping" if inside == "an axis" else "make each value a whole list"
            raise node.error(f"an axis cannot stand inside {inside}; {fix}: {{{key}: [..., ...]}}.")
        for other, child in node.value.items():
            if other != key:
                raise child.error(f"an axis has no other key; remove {other!r}: {EXAMPLES[key]}.")
        if key == TUNE and isinstance(node.value[TUNE].value, dict):
            check_range(node.value[TUNE])
            return
        entries = node.value[key].entries(EXAMPLES[key])
        for item in entries:
            if item.value is None:
                raise item.error("null cannot be a value of an axis; it only removes a key in an arm.")
            check_axes(item, "an axis")
        if key == TUNE and len(entries) < 2:
            raise entries[0].error("one value leaves nothing to choose; write it without tune, or add others.")
    elif isinstance(node.value, dict):
        for child in node.value.values():
            check_axes(child, inside)
    elif isinstance(node.value, list):
        for item in node.value:
            check_axes(item, inside or "a list")


def tuned_below(node: Node) -> Iterator[Node]:
    """The tuned values at or below a node."""
    if is_axis(node):
        if TUNE in node.value:
            yield node
    elif isinstance(node.value, dict):
        for child in node.value.values():
            yield from tuned_below(child)


def first_match(node: Node) -> Node | None:
    """The first `{match: ARM}` at or below a node; a user's own method may have a field of that name."""
    if isinstance(node.value, dict) and "match" in node.value and "use" not in node.value:
        return node
    below = node.value.values() if isinstance(node.value, dict) else node.value if isinstance(node.value, list) else ()
    return next((match for child in below if (match := first_match(child))), None)


def check_range(node: Node) -> None:
    """Raise for a range of a tuned value that is malformed."""
    node.only(("low", "high", "points", "log"))
    for key in ("low", "high"):
        if node.get(key) is None:
            raise node.error(f"{key!r} is missing. {RANGE}.")
        if not _is_number(node.value[key]):
            raise node.value[key].error(f"expected a number, got {show(node.value[key])}. {RANGE}.")
    low, high = node.value["low"].value, node.value["high"].value
    if low >= high:
        raise node.value["low"].error(f"low {low:g} is not below high {high:g}.")
    points = node.value.get("points")
    if points is not None and not (_is_number(points) and points.value in range(3, POINTS_AT_MOST + 1)):
        raise points.error(f"expected a whole number from 3 to {POINTS_AT_MOST}, got {show(points)}.")
    log = node.value.get("log")
    if log is not None and not isinstance(log.value, bool):
        raise log.error(f"expected true or false, got {show(log)}.")
    if log is not None and log.value and low <= 0:
        raise node.value["low"].error(f"with log: true the range must be above 0, got {low:g}.")


def _is_number(node: Node) -> bool:
    return isinstance(node.value, int | float) and not isinstance(node.value, bool)


def written_out(node: Node, ends: bool = False) -> Node:
    """The node with the values of each tuned range written out; ends: only the first and last of each tuned value."""
    if is_axis(node) and TUNE in node.value:
        tuned = node.value[TUNE]
        values = _lattice(tuned) if isinstance(tuned.value, dict) else [written_out(item, ends) for item in tuned.value]
        kept = [values[0], values[-1]] if ends else values
        return replace(node, value={TUNE: replace(tuned, value=Range(kept) if isinstance(values, Range) else kept)})
    if isinstance(node.value, dict):
        return replace(node, value={key: written_out(child, ends) for key, child in node.value.items()})
    return node


def _lattice(node: Node) -> Range:
    """`points` values from low to high, with four significant digits; equally spaced, or by a factor if `log`."""
    low, high = node.value["low"].value, node.value["high"].value
    points = node.value["points"].value if "points" in node.value else POINTS
    values = []
    for i in range(int(points)):
        share = i / (points - 1)
        if "log" in node.value and node.value["log"].value:
            value = low ** (1 - share) * high**share
        else:
            value = low + (high - low) * share
        short = value if i in (0, points - 1) else float(f"{value:.4g}")
        values.append(replace(node, value=int(short) if float(short).is_integer() else short))
    if len({each.value for each in values}) < len(values):
        raise node.error(f"its {len(values)} points, to four digits, are not distinct; give fewer, or a wider range.")
    return Range(values)


def as_mapping(node: Node) -> Node:
    """A method written as `euler` becomes `{name: euler}`."""
    return replace(node, value={"name": node}) if isinstance(node.value, str) else node


def uses(node: Node) -> bool:
    """Whether a node, or a value of its axis, is a user's own method (`use`)."""
    if is_axis(node):
        return any(uses(item) for item in values_of(node))
    return isinstance(node.value, dict) and "use" in node.value


def merge(below: Node | None, above: Node | None) -> Node | None:
    """Override `below` with `above`: mappings merge, another method or a grid replaces all, null removes."""
    if above is None:
        return below
    if above.value is None:
        return None
    if below is None or not isinstance(above.value, dict) or not isinstance(below.value, dict) or is_axis(above):
        return above
    if is_axis(below) and not above.value.keys() & METHOD_KEYS:
        raise above.error(
            f"a field of the axis on line {below.line} cannot be set; write the whole value with its name, or an axis."
        )
    if is_axis(below) or _renamed(below, above):
        return above
    merged = dict(below.value)
    for key, child in above.value.items():
        value = merge(merged.get(key), child)
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    return replace(above, value=merged)


def _renamed(below: Node, above: Node) -> bool:
    names = [(key, node.value[key].value) for node in (below, above) for key in METHOD_KEYS & node.value.keys()]
    return len(names) == 2 and names[0] != names[1]


def expand(node: Node) -> tuple[list[Axis], list[GridPoint]]:
    """The axes below `node` and every combination of their values, the last axis fastest."""
    axes = list(_axes(node, ()))
    total = math.prod(len(axis.values) for axis in axes)
    if total > MAX_CELLS:
        raise node.error(f"its axes have {total:,} combinations; at most {MAX_CELLS:,} are allowed.")
    points = []
    for picks in itertools.product(*(range(len(axis.values)) for axis in axes)):
        chosen = {axis.path: axis.values[pick] for axis, pick in zip(axes, picks, strict=True)}
        points.append(GridPoint(_settle(node, (), chosen), picks))
    return axes, points


def built_at(axes: list[Axis], points: list[GridPoint], build: Callable[[Node], T]) -> list[T]:
    """What `build` makes of each point. Its SpecError for a value of a range tells which range."""
    values = []
    for point in points:
        try:
            values.append(build(point.node))
        except SpecError as error:
            for axis, pick in zip(axes, point.picks, strict=True):
                if isinstance(axis.values, Range) and axis.values[pick].path == error.key:
                    raise error.adding(axis.values.words(axis.values[pick])) from None
            raise
    return values


def _axes(node: Node, path: tuple[str, ...]) -> Iterator[Axis]:
    if is_axis(node):
        yield Axis(path, node)
    elif isinstance(node.value, dict):
        for key, child in node.value.items():
            yield from _axes(child, (*path, key))


def _settle(node: Node, path: tuple[str, ...], chosen: dict[tuple[str, ...], Node]) -> Node:
    node = chosen.get(path, node)
    if not isinstance(node.value, dict):
        return node
    children = {key: _settle(child, (*path, key), chosen) for key, child in node.value.items()}
    return replace(node, value={key: child for key, child in children.items() if child.value is not None})


def picks_of(axes: list[Axis], point: GridPoint) -> dict[tuple[str, ...], Pick]:
    """Where a point is on the tuned axes, by their paths."""
    return {
        axis.path: Pick(pick, len(axis.values), isinstance(axis.values, Range))
        for axis, pick in zip(axes, point.picks, strict=True)
        if axis.tuned
    }


def no_repeats(axes: list[Axis], points: list[GridPoint], built: list[object]) -> None:
    """Raise if two points were built to equal values: an axis has a value twice, perhaps spelt differently."""
    seen: dict[str, list[tuple[object, GridPoint]]] = {}
    for point, value in zip(points, built, strict=True):
        alike = seen.setdefault(repr(value), [])  # equal repr is not enough: two files may have classes of one name
        twin = next((other for kept, other in alike if kept == value), None)
        alike.append((value, point))
        if twin is not None:
            place = next(i for i, pick in enumerate(point.picks) if pick != twin.picks[i])
            item = axes[place].values[point.picks[place]]
            raise item.error(f"{show(item)} is on this axis already; remove one of them.")


def at_ends(axes: list[Axis], point: GridPoint) -> bool:
    """Whether each value of a point is the first or last of its axis."""
    return all(pick in (0, len(axis.values) - 1) for axis, pick in zip(axes, point.picks, strict=True))
