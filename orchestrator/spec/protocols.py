"""Required members of each family of methods, checked for users' own methods. (Those of nagbench have tests.)"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.spec.signatures import misfit

NULLS = {"null_class", "null_noise"}


def _strings(value: Any) -> bool:
    return isinstance(value, tuple | list | set | frozenset) and all(isinstance(item, str) for item in value)


def _set(value: Any) -> bool:
    return isinstance(value, frozenset | set) and _strings(value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _terms(method: Callable[[], Any]) -> bool:
    from nag.guidance.terms import Term

    terms = method()
    return isinstance(terms, tuple) and all(isinstance(term, Term) for term in terms)


Member = tuple[str, Callable[[Any], bool]]  # its description, and a check of a value
METHOD: Member = ("a method", callable)
TRUTH: Member = ("true or false", lambda value: isinstance(value, bool))

CONTRACTS: dict[str, dict[str, Member]] = {
    "guidance": {
        "needs": ("a frozenset of null_class and null_noise", lambda value: _set(value) and value <= NULLS),
        "off": ("a property: true if it changes nothing", TRUTH[1]),
        "terms": ("a method that returns a tuple of nag.guidance.terms.Term", _terms),
    },
    "samplers": {"network_calls": METHOD, "__call__": ("(self, field, y, noise, *, observe=None) -> x", callable)},
    "datasets": {
        "shape": ("(C, H, W)", lambda value: isinstance(value, tuple) and len(value) == 3 and all(map(_whole, value))),
        "num_classes": ("a whole number", _whole),
        "stores": ("pixels or latents", lambda value: value in ("pixels", "latents")),
        "open": METHOD,
    },
    "models": {"generates": TRUTH, "fits": METHOD, "module": METHOD, "loss": METHOD},
    "metrics": {
        "needs": ("a frozenset of outputs of an extractor", _set),
        "names": ("a tuple of names", lambda value: _strings(value) and len(value) > 0),
        "lower_is_better": ("a mapping from each of its names", lambda value: isinstance(value, Mapping)),
        "least": ("a whole number", _whole),
        "extrapolates": TRUTH,
        "__call__": ("(self, samples, reference) -> scores", callable),
    },
    "features": {"outputs": ("a tuple of names", _strings), "trained": TRUTH, "open": METHOD},
}


def violation(family: str, instance: Any) -> str | None:
    """The first requirement of its family that an instance violates, or None."""
    members, cls = CONTRACTS[family], type(instance)
    held = {name for base in cls.__mro__[:-1] for name in vars(base)} | cls.__pydantic_fields__.keys()
    lacking = _lacking(family, held)
    if lacking is not None:
        return lacking
    if (reason := misfit(family, instance)) is not None:
        return reason
    for name, (words, fits) in members.items():
        if not fits(getattr(instance, name)):
            return f"{name} of a class for {family} must be {words}"
    if family == "guidance":
        from nag.guidance.terms import own_terms

        known = (None, instance.reference)
        if any(term.reference not in known for term in instance.terms()):
            return "a guidance whose terms have a reference network must have its name in a field `reference`"
        if instance.nests and not own_terms(instance.terms()):
            return "a guidance with nests: True must have terms of the guided network alone"
    if family == "features" and instance.reads not in ("pixels", "latents"):
        return "reads of a class for features, if it is there, must be pixels or latents"
    if family == "features" and instance.trained and not callable(getattr(instance, "train", None)):
        return "it lacks train (a method), which a trained extractor needs"
    if family == "metrics" and set(instance.names) != set(instance.lower_is_better):
        return "lower_is_better must have a value for each of its names"
    return None


def missing_members(family: str, statement: ast.ClassDef) -> str | None:
    """The members that a class statement lacks, without running it; None if the class has a base, which is unknown."""
    if statement.bases:
        return None
    held: set[str] = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            held.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            held.add(node.id)
    return _lacking(family, held)


def _lacking(family: str, held: set[str]) -> str | None:
    lacking = [f"{name} ({words})" for name, (words, _) in CONTRACTS[family].items() if name not in held]
    return f"it lacks {', '.join(lacking)}; every class for {family} needs that" if lacking else None
