"""`{match: ARM}`: plain CFG whose scale is the effective scale of another arm, so that it moves the samples as far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from orchestrator.errors import unknown
from orchestrator.spec.grid import first_match
from orchestrator.spec.model import Cell
from orchestrator.spec.yaml_nodes import Node

STAND_IN = 2.0  # for the scale until it is measured: CFG is on, and costs two evaluations


def take_match(key: str, node: Node) -> tuple[Node, Node | None]:
    """A guidance of an arm with a number in place of `{match: ARM}`; and the node that names the arm, if any does."""
    match = first_match(node)
    if match is None:
        return node, None
    for other, child in match.value.items():
        if other != "match":
            raise child.error(f"match has no other key; remove {other!r}: {{match: nag}}.")
    if key != "cfg" or node.value.get("scale") is not match:
        raise match.error("only the scale of cfg can match another arm: {cfg: {scale: {match: nag}}}.")
    value = {**node.value, "scale": replace(match, value=STAND_IN)}
    return replace(node, value=value), match.value["match"]


def check_matches(matches: Mapping[str, Node], arms: Sequence[str], cells: Iterable[Cell]) -> None:
    """Raise for an arm that cannot be matched. matches: by arm, the node that names the arm to match."""
    by_arm: dict[str, list[Cell]] = {}
    for cell in cells:
        by_arm.setdefault(cell.arm, []).append(cell)
    for arm, node in matches.items():
        if node.text() not in arms:
            raise node.error(unknown("arm", node.value, [name for name in arms if name != arm]))
        through = [arm]
        while (target := matches[through[-1]].value if through[-1] in matches else None) is not None:
            if target in through:
                raise node.error(f"{' -> '.join([*through, target])} is a circle; an arm must match another one.")
            through.append(target)
        if node.value in matches:
            raise node.error(f"{node.value!r} matches an arm itself; match {through[-1]!r}.")
        theirs, own = by_arm[node.value], by_arm[arm]
        if not any(cell.guidance for cell in theirs):
            raise node.error(f"{node.value!r} has no guidance, so there is nothing to match.")
        if {cell.network.name for cell in theirs} != {cell.network.name for cell in own}:
            raise node.error(f"{node.value!r} samples another network; only arms of one network can be matched.")
        if (several := len({tuple(cell.tuned.values()) for cell in own})) > 1:
            raise node.error(f"this arm is tuned too ({several} candidates); only its scale may be left open.")
