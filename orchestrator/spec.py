"""A sweep file read, checked and expanded into cells. What it may hold: DESIGN.md "A sweep", DECISIONS.md "YAML".

Names of methods stand in nag.registry only; everything a user can get wrong is a SpecError with its line. No torch.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nag.interpolants import PREDICTIONS
from nag.noise_level import NoiseShift
from nag.registry import METHODS, find, name_of
from nag.training import Training
from orchestrator.axes import (
    MAX_CELLS,
    Axis,
    at_ends,
    check_grids,
    expand,
    merge,
    named,
    no_repeats,
)
from orchestrator.errors import unknown
from orchestrator.methods import Builder, not_available
from orchestrator.params import Scalar, axis_keys, on_axes, overridden, written
from orchestrator.smoke import smoked, spread
from orchestrator.sweep import Arm, Cell, Network, Sample, Score, Sweep
from orchestrator.yaml_text import Node, parse, read_text, show

Build = Callable[[Node], Any]
Shrink = Callable[[list[Any]], list[Any]]

SWEEP_KEYS = ("name", "networks", "network", "sampler", "sample", "score", "measure", "arms")
NETWORK_KEYS = ("data", "model", "interpolant", "predicts", "train")
FAMILY = {"data": "datasets", "model": "models", "interpolant": "interpolants"}
NETWORK_KEYS_LATER = ("checkpoint", "family", "init")
ARM_KEYS = ("network", "sampler", "sample", "against")
DROPOUT = {"null_noise": "noise_dropout", "null_class": "class_dropout"}  # what teaches a network a null condition
SAMPLER_EXAMPLE = "{name: euler, steps: 10}"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


def read_sweep(path: str | Path, smoke: bool = False) -> Sweep:
    """Read and check a sweep file. Raises BadInput for what is no such file, SpecError for what is wrong in it.

    smoke: the first and last value of each axis only, tiny networks, few samples; everything is checked all the same.
    """
    text = read_text(path)
    root = parse(text, str(path))
    root.mapping("{name: ..., networks: ..., arms: ...}")
    for key, node in root.value.items():
        if key in ("networks", "sampler", "sample", "arms"):
            check_grids(node)
    return _Reading(root, smoke).sweep(str(path), text)


class _Reading:
    """One reading of one file: what its sections share."""

    def __init__(self, root: Node, smoke: bool) -> None:
        self.root, self.smoke = root, smoke
        self.builder = Builder()
        self.networks: dict[str, list[Network]] = {}
        self.shared_axes: set[str] = set()
        self.cells: list[Cell] = []
        self.scorers: tuple[Any, ...] = ()

    def sweep(self, path: str, text: str) -> Sweep:
        root = self.root
        for key, node in root.value.items():
            if key in METHODS["guidance"]:
                raise node.error(f"guidance stands in an arm: {{arms: {{NAME: {{{key}: ...}}}}}}.")
        root.only(SWEEP_KEYS)
        for key in ("name", "networks", "arms"):
            if root.get(key) is None:
                raise root.error(f"{key!r} is missing. A sweep needs name, networks and arms.")
        score = None
        for key, node in root.value.items():  # in the order of the file, so that its first mistake is the one reported
            if key == "name":
                _check_name(node.text(), node)
            elif key == "networks":
                self.read_networks(node)
            elif node.value is None:
                continue
            elif key in ("sampler", "sample"):
                self.check_shared(key, named(node))
            elif key == "score":
                score = self.score(node)
                self.scorers = score.metrics
        measure = self.measure(root.value["measure"]) if root.get("measure") else (None, None)
        arms = self.read_arms(root.value["arms"])
        name = root.value["name"].value + ("-smoke" if self.smoke else "")
        return Sweep(name, path, text, arms, tuple(self.cells), score, frozenset(self.shared_axes), *measure)

    def points(self, node: Node, build: Build, shrink: Shrink) -> tuple[list[Axis], list[tuple[Any, Node]]]:
        """The axes below `node`, and for every combination what `build` makes of it, with its node."""
        axes, points = expand(node)
        built = [build(point.node) for point in points]
        no_repeats(axes, points, built)
        nodes = [point.node for point in points]
        if self.smoke:
            kept = [place for place, point in enumerate(points) if at_ends(axes, point)]
            built, nodes = shrink([built[place] for place in kept]), [nodes[place] for place in kept]
        return axes, list(zip(built, nodes, strict=True))

    def read_networks(self, node: Node) -> None:
        for name, entry in node.mapping("{sit: {data: ..., model: ..., train: ...}}").items():
            _check_name(name, entry)
            for key, child in entry.mapping("{data: ..., model: ..., train: ...}").items():
                if key in NETWORK_KEYS_LATER:
                    raise not_available(child, key)
            entry.only(NETWORK_KEYS)
            for key in ("data", "model", "train"):
                if entry.get(key) is None:
                    raise entry.error(f"{key!r} is missing. A network needs data, model and train.")
            axes, found = self.points(entry, functools.partial(self.network, name), _shrink_networks)
            self.networks[name] = [
                dataclasses.replace(network, axes=on_axes("", axes, point, network)) for network, point in found
            ]
            self.shared_axes |= axis_keys("", axes)
        if not self.networks:
            raise node.error("there is no network. One is {sit: {data: ..., model: ..., train: ...}}.")

    def network(self, name: str, node: Node) -> Network:
        parts: dict[str, Any] = {"interpolant": find("interpolants", "linear")(), "predicts": "velocity"}
        for key, child in node.value.items():
            match key:
                case "train":
                    parts[key] = self.builder.fields(Training, child)
                case "predicts":
                    parts[key] = child.text()
                    if parts[key] not in PREDICTIONS:
                        raise child.error(unknown("prediction", parts[key], PREDICTIONS))
                case _:
                    parts[key] = self.builder.method(FAMILY[key], child)
        try:
            parts["model"].fits(parts["data"].shape)
        except ValueError as error:
            raise node.value["model"].error(f"{error}.") from None
        return Network(name=name, **parts)

    def check_shared(self, key: str, node: Node) -> None:
        """Check a top-level section by itself; a sampler may still lack what every arm adds."""
        axes, points = expand(node)
        for point in points:
            if key == "sample":
                self.builder.fields(Sample, point.node)
            elif isinstance(point.node.value, str) or "name" in point.node.mapping(SAMPLER_EXAMPLE):
                self.builder.method("samplers", point.node, partly=True)
        self.shared_axes |= axis_keys(key, axes)

    def score(self, node: Node) -> Score:
        for key, child in node.mapping("{features: [...], metrics: [...]}").items():
            if key == "reference":
                raise not_available(child, key)
        node.only(("features", "metrics"))
        found: dict[str, list[Any]] = {}
        for family in ("features", "metrics"):
            listed = node.get(family)
            if listed is None:
                raise node.error(f"{family!r} is missing. Known: {', '.join(sorted(METHODS[family]))}.")
            found[family] = []
            for item in listed.entries(f"[{', '.join(METHODS[family])}]"):
                scorer = self.builder.method(family, item)
                if name_of(scorer) in map(name_of, found[family]):
                    raise item.error(f"{name_of(scorer)!r} is in the list already.")
                if family == "metrics":
                    _check_fed(scorer, found["features"], item)
                found[family].append(scorer)
        features = smoked(found["features"]) if self.smoke else found["features"]
        return Score(tuple(features), tuple(found["metrics"]))

    def measure(self, node: Node) -> tuple[NoiseShift, Network]:
        method = self.builder.method("measures", node)
        place, name = node.value["estimator"], method.estimator
        able = [known for known, found in self.networks.items() if not found[0].model.generates]
        if name not in able:
            if name in self.networks:
                model = name_of(self.networks[name][0].model)
                raise place.error(f"{name!r} is a {model} network; an estimator's model is noise_level. Known: {able}.")
            raise place.error(unknown("estimator", name, able))
        if len(self.networks[name]) > 1:
            raise place.error(f"{name!r} has axes; one estimator measures all cells.")
        return (method.smoke() if self.smoke else method), self.networks[name][0]

    def read_arms(self, node: Node) -> tuple[Arm, ...]:
        entries = node.mapping("{plain: {}, cfg: {cfg: {scale: 1.5}}}")
        if not entries:
            raise node.error("there is no arm. The simplest is {plain: {}}.")
        arms = []
        for name, entry in entries.items():
            _check_name(name, entry)
            if entry.value is None:
                raise entry.error("an arm that changes nothing is written {}.")
            for key, child in entry.mapping("{cfg: {scale: 1.5}}").items():
                if key == "compose" or (isinstance(child.value, dict) and "use" in child.value):
                    raise not_available(child, key if key == "compose" else "use")
            entry.only((*ARM_KEYS, *METHODS["guidance"]))
            against = self.against(name, entry, list(entries))
            overrides = self.read_cells(name, entry)
            arms.append(Arm(name, against, overrides, entry.line))
        return tuple(arms)

    def against(self, name: str, entry: Node, names: list[str]) -> str | None:
        node = entry.get("against")
        if node is None:
            return names[0] if name != names[0] else None
        if node.text() not in names:
            raise node.error(unknown("arm", node.value, names))
        if node.value == name:
            raise node.error(f"{name!r} cannot be its own baseline. Known: {', '.join(sorted({*names} - {name}))}.")
        return node.value

    def read_cells(self, arm: str, entry: Node) -> frozenset[str]:
        """Add the cells of an arm; what it overrides."""
        networks = self.networks[self.network_of(entry)]
        overrides = {"network"} if entry.get("network") else set()
        sections: dict[str, list[tuple[Any, dict[str, Scalar]]]] = {}
        for key in dict.fromkeys((*entry.value, "sampler", "sample")):
            own = entry.value.get(key)
            if key == "sampler":
                sections[key] = self.samplers(own, entry)
            elif key == "sample":
                sections[key] = self.samples(own, entry)
            elif key in METHODS["guidance"] and own is not None and own.value is not None:
                build = functools.partial(self.builder.fields, find("guidance", key))
                _, found = self.points(own, build, lambda terms: terms)
                for guidance, _ in found:
                    _check_taught(key, guidance, networks, own)
                sections[key] = [(guidance, written(key, point, guidance)) for guidance, point in found]
            if own is not None and key not in ("network", "against"):
                overrides |= overridden(key, self.root.value.get(key), own)
        self.multiply(arm, entry, networks, sections)
        return frozenset(overrides)

    def network_of(self, entry: Node) -> str:
        node = merge(self.root.value.get("network"), entry.value.get("network"))
        able = [name for name, found in self.networks.items() if found[0].model.generates]
        known = ", ".join(able)
        if node is None or node.value is None:
            if len(able) != 1:
                problem = "there are several networks; add network: NAME" if able else "no network generates samples"
                raise entry.error(f"{problem}. Known: {known or 'none'}.")
            return able[0]
        if not isinstance(node.value, str):
            raise node.error(f"expected the name of one network, got {show(node)}. Known: {known}.")
        if node.value not in able:
            raise node.error(unknown("generating network", node.value, able))
        return node.value

    def samplers(self, own: Node | None, entry: Node) -> list[tuple[Any, dict[str, Scalar]]]:
        below = self.root.get("sampler")
        node = merge(named(below) if below else None, named(own) if own else None)
        if node is None:
            known = ", ".join(sorted(METHODS["samplers"]))
            raise entry.error(f"it has no sampler; write {SAMPLER_EXAMPLE} here or at the top level. Known: {known}.")
        _, found = self.points(
            node, functools.partial(self.builder.method, "samplers"), lambda values: spread(values, "steps", 2, 3)
        )
        return [(sampler, written("sampler", point, sampler)) for sampler, point in found]

    def samples(self, own: Node | None, entry: Node) -> list[tuple[Any, dict[str, Scalar]]]:
        node = merge(self.root.get("sample"), own) or dataclasses.replace(entry, value={})
        axes, found = self.points(node, functools.partial(self.builder.fields, Sample), _shrink_samples)
        return [(sample, on_axes("sample", axes, point, sample)) for sample, point in found]

    def multiply(self, arm: str, entry: Node, networks: list[Network], sections: dict[str, Any]) -> None:
        """Every combination of networks, samplers, guidance and sample settings is a cell."""
        total = len(self.cells) + math.prod(map(len, (networks, *sections.values())))
        if total > MAX_CELLS:
            raise entry.error(f"with this arm the sweep has {total:,} cells; at most {MAX_CELLS:,} are allowed.")
        samplers, samples = sections.pop("sampler"), sections.pop("sample")
        for metric, (sample, _) in itertools.product(self.scorers, samples):
            if sample.count < metric.least:
                place = entry.get("sample") or self.root.get("sample") or entry
                raise place.error(f"{name_of(metric)!r} needs a count of at least {metric.least}, got {sample.count}.")
        guidances = []
        for combination in itertools.product(*(sections[name] for name in sorted(sections))):
            on = tuple(guidance for guidance, _ in combination if not guidance.off)
            guidances.append((on, {key: value for _, params in combination for key, value in params.items()}))
        for network, sampler, guidance, sample in itertools.product(networks, samplers, guidances, samples):
            params = {"network": network.name, **network.axes, **sampler[1], **guidance[1], **sample[1]}
            self.cells.append(Cell(arm, network, guidance[0], sampler[0], sample[0], params))


def _check_name(name: str, node: Node) -> None:
    if not NAME.fullmatch(name):
        raise node.error(f"{name!r} is no name: a letter, then up to 63 letters, digits, '_' or '-'.")


def _check_fed(metric: Any, features: list[Any], node: Node) -> None:
    """Raise unless some extractor gives all that a metric needs; labels are always there."""
    if any(metric.needs <= {"labels", *extractor.outputs} for extractor in features):
        return
    extractors: dict[str, Any] = {name: find("features", name) for name in METHODS["features"]}
    able = [name for name, extractor in extractors.items() if metric.needs <= {"labels", *extractor.outputs}]
    needs = " and ".join(sorted(metric.needs - {"labels"}))
    fix = f"Add one of: {', '.join(able)}." if able else "None does."
    raise node.error(f"{name_of(metric)!r} needs {needs}, which none of these features gives. {fix}")


def _check_taught(name: str, guidance: Any, networks: list[Network], node: Node) -> None:
    """Raise where a guidance asks for a null condition that a network never met in its training."""
    for network in networks:
        for need in sorted(guidance.needs) if not guidance.off else ():
            if not getattr(network.train, DROPOUT[need]):
                raise node.error(
                    f"{name!r} needs a network that has learned the {need.replace('_', ' ')} condition: "
                    f"set networks.{network.name}.train.{DROPOUT[need]} above 0 (it is 0), such as 0.1."
                )


def _shrink_networks(networks: list[Network]) -> list[Network]:
    models = smoked([network.model for network in networks])
    trainings = smoked([network.train for network in networks])
    return [
        dataclasses.replace(network, model=model, train=train)
        for network, model, train in zip(networks, models, trainings, strict=True)
    ]


def _shrink_samples(samples: list[Sample]) -> list[Sample]:
    return spread(spread(samples, "count", 32, 48), "block", 16, 8)
