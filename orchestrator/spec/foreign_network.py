"""A network of other code in the `networks` section: `{checkpoint: x.safetensors, model: {use: ...}, time: ...}`."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nag.models.convention import CONDITIONS, TIMES, Convention, can_learn, check_declared, has_null
from nag.weights import SeveralSets, read_weights
from orchestrator.errors import unknown
from orchestrator.spec.construct import MethodBuilder
from orchestrator.spec.model import Network
from orchestrator.spec.user_code import StandIn
from orchestrator.spec.yaml_nodes import Node, show

CONVENTION = ("time", "precondition")  # the keys that declare how a module is called
DROPOUT = {"null_noise": "noise_dropout", "null_class": "class_dropout"}  # training options that teach a null condition


def layout_of(place: Node, path: str, key: str | Sequence[str]) -> str:
    """What the header of a checkpoint tells, in words; "" if it is not on this machine, or if it has several sets of
    weights, among which the names in the module will choose. No tensor is read.
    """
    if not os.path.exists(path):
        return ""
    try:
        weights = read_weights(Path(path), key)
    except SeveralSets:
        return ""
    except ValueError as error:
        raise place.error(f"{error}.") from None
    numbers = sum(math.prod(tensor.shape) for tensor in weights.tensors.values())
    return f"{weights.layout}, {len(weights.tensors):,} tensors, {numbers:,} numbers"


def convention_at(node: Node, builder: MethodBuilder) -> Convention | None:
    """What a network declares of its module; None if it declares nothing."""
    if not any(key in node.value for key in CONVENTION):
        return None
    time, precondition = node.get("time"), node.get("precondition")
    if time is not None and time.value not in TIMES:
        raise time.error(unknown("time", str(time.value), TIMES))
    built = None if precondition is None else builder.method("preconditions", precondition)
    try:
        return Convention("t" if time is None else time.value, built)
    except ValueError as error:
        raise (time or precondition or node).error(f"{error}.") from None


def predicts_at(node: Node, convention: Convention | None, default: str | None) -> str:
    """What a network predicts; `predicts` at `node` is already known to be one of the predictions."""
    said = node.value["predicts"].value if "predicts" in node.value else default
    if convention is None:
        return str(said)
    try:
        return convention.predicts(said)
    except ValueError as error:
        raise node.value.get("predicts", node).error(f"{error}.") from None


def classes_at(node: Node, data: Any) -> int | None:
    """`num_classes` of a checkpoint, by default that of its data; None if those are not on this machine."""
    if "num_classes" in node.value:
        given = node.value["num_classes"]
        if isinstance(given.value, bool) or not isinstance(given.value, int) or given.value < 1:
            raise given.error(f"expected a whole number, at least 1, got {show(given)}.")
        return given.value
    try:
        return int(data.num_classes)
    except OSError:
        return None


def learned_by(model: Any, node: Node) -> frozenset[str] | None:
    """The null conditions that the class says its modules have; None for a class that only an import would tell."""
    try:
        check_declared(model)
    except ValueError as error:
        raise node.error(f"{error}.") from None
    if isinstance(model, StandIn) and model.unseen:
        return None
    return frozenset(condition for condition in CONDITIONS if has_null(model, condition))


def unteachable(network: Network, condition: str) -> str | None:
    """Why no fine-tune can teach a module of other code the condition, and the fix; None if one can."""
    root = network.lineage[-1]
    if root.convention is None or can_learn(root.model, condition) or getattr(root.model, "unseen", False):
        return None
    what = {"null_noise": "noise level", "null_class": "class"}[condition]
    name, option, embedding = type(root.model).__name__, DROPOUT[condition], CONDITIONS[condition]
    words = condition.replace("_", " ")
    return (
        f"class {name} has no {words} condition: it declares neither {condition} nor {embedding}; "
        f"declare {embedding}, the submodule whose output embeds the {what} ({option} in a fine-tune can then teach it)"
    )


def check_teachable(network: Network, node: Node) -> None:
    """Raise if a training drops a condition for which its module has no null condition."""
    for condition, option in DROPOUT.items():
        if getattr(network.train, option) > 0 and (reason := unteachable(network, condition)):
            train = node.value["train"]
            place = train.value.get(option, train) if isinstance(train.value, dict) else train
            raise place.error(f"{reason}, or set {option}: 0.")
