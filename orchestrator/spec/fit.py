"""Whether samplers and guidance fit the networks of a sweep, as far as that is known without opening weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from nag.guidance.fitting import misfit, reference_misfit
from nag.guidance.terms import Setting
from nag.interpolants import Prediction
from nag.models.description import Backbone
from nag.registry import name_of
from orchestrator.spec.measure_section import untaught
from orchestrator.spec.model import Network
from orchestrator.spec.networks import described
from orchestrator.spec.user_code import StandIn
from orchestrator.spec.yaml_nodes import Node


def check_sampler(network: Network, sampler: Any, node: Node) -> None:
    """Raise if a sampler cannot sample a network."""
    path = described(network)
    reason = sampler.refuses(path.interpolant, path.predicts)
    if reason is not None:
        raise node.error(f"{name_of(sampler)!r} cannot sample network {network.name!r}: {reason}.")


def check_taught(name: str, guidance: Any, networks: list[Network], node: Node) -> None:
    """Raise if a guidance needs a null condition that a network was not trained with."""
    _check_taught(name, () if guidance.off else sorted(guidance.needs), networks, node)


def check_reference_taught(name: str, guidance: Any, references: list[Network], node: Node) -> None:
    """Raise if a guidance asks its reference under a null condition that the reference was not trained with."""
    terms = () if guidance.off else [term for term in guidance.terms() if term.reference is not None]
    asked = [need for need in ("null_class", "null_noise") if any(getattr(term, need) for term in terms)]
    _check_taught(name, asked, references, node)


def _check_taught(name: str, needs: Sequence[str], networks: list[Network], node: Node) -> None:
    for network in networks:
        learned = needs if network.learned is None else network.learned
        for need in needs:
            if need not in learned:
                raise untaught(name, network, need, node)


def check_guidance(network: Network, sampler: Any, guidance: tuple[Any, ...], compose: str, arm: Node) -> None:
    """Raise if the guidance of an arm does not fit the network, the sampler or each other. Users' own that was only
    parsed is not known.
    """
    if any(isinstance(each, StandIn) for each in (*guidance, sampler)):
        return
    reason = misfit(guidance, compose, setting(network, sampler))
    if reason is not None:
        key, _, words = reason.partition(": ")
        raise arm.value[key].error(f"{words}.") if key in arm.value else arm.error(f"{reason}.")


def check_references(network: Network, guidance: tuple[Any, ...], references: Mapping[str, Network], arm: Node) -> None:
    """Raise if the network that a guidance names has other states, classes or predictions than the guided one."""
    if any(isinstance(each, StandIn) for each in guidance):
        return
    for each in guidance:
        other = references.get(each.reference or "")
        if each.off or other is None or other is network:
            continue
        asked = tuple(term for term in each.terms() if term.reference is not None)
        reason = reference_misfit(asked, setting(network, None), setting(other, None))
        if reason is not None:
            node = next((arm.value[key] for key in arm.value if key == name_of(each)), arm)
            place = node.value.get("reference", node) if isinstance(node.value, Mapping) else node
            raise place.error(f"{reason}.")


def setting(network: Network, sampler: Any) -> Setting:
    """What the file tells of a network, for `nag.guidance.fitting`."""
    path, model = described(network), network.model
    layers = None if model is None or isinstance(model, StandIn) else 0
    return Setting(
        path.interpolant,
        cast(Prediction, path.predicts),
        num_classes=network.classes,
        layers=model.depth if isinstance(model, Backbone) else layers,
        sampler=sampler,
        shape=_shape(network),
    )


def _shape(network: Network) -> tuple[int, int, int] | None:
    try:
        return network.shape
    except (ValueError, AttributeError):  # images that the autoencoder cannot encode, or data that is only parsed
        return None
