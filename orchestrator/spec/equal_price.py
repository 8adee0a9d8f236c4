"""`nfe` in place of a sampler's `steps`: each arm takes as many steps as its network evaluations (NFE) allow.

Evaluations are counted as they are made: by the levels at which the sampler asks, and what guidance acts there. The
cell's identity is that of its steps, as if they were written out. torch is not imported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field, ValidationError

from nag.guidance.price import Price, price
from nag.models.dit import DiT
from nag.official_checkpoints import FAMILIES
from nag.registry import Int, method, name_of
from orchestrator.spec.construct import MethodBuilder
from orchestrator.spec.model import Cell, Network
from orchestrator.spec.networks import described
from orchestrator.spec.parameters import NFE, Scalar, params_of
from orchestrator.spec.user_code import StandIn
from orchestrator.spec.yaml_nodes import Node

MOST = 1_000_000  # network evaluations of a sample, and steps of a sampler that has no limit of its own
KEYS = ("nfe", "steps")  # each replaces the other


@method
class Budget:
    """In place of a sampler's steps. nfe: network evaluations (NFE) that a sample may take, those of guidance too."""

    nfe: Annotated[Int, Field(ge=1, le=MOST)]


@dataclass(frozen=True)
class Unsettled:
    """A sampler whose steps follow from `nfe`, once it is known what guides it.

    sampler: the one with the fewest steps. asked: the nfe of the file, where --smoke has another one.
    """

    sampler: Any
    nfe: int
    asked: int
    node: Node = field(compare=False, repr=False)


def read(builder: MethodBuilder, node: Node, partly: bool = False) -> Any:
    """The sampler at `node`; Unsettled if it has `nfe`. partly: None if required fields are missing."""
    if not isinstance(node.value, dict) or "nfe" not in node.value:
        return builder.method("samplers", node, partly)
    given = node.value["nfe"]
    if "steps" in node.value:
        raise given.error("the number of steps follows from nfe; remove one of the two, nfe or steps.")
    others = replace(node, value={key: child for key, child in node.value.items() if key != "nfe"})
    builder.method("samplers", others, partly=True)
    cls: Any = builder.class_of("samplers", others)
    if issubclass(cls, StandIn) or "nfe" in cls.__pydantic_fields__:  # a field of a user's own
        return builder.method("samplers", node, partly)
    if cls.adaptive is True or "steps" not in cls.__pydantic_fields__:
        name = (node.value.get("name") or node.value["use"]).value
        adaptive = "its steps depend on the states" if cls.adaptive is True else "it has no field steps"
        raise given.error(f"nfe is not possible with {name!r}: {adaptive}. Remove nfe, or take another sampler.")
    nfe = builder.fields(Budget, replace(node, value={"nfe": given})).nfe
    fewest = replace(node, value={**others.value, "steps": replace(given, value=_limits(cls)[0])})
    sampler = builder.method("samplers", fewest, partly)
    return None if sampler is None else Unsettled(sampler, nfe, nfe, given)


def replacing(below: Node | None, above: Node | None) -> Node | None:
    """`above` as an override of `below`: where it writes one of nfe and steps, the other is removed."""
    if below is None or above is None or not isinstance(below.value, dict) or not isinstance(above.value, dict):
        return above
    for own, other in (KEYS, KEYS[::-1]):
        if above.value.keys() & {*KEYS} == {own} and above.get(own) and other in below.value:
            return replace(above, value={**above.value, other: replace(above.value[own], value=None, step=other)})
    return above


def params(node: Node, sampler: Any) -> dict[str, Scalar]:
    """The parameters that `node` sets for a sampler. The nfe that the file gives stands there, not the steps."""
    if not isinstance(sampler, Unsettled):
        return params_of("sampler", node, sampler)
    renamed = {("steps" if key == "nfe" else key): child for key, child in node.value.items()}
    known = params_of("sampler", replace(node, value=renamed), sampler.sampler)
    return {
        (NFE if key == "sampler.steps" else key): (sampler.nfe if key == "sampler.steps" else value)
        for key, value in known.items()
    }


class Settler:
    """Finds steps; remembers them, because cells that differ in training and sample seed have the same."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int, Price], Any] = {}

    def __call__(
        self,
        sampler: Any,
        arm: str,
        network: Network,
        guidance: tuple[Any, ...],
        references: Mapping[str, Network],
        compose: str,
    ) -> Any:
        """The sampler with the most steps that its nfe allows; `sampler` itself where it has steps.

        Raises SpecError where one step takes more, or where the sampler does not take as many steps. While a guidance
        is only parsed, it cannot be counted: then the fewest steps.
        """
        if not isinstance(sampler, Unsettled):
            return sampler
        path = described(network)
        if any(isinstance(each, StandIn) for each in guidance):
            return sampler.sampler
        if sampler.sampler.refuses(path.interpolant, path.predicts) is not None:
            return sampler.sampler  # the caller says so
        one_call = price_of(network, guidance, references, compose)
        key = (id(sampler.sampler), sampler.nfe, sampler.asked, one_call)
        if key not in self._known:
            settled = _most_steps(sampler, sampler.asked, one_call, arm)
            if sampler.nfe != sampler.asked:  # --smoke, whose nfe may be too few for one step
                spent = evaluations(sampler.sampler, one_call)
                settled = _most_steps(sampler, max(sampler.nfe, spent or 0), one_call, arm)
            self._known[key] = settled
        return self._known[key]


def _most_steps(sampler: Unsettled, nfe: int, one_call: Price, arm: str) -> Any:
    """The sampler with the most steps whose evaluations are at most `nfe`."""
    name, fewest = name_of(sampler.sampler), sampler.sampler
    least, most = _limits(type(fewest))
    at_least = evaluations(fewest, one_call)
    if at_least is None:
        words = "the number of its network calls is not known beforehand"
        raise sampler.node.error(f"nfe is not possible with {name!r}: {words}. Write steps.")

    def spent(steps: int) -> int | None:
        """None where the sampler cannot have so many steps."""
        try:
            return evaluations(replace(fewest, steps=steps), one_call)
        except ValidationError:
            return None

    steps = _search(spent, nfe, least, min(most, max(least, nfe + 1)), most)
    if steps is None:
        takes = f"one step takes {at_least}" if least == 1 else f"{least} steps, its fewest, take {at_least}"
        raise sampler.node.error(
            f"{nfe} network evaluations are too few for arm {arm!r}: {takes} with {name!r}. "
            f"Set nfe to {at_least} or more."
        )
    used = spent(steps)
    assert used is not None
    if steps == most and used * (steps + 1) <= nfe * steps:
        words = f"{most:,}, the most steps that {name!r} takes, are {used:,} network evaluations"
        raise sampler.node.error(f"{nfe:,} are too many for arm {arm!r}: {words}. Set nfe to {used} or less.")
    return replace(fewest, steps=steps)


def _search(spent: Callable[[int], int | None], nfe: int, least: int, start: int, most: int) -> int | None:
    """The highest number of steps that cost at most `nfe`. One more may cost less: with an interval of levels, other
    numbers of steps have other levels in it. So it goes down, by less than what is too much.
    """
    steps = start
    while steps < most and (cost := spent(steps)) is not None and cost <= nfe:
        steps = min(most, 2 * steps)
    while steps >= least:
        cost = spent(steps)
        if cost is not None and cost <= nfe:
            return steps
        a_step = 1 if cost is None else -(-cost // steps)
        steps -= 1 if cost is None else max(1, (cost - nfe) // (4 * a_step))
    return None


def evaluations(sampler: Any, one_call: Price) -> int | None:
    """Network evaluations (NFE) of one sample; None if they depend on the states."""
    levels = sampler.called_at(one_call.interpolant)
    if levels is not None:
        return one_call.total(levels)
    calls = sampler.network_calls()
    return None if calls is None else calls * one_call.most


def evaluations_of(cell: Cell) -> int | None:
    """Network evaluations (NFE) of one sample of a cell; None if they depend on the states."""
    return evaluations(cell.sampler, price_of(cell.network, cell.guidance, cell.references, cell.compose))


def price_of(network: Network, guidance: tuple[Any, ...], references: Mapping[str, Network], compose: str) -> Price:
    """The price of a call of a network with its guidance. A reference that is trained alike is the same network."""
    distinct: list[Network] = [network]
    same: dict[str, Network] = {}
    for name, other in references.items():
        same[name] = next((known for known in distinct if _alike(known, other)), other)
        distinct.append(other)
    on_some = any(term.channels is not None for each in guidance for term in each.terms())
    shape = network.shape if on_some else None
    return price(
        network,
        guidance,
        same,
        described(network).interpolant,
        compose=compose,
        channels=shape[0] if shape else None,
        variance=_predicts_variance(network),
    )


def _alike(one: Network, other: Network) -> bool:
    """Whether two networks are the same task, whatever their names."""
    if one is other:
        return True
    if (one.init is None) is not (other.init is None):
        return False
    if one.init is not None and other.init is not None and not _alike(one.init, other.init):
        return False
    bare = (dataclasses.replace(each, name="", axes={}, init=None, learned=None) for each in (one, other))
    return next(bare) == next(bare)


def _predicts_variance(network: Network) -> bool:
    """Whether it returns a variance beside its prediction. True where only its weights or its code would tell."""
    family = network.lineage[-1].family
    if network.model is None and family is not None:
        return FAMILIES[family].model is DiT
    return bool(getattr(network.model, "predicts_variance", True))


def _limits(cls: Any) -> tuple[int, int]:
    """The fewest and the most steps that the field of a sampler allows."""
    least, most = 1, MOST
    for bound in cls.__pydantic_fields__["steps"].metadata:
        least = max(least, getattr(bound, "ge", least), getattr(bound, "gt", least - 1) + 1)
        most = min(most, getattr(bound, "le", most), getattr(bound, "lt", most + 1) - 1)
    return least, most
