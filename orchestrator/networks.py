"""The `networks` section of a sweep: trained here, made from another network, or taken from a checkpoint."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nag.interpolants import PREDICTIONS
from nag.registry import find
from nag.training import Training
from orchestrator.axes import Axis, at_ends, expand, no_repeats
from orchestrator.errors import unknown
from orchestrator.methods import Builder
from orchestrator.params import on_axes
from orchestrator.smoke import smoked
from orchestrator.sweep import Network
from orchestrator.yaml_text import Node

EXAMPLE = "{data: ..., model: ..., train: ...}"
TRAINED = ("data", "model", "interpolant", "predicts", "train")
TUNED = ("init", "data", "train")
LOADED = ("checkpoint", "family", "heads", "data")
FAMILY = {"data": "datasets", "model": "models", "interpolant": "interpolants"}
OFFICIAL = ("dit", "sit")
DROPOUT = {"null_noise": "noise_dropout", "null_class": "class_dropout"}  # what teaches a network a null condition
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")

Build = Callable[[Node], Any]
Shrink = Callable[[list[Any]], list[Any]]
Points = tuple[list[Axis], list[tuple[Any, Node]]]


def check_name(name: str, node: Node) -> None:
    if not NAME.fullmatch(name):
        raise node.error(f"{name!r} is no name: a letter, then up to 63 letters, digits, '_' or '-'.")


def points(node: Node, build: Build, shrink: Shrink, smoke: bool) -> Points:
    """The axes below `node`, and for every combination what `build` makes of it, with its node."""
    axes, found = expand(node)
    built = [build(point.node) for point in found]
    no_repeats(axes, found, built)
    nodes = [point.node for point in found]
    if smoke:
        kept = [place for place, point in enumerate(found) if at_ends(axes, point)]
        built, nodes = shrink([built[place] for place in kept]), [nodes[place] for place in kept]
    return axes, list(zip(built, nodes, strict=True))


class Networks:
    """Every network by name, as its instances: one for each combination of values on its axes and its parents'."""

    def __init__(self, node: Node, builder: Builder, smoke: bool) -> None:
        self.builder, self.smoke = builder, smoke
        self.entries = node.mapping(f"{{sit: {EXAMPLE}}}")
        self.found: dict[str, list[Network]] = {}
        for name, entry in self.entries.items():
            check_name(name, entry)
            self._check_keys(entry)
        for name in self.entries:
            self._read(name, ())
        if not self.found:
            raise node.error(f"there is no network. One is {{sit: {EXAMPLE}}}.")

    def _check_keys(self, entry: Node) -> None:
        fields = entry.mapping(EXAMPLE)
        if "checkpoint" in fields:
            entry.only(LOADED)
            return
        entry.only(TUNED if "init" in fields else TRAINED)
        needed = ("data", "train") if "init" in fields else ("data", "model", "train")
        for key in needed:
            if entry.get(key) is None:
                raise entry.error(f"{key!r} is missing. A network needs {', '.join(needed[:-1])} and {needed[-1]}.")

    def _read(self, name: str, through: tuple[str, ...]) -> list[Network]:
        """The instances of a network, its parent's first."""
        if name in self.found:
            return self.found[name]
        entry = self.entries[name]
        parents: list[Network | None] = [None]
        if "init" in entry.value:
            node = entry.value["init"]
            parent = node.text()
            known = [other for other in self.entries if other != name]
            if parent not in known:
                raise node.error(unknown("network", parent, known))
            if parent in through:
                raise node.error(f"{' -> '.join((*through, name, parent))} is a circle; a network starts from another.")
            parents = list(self._read(parent, (*through, name)))
        instances = []
        for place in parents:
            axes, found = points(entry, functools.partial(self._build, name, place), _shrink, self.smoke)
            instances += [dataclasses.replace(n, axes=on_axes("", axes, node, n)) for n, node in found]
        self.found[name] = instances
        return instances

    def _build(self, name: str, parent: Network | None, node: Node) -> Network:
        if "checkpoint" in node.value:
            return self._loaded(name, node)
        parts: dict[str, Any] = {"interpolant": find("interpolants", "linear")(), "predicts": "velocity"}
        if parent is not None:
            parts = {
                "model": parent.model,
                "interpolant": parent.interpolant,
                "predicts": parent.predicts,
                "init": parent,
            }
        for key, child in node.value.items():
            match key:
                case "init":
                    continue
                case "train":
                    parts[key] = self.builder.fields(Training, child)
                case "predicts":
                    parts[key] = child.text()
                    if parts[key] not in PREDICTIONS:
                        raise child.error(unknown("prediction", parts[key], PREDICTIONS))
                case _:
                    parts[key] = self.builder.method(FAMILY[key], child)
        if parent is not None:
            _check_tuned(parent, parts, node)
            if parent.train is not None and "seed" not in node.value["train"].value:
                parts["train"] = dataclasses.replace(parts["train"], seed=parent.train.seed)
        if parts["train"].only == "null_noise" and not (parent and parts["train"].noise_dropout):
            raise node.value["train"].error("only: null_noise needs init: NETWORK and a noise_dropout above 0.")
        if parts["model"] is not None and parts["data"].shape is not None:  # None: a file that is only read
            try:
                parts["model"].fits(parts["data"].shape)
            except ValueError as error:
                raise node.value.get("model", node).error(f"{error}.") from None
        learned = frozenset(need for need, field in DROPOUT.items() if getattr(parts["train"], field) > 0)
        return Network(name=name, learned=learned, **parts)

    def _loaded(self, name: str, node: Node) -> Network:
        place = node.value["checkpoint"]
        path = Path(node.file).parent / place.text()
        if not path.is_file():
            raise place.error(f"there is no file {str(path)!r}.")
        data = self.builder.method("datasets", node.value["data"]) if "data" in node.value else None
        family = node.value["family"].text() if "family" in node.value else None
        heads = node.value["heads"].value if "heads" in node.value else None
        if heads is not None and (isinstance(heads, bool) or not isinstance(heads, int) or heads < 1):
            raise node.value["heads"].error(f"expected a whole number, at least 1, got {heads!r}.")
        described = described_by(path)
        if described is None and family is None:
            raise place.error("it does not describe itself, so say what it is: family: dit or family: sit.")
        if described is None:
            if family not in OFFICIAL:
                raise node.value["family"].error(unknown("family", family, OFFICIAL))
            return Network(
                name, data, None, None, "", None, checkpoint=str(path), family=family, heads=heads, learned=None
            )
        for key in ("family", "heads"):
            if key in node.value:
                raise node.value[key].error("this checkpoint describes itself; leave it out.")
        if described["model"].get("source"):
            name = described["model"]["name"]
            raise place.error(f"its model {name!r} is somebody's own code; only the sweep that trained it can use it.")
        if data is not None and data.shape is not None and list(data.shape) != described["shape"]:
            raise node.value["data"].error(f"its images are {list(data.shape)}, the checkpoint's {described['shape']}.")
        model = find("models", described["model"]["name"])(**described["model"]["fields"])
        interpolant = find("interpolants", described["interpolant"]["name"])(**described["interpolant"]["fields"])
        learned = frozenset(need for need in DROPOUT if described[f"has_{need}"])
        return Network(
            name, data, model, interpolant, described["predicts"], None, checkpoint=str(path), learned=learned
        )


def described_by(path: Path) -> dict[str, Any] | None:
    """What a checkpoint of nagbench says of itself, from its header alone; None for any other file."""
    from nag.checkpoint import KEY, metadata

    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length < 100_000_000:
            return None
        try:
            header = json.loads(metadata(start + file.read(length)).get(KEY, "null"))
        except ValueError:
            return None
    return header.get("network") if isinstance(header, dict) else None


def _check_tuned(parent: Network, parts: dict[str, Any], node: Node) -> None:
    if parent.model is not None and not parent.model.generates:
        raise node.value["init"].error(f"{parent.name!r} does not generate; only generating networks are fine-tuned.")
    known = parent.data is not None and None not in (parent.data.shape, parts["data"].shape)
    if known and parent.data.shape != parts["data"].shape:
        shapes = f"{list(parts['data'].shape)}, those of {parent.name!r} {list(parent.data.shape)}"
        raise node.value["data"].error(f"its images are {shapes}.")


def _shrink(networks: list[Network]) -> list[Network]:
    """Tiny models and short trainings; what comes from a parent or a file stays as it is."""
    models = smoked([network.model if network.init is None else None for network in networks])
    trainings = smoked([network.train for network in networks])
    return [
        dataclasses.replace(network, model=network.model if model is None else model, train=train)
        for network, model, train in zip(networks, models, trainings, strict=True)
    ]
