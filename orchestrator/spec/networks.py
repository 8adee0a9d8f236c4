"""The `networks` section of a sweep: trained, fine-tuned from another network, or loaded from a checkpoint."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from nag.interpolants import PREDICTIONS
from nag.models.convention import Convention
from nag.models.description import role
from nag.official_checkpoints import FAMILIES, Family
from nag.registry import find
from nag.training import PRESETS, Training
from orchestrator.errors import unknown
from orchestrator.spec.construct import MethodBuilder
from orchestrator.spec.diffusers_folder import diffusers_network, is_of_diffusers
from orchestrator.spec.foreign_network import (
    CONVENTION,
    DROPOUT,
    check_teachable,
    classes_at,
    convention_at,
    layout_of,
    learned_by,
    predicts_at,
)
from orchestrator.spec.grid import Axis, Pick, at_ends, built_at, expand, no_repeats, picks_of
from orchestrator.spec.loaded_network import LOADED, checkpoint_path, given_at, loaded, shape_at
from orchestrator.spec.model import Network
from orchestrator.spec.parameters import axis_params, tuned_keys
from orchestrator.spec.smoke import smoked
from orchestrator.spec.yaml_nodes import Node

EXAMPLE = "{data: ..., model: ..., train: ...}"
TRAINED = ("data", "autoencoder", "model", "interpolant", "predicts", *CONVENTION, "train")
TUNED = ("init", "data", "autoencoder", "train")
FOREIGN = ("checkpoint", *TRAINED[:-1], "num_classes", "key")  # a checkpoint of other code
FAMILY = {"data": "datasets", "model": "models", "interpolant": "interpolants"}
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")

Build = Callable[[Node], Any]
Shrink = Callable[[list[Any]], list[Any]]


class Built(NamedTuple):
    """What was built from one combination of axes: the value, its node, and its places on tuned axes by path."""

    value: Any
    node: Node
    picks: dict[tuple[str, ...], Pick]


def check_name(name: str, node: Node) -> None:
    if not NAME.fullmatch(name):
        raise node.error(f"{name!r} is not a valid name: a letter, then up to 63 letters, digits, '_' or '-'.")


def described(network: Network) -> Network | Family:
    """What tells the path and prediction of a network: itself, or the family of the checkpoint that it starts from."""
    family = network.lineage[-1].family
    return FAMILIES[family] if family and network.interpolant is None else network


def points(node: Node, build: Build, shrink: Shrink, smoke: bool) -> tuple[list[Axis], list[Built]]:
    """The axes below `node`, and for each combination the result of `build`."""
    axes, combinations = expand(node)
    built = built_at(axes, combinations, build)
    no_repeats(axes, combinations, built)
    if smoke:
        kept = [place for place, point in enumerate(combinations) if at_ends(axes, point)]
        built, combinations = shrink([built[place] for place in kept]), [combinations[place] for place in kept]
    return axes, [
        Built(value, point.node, picks_of(axes, point)) for value, point in zip(built, combinations, strict=True)
    ]


class Networks:
    """The instances of every network, by name: one per combination of values on its own and its parents' axes."""

    def __init__(self, node: Node, builder: MethodBuilder, smoke: bool) -> None:
        if smoke:  # check the real methods before stand-ins replace them
            Networks(node, builder, smoke=False)
        self.builder, self.smoke = builder, smoke
        self.entries = node.mapping(f"{{sit: {EXAMPLE}}}")
        self.instances_of: dict[str, list[Network]] = {}
        for name, entry in self.entries.items():
            check_name(name, entry)
            self._check_keys(entry)
        for name in self.entries:
            self._read(name, ())
        if not self.instances_of:
            raise node.error(f"it is empty. A network is {{sit: {EXAMPLE}}}.")

    def _check_keys(self, entry: Node) -> None:
        fields = entry.mapping(EXAMPLE)
        if "checkpoint" in fields:
            if entry.get("checkpoint") is None:
                raise fields["checkpoint"].error("expected the path of a file, got null. Remove unused keys.")
            entry.only(FOREIGN if "model" in fields else LOADED)
            if "model" in fields and entry.get("data") is None:
                raise entry.error("'data' is missing; its images say the shape of the network's states.")
            return
        entry.only(TUNED if "init" in fields else TRAINED)
        needed = ("train",) if "init" in fields else ("data", "model", "train")
        words = "data, model and train" if len(needed) > 1 else "a training"
        for key in needed:
            if entry.get(key) is None:
                raise entry.error(f"{key!r} is missing. A network needs {words}.")

    def _read(self, name: str, through: tuple[str, ...]) -> list[Network]:
        """The instances of a network; those of its parent are read first."""
        if name in self.instances_of:
            return self.instances_of[name]
        entry = self.entries[name]
        parents: list[Network | None] = [None]
        if "init" in entry.value:
            node = entry.value["init"]
            parent = node.text()
            known = [other for other in self.entries if other != name]
            if parent not in known:
                raise node.error(unknown("network", parent, known))
            if parent in through:
                circle = " -> ".join((*through, name, parent))
                raise node.error(f"{circle} is a circle; a network must start from another one.")
            parents = list(self._read(parent, (*through, name)))
        instances = []
        for place in parents:
            axes, built = points(entry, functools.partial(self._build, name, place), _shrink, self.smoke)
            instances += [
                dataclasses.replace(n, axes=_axes(n, axes, node), picks=tuned_keys("", picks))
                for n, node, picks in built
            ]
        _without_places(instances)
        self.instances_of[name] = instances
        return instances

    def _build(self, name: str, parent: Network | None, node: Node) -> Network:
        if "checkpoint" in node.value:
            return self._loaded(name, node)
        parts: dict[str, Any] = {"interpolant": find("interpolants", "linear")(), "predicts": "velocity"}
        if parent is not None:
            if parent.data is None and "data" not in node.value:
                raise node.error(f"'data' is missing, and {parent.name!r} has none to go on with.")
            kept = ("data", "model", "interpolant", "predicts", "autoencoder", "convention")
            parts = {"init": parent} | {key: getattr(parent, key) for key in kept}
        parts |= self._parts(node)
        if parts.get("convention") is not None and parent is None:
            parts["predicts"] = predicts_at(node, parts["convention"], "velocity")
        if parent is not None and parent.train is not None and "seed" not in node.value["train"].value:
            parts["train"] = dataclasses.replace(parts["train"], seed=parent.train.seed)
        if parts["train"].only == "null_noise" and not (parent and parts["train"].noise_dropout):
            raise node.value["train"].error("only: null_noise needs init: NETWORK and a noise_dropout above 0.")
        _check_noise(parts, node)
        learned = frozenset(need for need, field in DROPOUT.items() if getattr(parts["train"], field) > 0)
        network = Network(name=name, learned=learned, **parts)
        check_teachable(network, node)
        shape = shape_at(network, node)
        if parent is not None:
            _check_tuned(parent, shape, node)
        _check_fits(network, shape, node)
        return network

    def _parts(self, node: Node) -> dict[str, Any]:
        """What the keys of a network build, by the field of Network."""
        parts: dict[str, Any] = {}
        for key, child in node.value.items():
            match key:
                case "train":
                    parts[key] = self.builder.fields(Training, with_preset(child))
                case "predicts":
                    parts[key] = child.text()
                    if parts[key] not in PREDICTIONS:
                        raise child.error(unknown("prediction", parts[key], PREDICTIONS))
                case "autoencoder":
                    parts[key] = self._stand_in(self.builder.autoencoder(child))
                case "data" | "model" | "interpolant":
                    parts[key] = self._stand_in(self.builder.method(FAMILY[key], child), key == "data")
        convention = convention_at(node, self.builder)
        return parts if convention is None else parts | {"convention": convention}

    def _foreign(self, name: str, node: Node) -> Network:
        """A checkpoint of other code: its module is built by `model`."""
        place = node.value["checkpoint"]
        path = str(checkpoint_path(place))
        given = {key: value for key, value in given_at(node).items() if key == "key"}
        convention = convention_at(node, self.builder) or Convention()
        parts = {"interpolant": find("interpolants", "linear")(), "autoencoder": None} | self._parts(node)
        parts |= {"convention": convention, "predicts": predicts_at(node, convention, None), "train": None}
        learned = learned_by(parts["model"], node.value["model"])
        classes = classes_at(node, parts["data"])
        parts["layout"] = "" if self.smoke else layout_of(place, path, given.get("key", ()))
        network = Network(name, checkpoint=path, given=given, num_classes=classes, learned=learned, **parts)
        if not network.model.generates:
            raise node.value["model"].error("it does not generate samples; only such a network can be loaded here.")
        _check_fits(network, shape_at(network, node), node)
        return stand_in_of(network) if self.smoke else network

    def _stand_in(self, method: Any, is_read: bool = True) -> Any:
        """Under --smoke, the stand-in for a method that reads files; otherwise the method."""
        return method.smoke() if self.smoke and is_read and method is not None else method

    def _loaded(self, name: str, node: Node) -> Network:
        if "model" in node.value:
            return self._foreign(name, node)
        load = diffusers_network if is_of_diffusers(node) else loaded
        return load(name, node, self.builder, self.smoke)


def _axes(network: Network, axes: list[Axis], node: Node) -> dict[str, Any]:
    """The parameters on its axes. If it goes on with its parent's data, its data's are the parent's."""
    own: dict[str, Any] = {}
    if network.init is not None and "data" not in node.value:
        own = {key: value for key, value in network.init.axes.items() if key.split(".")[0] == "data"}
    return own | axis_params("", axes, node, network)


def with_preset(node: Node) -> Node:
    """Replace `preset: NAME` by its fields; fields in the file take precedence."""
    fields = node.mapping("{steps: 1000}")
    if "preset" not in fields:
        return node
    named = fields["preset"]
    if named.text() not in PRESETS:
        raise named.error(unknown("preset", named.value, PRESETS))
    recipe = {key: dataclasses.replace(named, value=value) for key, value in PRESETS[named.value].items()}
    given = {key: child for key, child in fields.items() if key != "preset"}
    return dataclasses.replace(node, value=recipe | given)


def _check_noise(parts: dict[str, Any], node: Node) -> None:
    """Raise unless the noise of training states is perturbed as the network needs it."""
    train, kind, place = parts["train"], role(parts.get("model")), node.value["train"]
    if train.input_perturbation and kind != "generator":
        words = "an estimator of noise levels must see exact states"
        raise place.error(f"input_perturbation is for networks that generate: {words}. Remove it.")
    if train.level_error and kind != "residual":
        raise place.error("level_error is for a noise_level_residual, which learns to tell it. Remove it.")
    if kind == "residual" and not train.level_error:
        raise place.error("a noise_level_residual learns nothing from exact levels: add level_error, such as 0.5.")


def _check_fits(network: Network, shape: tuple[int, int, int] | None, node: Node) -> None:
    if network.model is not None and shape is not None:  # None: in the weights, or in code that is only parsed
        try:
            network.model.fits(shape)
        except ValueError as error:
            raise node.value.get("model", node).error(f"{error}.") from None


def _check_tuned(parent: Network, shape: tuple[int, int, int] | None, node: Node) -> None:
    if parent.model is not None and not parent.model.generates:
        raise node.value["init"].error(
            f"{parent.name!r} does not generate samples; only generating networks can be fine-tuned."
        )
    known = parent.shape
    if None not in (known, shape) and known != shape:
        what = "latents" if parent.stores == "latents" else "images"
        raise node.value["data"].error(
            f"its {what} are {list(shape or ())}, those of {parent.name!r} {list(known or ())}."
        )


def stand_in_of(network: Network) -> Network:
    """Under --smoke, a short training of the same module, in place of a checkpoint of other code."""
    drops: dict[str, Any] = {option: 0.1 * (need in (network.learned or ())) for need, option in DROPOUT.items()}
    train = Training(steps=4, batch=16, lr=1e-3, **drops)
    return dataclasses.replace(network, checkpoint=None, num_classes=None, train=train)


def _without_places(instances: list[Network]) -> None:
    """Leave paths out of the parameters, if the other values distinguish the instances."""
    places = {f"{key}.{name}" for key in ("data", "autoencoder") for name in ("path", "weights")}
    kept = [{key: value for key, value in n.axes.items() if key not in places} for n in instances]
    if len({repr((axes, id(n.init))) for axes, n in zip(kept, instances, strict=True)}) == len(instances):
        instances[:] = [dataclasses.replace(n, axes=axes) for n, axes in zip(instances, kept, strict=True)]


def _shrink(networks: list[Network]) -> list[Network]:
    """Tiny models and short trainings. A model that comes from a parent or a file stays."""
    models = smoked([network.model if network.init is None else None for network in networks])
    trainings = smoked([network.train for network in networks])
    return [
        dataclasses.replace(network, model=network.model if model is None else model, train=train)
        for network, model, train in zip(networks, models, trainings, strict=True)
    ]
