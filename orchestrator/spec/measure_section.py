"""The `measure` section of a sweep: one measure, or a list of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from nag.noise_shift import NoiseShift
from nag.registry import name_of
from orchestrator.errors import SpecError, unknown
from orchestrator.spec.construct import MethodBuilder
from orchestrator.spec.foreign_network import DROPOUT, unteachable
from orchestrator.spec.model import Cell, Measure, Network
from orchestrator.spec.yaml_nodes import Node

EXAMPLE = "[{name: noise_shift, estimator: meter}, effective_scale]"


def read_measures(
    node: Node, builder: MethodBuilder, networks: Mapping[str, list[Network]], smoke: bool
) -> tuple[tuple[Measure, ...], Network | None]:
    """The measures, and the network that the noise shift is measured with. networks: the sweep's, by name."""
    measures: list[Measure] = []
    estimator = None
    for item in node.entries(EXAMPLE) if isinstance(node.value, list) else [node]:
        method: Measure = builder.method("measures", item)
        if name_of(method) in map(name_of, measures):
            raise item.error(f"{name_of(method)!r} is in the list already; remove one of the two.")
        if isinstance(method, NoiseShift):
            estimator = _estimator(item, method.estimator, networks)
        measures.append(method.smoke() if smoke else method)
    return tuple(measures), estimator


def _estimator(node: Node, name: str, networks: Mapping[str, list[Network]]) -> Network:
    place = node.value["estimator"]
    able = [known for known, instances in networks.items() if instances[0].role == "level"]
    if name not in able:
        if name in networks:
            model = name_of(networks[name][0].model or "official")
            known = ", ".join(able) or "none"
            raise place.error(f"{name!r} is a {model} network; an estimator needs model: noise_level. Known: {known}.")
        raise place.error(unknown("estimator", name, able))
    if len(networks[name]) > 1:
        raise place.error(f"{name!r} has axes, but one estimator measures all cells; remove them.")
    return networks[name][0]


def check_measured(measures: Iterable[Measure], cells: Iterable[Cell], node: Node) -> None:
    """Raise if a network of the cells cannot be measured. What only its weights tell is checked when it is loaded."""
    cells = list(cells)
    for measure in measures:
        if isinstance(measure, NoiseShift):
            for sampler in {id(cell.sampler): cell.sampler for cell in cells}.values():
                _check_finer(measure.finer, sampler, node)
        for network in {id(cell.network): cell.network for cell in cells}.values():
            if isinstance(measure, NoiseShift):
                if network.data is None:
                    raise node.error(f"network {network.name!r} has no data for true states; add data.")
            elif network.learned is not None and measure.condition not in network.learned:
                raise untaught(name_of(measure), network, measure.condition, node)


def _check_finer(finer: int, sampler: Any, node: Node) -> None:
    """Raise if a sampler cannot take `finer` times its steps."""
    if finer == 1 or sampler.steps is None:
        return
    steps = sampler.steps * finer
    try:
        dataclasses.replace(sampler, steps=steps)
    except (ValueError, TypeError):
        raise node.error(
            f"finer: {finer} is {steps:,} steps of {name_of(sampler)!r}, which cannot take so many."
        ) from None


def deciding_names(measures: Iterable[Measure]) -> list[str]:
    """The names of values that may choose and compare settings; the others only say what a setting costs or does."""
    return [name for measure in measures for name in measure.names if not measure.shown[name].cost]


def untaught(name: str, network: Network, condition: str, node: Node) -> SpecError:
    """The error for a method `name` that needs a null condition that a network was not trained with."""
    fix = f"set networks.{network.name}.train.{DROPOUT[condition]} above 0 (it is 0), such as 0.1"
    if network.checkpoint:
        example = f"{{init: {network.name}, data: ..., train: {{{DROPOUT[condition]}: 0.1, ...}}}}"
        fix = f"its checkpoint has not; fine-tune it first: {example}, as sweeps/nag_ready.yaml does"
    if reason := unteachable(network, condition):
        fix = reason
    words = condition.replace("_", " ")
    return node.error(f"{name!r} needs a network that has learned the {words} condition: {fix}.")
