"""Axes (`{grid: [...]}`) and overrides of arms, on the tree of nodes, before anything is built from it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from orchestrator.spec.yaml_nodes import Node, show

GRID = "grid"
METHOD_KEYS = {"name", "use"}  # the key that names a method: one of the registry, or the user's own
MAX_CELLS = 100_000  # of a sweep; also the limit for the grid points of any part of it


@dataclass(frozen=True)
class Axis:
    path: tuple[str, ...]  # keys from the expanded node to the grid
    grid: Node

    @property
    def values(self) -> list[Node]:
        return self.grid.value[GRID].value


@dataclass(frozen=True)
class GridPoint:
    """One combination of the axes below a node: the node with a value in place of each grid, without nulls."""

    node: Node
    picks: tuple[int, ...]  # position on each axis


def is_grid(node: Node) -> bool:
    return isinstance(node.value, dict) and GRID in node.value


def check_grids(node: Node, inside: str = "") -> None:
    """Raise for the first grid that is malformed, or inside another grid or a list."""
    if is_grid(node):
        if inside:
            fix = "write each combination as a mapping" if inside == "an axis" else "make each value a whole list"
            raise node.error(f"an axis cannot stand inside {inside}; {fix}: {{grid: [..., ...]}}.")
        for key, child in node.value.items():
            if key != GRID:
                raise child.error(f"an axis has no other key; remove {key!r}: {{grid: [1, 2]}}.")
        for item in node.value[GRID].entries("{grid: [1, 2]}"):
            if item.value is None:
                raise item.error("null cannot be a value of an axis; it only removes a key in an arm.")
            check_grids(item, "an axis")
    elif isinstance(node.value, dict):
        for child in node.value.values():
            check_grids(child, inside)
    elif isinstance(node.value, list):
        for item in node.value:
            check_grids(item, inside or "a list")


def as_mapping(node: Node) -> Node:
    """A method written as `euler` becomes `{name: euler}`."""
    return replace(node, value={"name": node}) if isinstance(node.value, str) else node


def uses(node: Node) -> bool:
    """Whether a node, or a value of its axis, is a user's own method (`use`)."""
    if is_grid(node):
        return any(uses(item) for item in node.value[GRID].value)
    return isinstance(node.value, dict) and "use" in node.value


def merge(below: Node | None, above: Node | None) -> Node | None:
    """Override `below` with `above`: mappings merge, another method or a grid replaces all, null removes."""
    if above is None:
        return below
    if above.value is None:
        return None
    if below is None or not isinstance(above.value, dict) or not isinstance(below.value, dict) or is_grid(above):
        return above
    if is_grid(below) and not above.value.keys() & METHOD_KEYS:
        raise above.error(
            f"a field of the axis on line {below.line} cannot be set; write the whole value with its name, or an axis."
        )
    if is_grid(below) or _renamed(below, above):
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


def _axes(node: Node, path: tuple[str, ...]) -> Iterator[Axis]:
    if is_grid(node):
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
