"""Guidance of a field, and sampling from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from nag.field import Field
from nag.guidance.fitting import misfit, reference_misfit
from nag.guidance.guided_field import GuidedField, Move, Slope
from nag.guidance.mixing import Part, combined, part, without_cancelled
from nag.guidance.terms import EVERYWHERE, Guidance, Setting, Term, shapes
from nag.registry import completed
from nag.samplers.fixed_step import Draw, Sampler

if TYPE_CHECKING:
    import torch

Compose = Literal["sum", "nested"]
References = Mapping[str, Any]  # the name of each reference -> its Field, Estimator or Residual


def sample(
    field: Field,
    sampler: Sampler,
    *,
    noise: Draw,
    labels: Any,
    guidance: Guidance | tuple[Guidance, ...] | None = None,
    references: References | None = None,
    compose: Compose = "sum",
) -> torch.Tensor:
    """Samples (N, C, H, W) of `field`, on the device of the noise.

    noise: `noise(0)` the initial state (N, C, H, W), `noise(k)` the draw of step k, such as `nag.noise.Noise`.
    labels: (N,) whole numbers in [0, num_classes], num_classes is the null class; else ValueError.
    guidance: one, several in any order, or none; `references`, `compose` and errors as for `guided`.
    Raises ValueError if the sampler does not fit the field or the guidance.
    """
    import torch

    y = torch.as_tensor(labels)
    if y.ndim != 1 or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"labels must be whole numbers of shape (N,), got {y.dtype} of shape {tuple(y.shape)}")
    if y.numel() and not 0 <= int(y.min()) <= int(y.max()) <= field.num_classes:
        raise ValueError(f"labels must be in [0, {field.num_classes}], got {int(y.min())} to {int(y.max())}")
    completed("samplers", type(sampler))
    reason = sampler.refuses(field.interpolant, field.predicts)
    if reason is not None:
        raise ValueError(f"{type(sampler).__name__} cannot sample this network: {reason}")
    parts = guidance if isinstance(guidance, tuple | list) else () if guidance is None else (guidance,)
    made = guided(field, tuple(parts), references, compose, sampler)
    return sampler(begun(made, sampler, noise), y.to(torch.int64), noise)


def begun(field: Field, sampler: Sampler, noise: Draw) -> Field:
    """A guided field for one run of a sampler over one batch, the samples of `noise`; any other field as it is."""
    return field.begin(noise, sampler.called_at(field.interpolant)) if isinstance(field, GuidedField) else field


def guided(
    field: Field,
    guidance: tuple[Guidance, ...],
    references: References | None = None,
    compose: Compose = "sum",
    sampler: Sampler | None = None,
) -> Field:
    """The field D + the terms of all `guidance`, a field again; `field` itself where all of it is off or cancels.

    references: the networks that guidance names. A reference that is `field` itself is not another network: its terms
    merge with those of `field`. compose: "sum" adds all terms to D; "nested" puts guidance that nests (`nag`) inside
    every branch of the others, so cfg and nag make N_null + s (N - N_null) with N = (w + 1) D - w D(null noise).
    Raises ValueError if a network lacks a null condition or is missing, or if guidance does not fit it, the sampler (if
    it is given) or other guidance.
    """
    if compose not in get_args(Compose):
        raise ValueError(f"unknown compose {compose!r}; known: {', '.join(get_args(Compose))}")
    active = [g for g in guidance if not g.off]
    for g in active:
        completed("guidance", type(g))
        for condition in sorted(g.needs):
            _check_trained(field, condition, f"{type(g).__name__} needs a network", "this one was not")
    reason = misfit(active, compose, _setting(field, sampler))
    if reason is not None:
        raise ValueError(reason)
    terms = [(g, term) for g in active for term in g.terms()]
    others = _references(field, terms, references or {})
    networks = (field, *others)
    parts: list[Part] = []
    slopes: list[tuple[str, Slope]] = []
    numbers: dict[int, list[int]] = {id(g): [] for g in active}
    for g, term in terms:
        network = _network_of(term, field, references or {})
        _check_term(type(g).__name__, term, field, network)
        if term.gradient:
            slopes.append((_name(term), Slope(network, term.weight, term.interval)))
        else:
            number = next(i for i, each in enumerate(networks) if each is network)
            numbers[id(g)].append(number)
            if g.combine is None:
                parts.append(part(term, number, compose == "nested" and g.nests))
    _check_nested(networks, parts)
    left = without_cancelled(parts)
    slopes.sort(key=lambda pair: (pair[0], pair[1].weight, pair[1].interval.low, pair[1].interval.high))
    every = sorted((g for g in active if g.combine is not None and g.terms()), key=repr)
    shaping = tuple(sorted((g for g in active if shapes(g)), key=repr))
    move = _move(active, field, references or {})
    if not (left or slopes or every or shaping or move):
        return field
    combinations = tuple(combined(g, numbers[id(g)]) for g in every)
    return GuidedField(networks, left, tuple(slope for _, slope in slopes), combinations, shaping, move)


def _move(active: list[Guidance], field: Field, references: References) -> Move | None:
    """The guidance that says where networks are evaluated, with the network that it asks; `misfit` allows one."""
    for g in active:
        if g.evaluated_at is not None:
            residual = _named(g.reference, references)
            _check_reference(type(g).__name__, "share", "a noise_level_residual", field, residual, ())
            return Move(g, residual, getattr(g, "interval", EVERYWHERE))
    return None


def _network_of(term: Term, field: Field, references: References) -> Any:
    return field if term.reference is None else _named(term.reference, references)


def _named(reference: Any, references: References) -> Any:
    """The network that `reference` names, or is. Raises ValueError if it is not there."""
    if not isinstance(reference, str):
        return reference
    if reference not in references:
        known = f"known: {', '.join(references)}" if references else "no references were given"
        raise ValueError(f"guidance asks for the reference network {reference!r}; {known}")
    return references[reference]


def _name(term: Term) -> str:
    return term.reference if isinstance(term.reference, str) else ""


def _references(field: Field, terms: list[tuple[Guidance, Term]], references: References) -> list[Field]:
    """The other networks of the terms, each once, sorted by name: the order of guidance must not matter."""
    by_id: dict[int, tuple[str, Field]] = {}
    for _, term in terms:
        network = _network_of(term, field, references)
        if network is not field and not term.gradient:
            named = (_name(term), network)
            by_id[id(network)] = min(named, by_id.get(id(network), named), key=lambda pair: pair[0])
    return [network for _, network in sorted(by_id.values(), key=lambda pair: (pair[0], id(pair[1])))]


def _check_trained(network: Any, condition: str, needs: str, not_so: str) -> None:
    if not getattr(network, f"has_{condition}", condition == "null_class"):
        words = condition.replace("_", " ")
        raise ValueError(f"{needs} that was trained with a {words} condition; {not_so}")


def _check_term(name: str, term: Term, field: Field, network: Any) -> None:
    """Raises ValueError if the network or the field lacks what the term needs."""
    if term.channels is not None and term.channels > field.shape[0]:
        raise ValueError(f"{name} guides {term.channels} channels, and states have {field.shape[0]}")
    method, wanted = ("gradient", "a noise-level estimator") if term.gradient else ("num_classes", "a network")
    _check_reference(name, method, wanted, field, network, (term,))
    if network is field or term.gradient:
        return
    for condition, wants in (("null_class", term.null_class), ("null_noise", term.null_noise)):
        if wants:
            _check_trained(network, condition, f"{name} needs a reference", "this one was not")


def _check_reference(name: str, method: str, wanted: str, field: Field, network: Any, terms: tuple[Term, ...]) -> None:
    """Raises ValueError unless the reference has this method, and fits the field."""
    if not hasattr(network, method):
        raise ValueError(f"{name} needs {wanted} as its reference, got {type(network).__name__}")
    reason = None if network is field else reference_misfit(terms, _setting(field), _setting(network))
    if reason is not None:
        raise ValueError(f"{name}: {reason}")


def _setting(network: Any, sampler: Sampler | None = None) -> Setting:
    """What a network tells of itself; an estimator has no prediction and no classes."""
    return Setting(
        network.interpolant,
        getattr(network, "predicts", "x0"),
        getattr(network, "num_classes", None),
        getattr(network, "layers", 0),
        sampler,
        network.shape,
    )


def _check_nested(networks: tuple[Field, ...], parts: list[Part]) -> None:
    """Raises ValueError if a network lacks a null condition that guidance inside its branch asks it for."""
    inner = [each.branch for each in parts if each.inside]
    conditions = [name for name in ("null_class", "null_noise") if any(getattr(branch, name) for branch in inner)]
    for each in parts:
        for condition in conditions if not each.inside else ():
            needs = f"nested guidance along the {condition.removeprefix('null_')} condition needs a reference"
            _check_trained(networks[each.branch.network], condition, needs, "this one was not")
