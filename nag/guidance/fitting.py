"""Whether guidance fits a network, a sampler and other guidance. Nothing here knows a method by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nag.guidance.terms import UNALTERED, Altered, Guidance, Setting, Term, own_terms
from nag.interpolants import convert
from nag.registry import name_of


def misfit(guidance: Sequence[Guidance], compose: str, setting: Setting) -> str | None:
    """The first reason why this guidance, all of it on and completed, cannot act together there; None if it can."""
    for each in guidance:
        name = _name(each)
        reason = each.refuses(setting) or _network(each, setting) or _sampler(each, setting)
        if compose == "nested":
            reason = reason or _nested(each)
        if reason is not None:
            return f"{name}: {reason}"
    return _together(guidance)


def reference_misfit(terms: Sequence[Term], own: Setting, reference: Setting) -> str | None:
    """Why guidance of the network of `own` cannot ask a reference, which is another one, for these terms; None if it
    can.
    """
    if own.shape is not None and reference.shape is not None and tuple(own.shape) != tuple(reference.shape):
        return f"the reference has states of shape {tuple(reference.shape)}, the network {tuple(own.shape)}"
    if own.interpolant != reference.interpolant:
        paths = f"{type(reference.interpolant).__name__}, the network {type(own.interpolant).__name__}"
        return f"the reference has other states at the same level: its interpolant is {paths}"
    asked = [term for term in terms if not term.gradient]
    known = own.num_classes is not None and reference.num_classes is not None
    if known and own.num_classes != reference.num_classes and not all(term.null_class for term in asked):
        classes = f"{reference.num_classes}, the network {own.num_classes}"
        return f"it asks the reference for the same class, and it has {classes} classes"
    return _unconvertible(own, reference) if asked else None


def _unconvertible(own: Setting, reference: Setting) -> str | None:
    """Why the reference's predictions cannot be converted at t = 1, or for velocities at t = 0."""
    zero: Any = 0.0  # in place of a state: what can be converted depends on the level alone
    for t in (1.0, 0.0) if own.predicts == "velocity" else (1.0,):
        try:
            convert(zero, reference.predicts, own.predicts, zero, t, own.interpolant)
        except ValueError as error:
            kinds = f"the reference predicts {reference.predicts}, the network {own.predicts}"
            return f"{kinds}, and at t = {t:g} {error}"
    return None


def _name(guidance: Guidance) -> str:
    try:
        return name_of(guidance)
    except KeyError:  # in Python, a class that is in no table
        return type(guidance).__name__


def _network(guidance: Guidance, setting: Setting) -> str | None:
    """The last block that a term names must be there, and for a random other class two classes."""
    for term in guidance.terms():
        altered = term.altered
        if setting.layers is not None and term.reference is None:
            if setting.layers == 0 and (altered.perturbation.kind or altered.embedding_noise[0]):
                return "it needs a transformer of nagbench; this network has no blocks or level embedding to perturb"
            missing = [layer for layer in altered.perturbation.layers if layer >= setting.layers]
            if missing:
                has = f"the network has {setting.layers}, numbered 0 to {setting.layers - 1}"
                return f"there is no layer {missing[0]}; {has}"
        if altered.other_class and setting.num_classes is not None and setting.num_classes < 2:
            return "it needs another class than a sample's own, and the network has one class"
    return None


def _sampler(guidance: Guidance, setting: Setting) -> str | None:
    sampler = setting.sampler
    if sampler is None:
        return None
    terms = guidance.terms()
    name = _sampler_name(sampler)
    calls = sampler.network_calls()
    one_call = not sampler.adaptive and calls is not None and sampler.steps is not None and calls <= sampler.steps
    if (guidance.remembers or any(term.altered.previous for term in terms)) and not one_call:
        return f"it remembers the step before, so it needs a sampler with one network call a step, which {name} is not"
    if sampler.adaptive and any(term.altered.random for term in terms):
        return f"it draws anew in every call, and {name} chooses its steps by how predictions differ"
    if any(term.schedule.of_step for term in terms) and not sampler.renoises(setting.interpolant):
        return f"the steps of {name} on this path are not of the form alpha x_0 + sigma eps; take ddim with eta 0"
    return None


def _sampler_name(sampler: object) -> str:
    try:
        return name_of(sampler)
    except KeyError:
        return type(sampler).__name__


def _nested(guidance: Guidance) -> str | None:
    terms = guidance.terms()
    if guidance.nests and (not own_terms(terms) or any(term.altered != UNALTERED for term in terms)):
        return "it nests, so its terms must be predictions of the guided network, under null conditions at most"
    if guidance.combine is not None and terms:
        return "it is no sum of predictions, so nothing can be nested in it; leave out compose"
    if any(term.altered.previous for term in terms):
        return "the prediction of the step before is not evaluated, so nothing can be nested in it; leave out compose"
    return None


def _together(guidance: Sequence[Guidance]) -> str | None:
    """What reacts to guidance needs some; and a guidance that is no fixed sum has its branch to itself."""
    for each in guidance:
        if each.output is not None and not any(other.terms() for other in guidance):
            return f"{_name(each)} changes what other guidance does, and there is none: add one, such as cfg"
        for other in guidance:
            if other is not each and _tells(each) and _tells(other):
                return f"{_name(each)} and {_name(other)} both say at which level networks are asked; keep one of them"
            shared = _weak(each.terms()) & _weak(other.terms())
            if other is not each and shared and _not_a_sum(each):
                return (
                    f"{_name(each)} and {_name(other)} both guide away from the same prediction, "
                    f"and {_name(each)} is no sum that could be added; keep one of them"
                )
    return None


def _weak(terms: Iterable[Term]) -> set[tuple[bool, bool, Altered]]:
    """The branches of the guided network other than D."""
    own = {(term.null_noise, term.null_class, term.altered) for term in terms if term.reference is None}
    return own - {(False, False, UNALTERED)}


def _tells(guidance: Guidance) -> bool:
    return guidance.told is not None or guidance.evaluated_at is not None


def _not_a_sum(guidance: Guidance) -> bool:
    return guidance.combine is not None or any(term.schedule.of_step for term in guidance.terms())
