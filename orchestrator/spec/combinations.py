"""The parts that an arm's cells are combined from: networks, samplers, guidance and sample settings."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from nag.registry import name_of
from orchestrator.spec.grid import Pick
from orchestrator.spec.model import Network
from orchestrator.spec.parameters import Scalar


class Choosable(NamedTuple):
    """A part of a cell: a method (a tuple of them for guidance), its parameters, and which of them are tuned."""

    method: Any
    params: dict[str, Scalar]
    tuned: dict[str, Pick]


def combined(sections: dict[str, list[Choosable]]) -> list[Choosable]:
    """Every combination of an arm's guidance: the methods that are on, sorted by name."""
    combined = []
    for combination in itertools.product(*(sections[name] for name in sorted(sections))):
        on = tuple(sorted((each.method for each in combination if not each.method.off), key=_by_name))
        params = {key: value for each in combination for key, value in each.params.items()}
        combined.append(Choosable(on, params, {key: pick for each in combination for key, pick in each.tuned.items()}))
    return combined


def parameters_of(references: dict[str, Network], network: Network) -> tuple[dict[str, Scalar], dict[str, Pick]]:
    """The parameters of a cell's references that are not those of its network too, and the tuned ones among them."""
    own = {f"{n.name}.{key}" for n in network.lineage for key in n.axes}
    lineages = [n for reference in references.values() for n in reference.lineage]
    params = {f"{n.name}.{k}": v for n in lineages for k, v in n.axes.items() if f"{n.name}.{k}" not in own}
    tuned = {f"{n.name}.{k}": v for n in lineages for k, v in n.picks.items() if f"{n.name}.{k}" not in own}
    return params, tuned


def _by_name(guidance: Any) -> tuple[str, str]:
    """Sort key of guidance in a cell, independent of the names that users give to theirs."""
    return name_of(guidance), repr(guidance)
