"""Parameters: values of a sweep under flat keys such as `train.seed` and `sampler.steps`, for reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from orchestrator.spec.grid import METHOD_KEYS, Axis, Pick, as_mapping, is_axis, merge, values_of
from orchestrator.spec.yaml_nodes import Node

NFE = "sampler.nfe"  # stands for a sampler's steps, where they follow from a number of network evaluations
Scalar = bool | int | float | str
Params = Mapping[str, Scalar]


def is_training_seed(key: str) -> bool:
    return key == "train.seed" or key.endswith(".train.seed")


def is_seed(key: str) -> bool:
    return is_training_seed(key) or key == "sample.seed"


def key_of(prefix: str, path: tuple[str, ...]) -> str:
    """The parameter key of a value. `name` and `use` stand for the method: the key of sampler.name is `sampler`."""
    keys = path[:-1] if path and path[-1] in METHOD_KEYS else path
    return ".".join((prefix, *keys) if prefix else keys)


def keys_below(prefix: str, node: Node | None, path: tuple[str, ...] = ()) -> set[str]:
    """The parameter keys below a node, in all values of its axes."""
    if node is None:
        return set()
    if is_axis(node):
        return {key for item in values_of(node) for key in keys_below(prefix, item, path)}
    if isinstance(node.value, dict):
        return {inner for key, child in node.value.items() for inner in keys_below(prefix, child, (*path, key))}
    return {key_of(prefix, path)}


def params_of(prefix: str, node: Node, value: Any) -> dict[str, Scalar]:
    """The parameters that `node` sets, with their values taken from `value`, which was built from it."""
    if not isinstance(node.value, dict):
        if dataclasses.is_dataclass(value):  # a method by its name alone
            return {prefix: node.value}
        return {prefix: value if isinstance(value, Scalar) else str(list(value))}
    named_by = METHOD_KEYS & node.value.keys()
    params: dict[str, Scalar] = {prefix: node.value[named_by.pop()].value} if named_by else {}
    for key, child in node.value.items():
        if key not in METHOD_KEYS:
            params |= params_of(f"{prefix}.{key}", child, _field_value(value, key, child))
    return params


def _field_value(value: Any, key: str, child: Node) -> Any:
    """The field of a method; for a stand-in of a user's method, the value in the file."""
    known = {field.name for field in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()
    return getattr(value, key) if key in known else child.value


def axis_params(prefix: str, axes: list[Axis], node: Node, value: Any) -> dict[str, Scalar]:
    """The parameters on the axes of a grid point."""
    params: dict[str, Scalar] = {}
    for axis in axes:
        child, held = node, value
        for key in axis.path:
            child, held = child.value[key], getattr(held, key, held)  # `name` is not a field: it stands for the method
        params |= params_of(key_of(prefix, axis.path), child, held)
    return params


def tuned_keys(prefix: str, picks: Mapping[tuple[str, ...], Pick]) -> dict[str, Pick]:
    """Picks on tuned axes by parameter key."""
    return {key_of(prefix, path): pick for path, pick in picks.items()}


def axis_keys(prefix: str, axes: list[Axis]) -> set[str]:
    return {key for axis in axes for key in keys_below(prefix, axis.node, axis.path)}


def overridden(key: str, below: Node | None, above: Node) -> set[str]:
    """Parameter keys that an arm sets in a section or removes from it."""
    before = as_mapping(below) if below else None
    after = merge(before, as_mapping(above))
    return keys_below(key, as_mapping(above)) | (keys_below(key, before) - keys_below(key, after))
