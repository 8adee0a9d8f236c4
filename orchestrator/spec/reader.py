"""Read and check a sweep file, and expand it into cells.

Names of methods come from nag.registry; every mistake in the file is a SpecError with its line. torch is not imported.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nag.numerics import Precision
from nag.registry import METHODS, find, name_of
from orchestrator.errors import BadInput, unknown
from orchestrator.spec import equal_price, user_code
from orchestrator.spec.classes import check_classes
from orchestrator.spec.combinations import Choosable, combined, parameters_of
from orchestrator.spec.construct import MethodBuilder
from orchestrator.spec.decision import check_tuned, read_compare, read_tune
from orchestrator.spec.fit import (
    check_guidance,
    check_reference_taught,
    check_references,
    check_sampler,
    check_taught,
)
from orchestrator.spec.grid import (
    MAX_CELLS,
    METHOD_KEYS,
    as_mapping,
    built_at,
    check_axes,
    expand,
    merge,
    uses,
    written_out,
)
from orchestrator.spec.match import check_matches, take_match
from orchestrator.spec.measure_section import check_measured, deciding_names, read_measures
from orchestrator.spec.model import KEEP, Arm, Cell, Network, Sample, Sweep
from orchestrator.spec.networks import LOADED, TRAINED, TUNED, Networks, check_name, points
from orchestrator.spec.overrides import noted, tree_of
from orchestrator.spec.paper_values import read_paper
from orchestrator.spec.parameters import axis_keys, axis_params, overridden, params_of, tuned_keys
from orchestrator.spec.score_section import check_cells, deciders, read_score, smoke_reference
from orchestrator.spec.smoke import spread
from orchestrator.spec.user_code import StandIn
from orchestrator.spec.yaml_nodes import Node, read_text, show

SWEEP_KEYS = (
    *("name", "networks", "network", "sampler", "sample", "score", "measure", "precision", "keep"),
    *("published", "tune", "compare", "arms"),
)
ARM_KEYS = ("network", "sampler", "sample", "against", "compose")
COMPOSE = ("sum", "nested")
KIND_OF = {
    "generator": "generating network",
    "level": "noise_level network",
    "residual": "noise_level_residual network",
}
SAMPLER_EXAMPLE = "{name: euler, steps: 10}"


def read_sweep(
    path: str | Path,
    smoke: bool = False,
    run_user_code: bool = True,
    text: str | None = None,
    overrides: Sequence[str] = (),
) -> Sweep:
    """Read and check a sweep file. Raises BadInput for an invalid file, SpecError for a mistake in it.

    smoke: only the first and last value of each axis, tiny networks, few samples; the whole file is still checked.
    run_user_code: import the files that `use` names; otherwise they are only parsed, and the sweep cannot be run.
    text: use this text instead of the file, which may have been edited since.
    overrides: values in place of the file's, such as `sample.count=100` (orchestrator/spec/overrides.py).
    """
    text = read_text(path) if text is None else text
    root = tree_of(text, str(path), overrides)
    root.mapping("{name: ..., networks: ..., arms: ...}")
    with_axes = {key: node for key, node in root.value.items() if key in ("networks", "sampler", "sample", "arms")}
    for node in with_axes.values():
        check_axes(node)
    check_tuned(root)
    written = {key: written_out(node, smoke) for key, node in with_axes.items()}
    root = dataclasses.replace(root, value=root.value | written)
    try:
        return _Reading(root, smoke, run_user_code).sweep(str(path), text, tuple(overrides))
    except Exception as error:
        place = user_code.user_line(error)
        if place is None or isinstance(error, BadInput):
            raise
        raise BadInput(f"{place}: {type(error).__name__}: {error}") from error


class _Reading:
    """The state of reading one file, shared by its sections."""

    def __init__(self, root: Node, smoke: bool, run_user_code: bool) -> None:
        self.root, self.smoke = root, smoke
        self.builder = MethodBuilder(run_user_code)
        self.settled = equal_price.Settler()
        self.own_guidance: set[str] = set()
        self.networks: dict[str, list[Network]] = {}
        self.shared_axes: set[str] = set()
        self.cells: list[Cell] = []
        self.scorers: tuple[Any, ...] = ()
        self.estimator_name: str | None = None
        self.matches: dict[str, Node] = {}  # by arm, the node that names the arm to match

    def sweep(self, path: str, text: str, overrides: tuple[str, ...]) -> Sweep:
        root = self.root
        for key, node in root.value.items():
            if key in METHODS["guidance"]:
                raise node.error(f"guidance belongs in an arm: {{arms: {{NAME: {{{key}: ...}}}}}}.")
        root.only(SWEEP_KEYS)
        for key in ("name", "networks", "arms"):
            if root.get(key) is None:
                raise root.error(f"{key!r} is missing. A sweep needs name, networks and arms.")
        score = None
        for key, node in root.value.items():  # in file order, so that the first mistake is reported
            if key == "name":
                check_name(node.text(), node)
            elif key == "networks":
                self.networks = Networks(node, self.builder, self.smoke).instances_of
                self.shared_axes |= {key for instances in self.networks.values() for n in instances for key in n.params}
            elif node.value is None:
                continue
            elif key in ("sampler", "sample"):
                self.check_shared(key, as_mapping(node))
            elif key == "score":
                score = read_score(node, self.builder, self.smoke)
                self.scorers = score.metrics
            elif key == "keep" and node.text() not in KEEP:
                raise node.error(unknown("value of keep", node.value, KEEP))
        measure = root.get("measure")
        measures, estimator = read_measures(measure, self.builder, self.networks, self.smoke) if measure else ((), None)
        self.estimator_name = estimator.name if estimator else None
        given = root.get("precision")
        precision = self.builder.fields(Precision, given) if given else Precision()
        arms = self.read_arms(root.value["arms"])
        keep = root.value["keep"].value if root.get("keep") else KEEP[0]
        if measure:
            check_measured(measures, self.cells, measure)
        if score is not None:
            score = smoke_reference(score, self.cells) if self.smoke else score
            check_cells(score, self.cells, root.value["score"])
            check_classes(score, self.cells, root.value["score"], self.smoke)
        elif keep != KEEP[0]:
            raise root.value["keep"].error("a sweep without a score section always keeps samples; remove this key.")
        paper = None
        if (node := root.get("published")) is not None:
            paper = read_paper(node, [arm.name for arm in arms], self.cells, score, whole=not self.smoke)
        metrics, deciding = deciders(score)
        tune = None
        if (node := root.get("tune")) is not None:
            tune = read_tune(node, self.builder, metrics, [cell.sample for cell in self.cells], self.smoke)
        compare = read_compare(root.get("compare"), [*metrics, *deciding_names(measures)], deciding)
        name = root.value["name"].value + ("-smoke" if self.smoke else "")
        return Sweep(
            name=name,
            path=path,
            text=noted(text, overrides),
            overrides=overrides,
            arms=arms,
            cells=tuple(self.cells),
            score=score,
            shared_axes=frozenset(self.shared_axes),
            guidance=frozenset(METHODS["guidance"]) | self.own_guidance,
            measures=measures,
            estimator=estimator,
            precision=precision,
            keep=keep,
            code=self.builder.code,
            paper=paper,
            tune=tune,
            compare=compare,
            protocol=score.protocol.name if score and score.protocol else None,
        )

    def check_shared(self, key: str, node: Node) -> None:
        """Check a top-level section. Its sampler may be incomplete: arms can add fields."""
        axes, points = expand(node)

        def build(point: Node) -> None:
            if key == "sample":
                self.builder.fields(Sample, point)
            elif isinstance(point.value, str) or METHOD_KEYS & point.mapping(SAMPLER_EXAMPLE).keys():
                equal_price.read(self.builder, point, partly=True)

        built_at(axes, points, build)
        self.shared_axes |= axis_keys(key, axes)

    def read_arms(self, node: Node) -> tuple[Arm, ...]:
        entries = node.mapping("{plain: {}, cfg: {cfg: {scale: 1.5}}}")
        if not entries:
            raise node.error("it is empty. The simplest arm is {plain: {}}.")
        arms = []
        for name, entry in entries.items():
            check_name(name, entry)
            if entry.value is None:
                raise entry.error("an arm that changes nothing is {}.")
            own = {key for key, child in entry.mapping("{cfg: {scale: 1.5}}").items() if uses(child)} - {*ARM_KEYS}
            for key in own:
                self.check_own(key, entry.value[key])
            self.own_guidance |= own
            entry.only((*ARM_KEYS, *METHODS["guidance"], *own))
            against = self.against(name, entry, list(entries))
            overrides = self.read_cells(name, entry)
            arms.append(Arm(name, against, overrides, entry.line))
        check_matches(self.matches, [*entries], self.cells)
        return tuple(arms)

    def check_own(self, name: str, node: Node) -> None:
        """Check the name of a user's own guidance: it prefixes parameter keys, so it must be unique."""
        check_name(name, node)
        if name in {"train", *TRAINED, *TUNED, *LOADED, *METHODS["guidance"], *self.networks}:
            what = "a network of this sweep" if name in self.networks else "a name of nagbench"
            raise node.error(f"{name!r} is {what}; give your guidance another name.")

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
        """Add the cells of an arm. Returns the parameter keys that it overrides."""
        networks = self.networks[self.network_of(entry)]
        overrides = {"network"} if entry.get("network") else set()
        sections: dict[str, list[Choosable]] = {}
        for key in dict.fromkeys((*entry.value, "sampler", "sample")):
            own = entry.value.get(key)
            if key == "sampler":
                own = equal_price.replacing(self.root.value.get(key), own)
                sections[key] = self.samplers(own, entry)
            elif key == "sample":
                sections[key] = self.samples(own, entry)
            elif key not in ARM_KEYS and own is not None and own.value is not None:
                own, match = take_match(key, own)
                if match is not None:
                    self.matches[arm] = match
                sections[key] = self.guidance(key, own)
                for guidance, _, _ in sections[key]:
                    check_taught(key, guidance, networks, own)
                    self.check_reference(key, guidance, own)
            if own is not None and key not in ("network", "against", "compose"):
                overrides |= overridden(key, self.root.value.get(key), own)
        self.multiply(arm, entry, networks, sections)
        return frozenset(overrides)

    def guidance(self, key: str, node: Node) -> list[Choosable]:
        if key in METHODS["guidance"]:
            build = functools.partial(self.builder.fields, find("guidance", key))
        else:
            build = functools.partial(self.builder.used, "guidance")
        axes, built = points(node, build, _shrink_guidance, self.smoke)
        guidance = []
        for method, point, picks in built:
            params = params_of(key, point, method)
            params.pop(key, None)  # a user's file is a parameter only if it is on an axis
            params = axis_params(key, axes, point, method) | params
            guidance.append(Choosable(method, params, tuned_keys(key, picks)))
        return guidance

    def network_of(self, entry: Node) -> str:
        node = merge(self.root.value.get("network"), entry.value.get("network"))
        able = [name for name, instances in self.networks.items() if instances[0].generates]
        known = ", ".join(able)
        if node is None or node.value is None:
            if len(able) != 1:
                problem = "there are several networks; add network: NAME" if able else "no network generates samples"
                raise entry.error(f"{problem}. Known: {known or 'none'}.")
            return able[0]
        if not isinstance(node.value, str):
            raise node.error(f"expected the name of one network, got {show(node)}. Known: {known}.")
        if node.value not in able:
            kind = "generating network" if node.value in self.networks else "network"
            raise node.error(unknown(kind, node.value, able))
        return node.value

    def samplers(self, own: Node | None, entry: Node) -> list[Choosable]:
        below = self.root.get("sampler")
        node = merge(as_mapping(below) if below else None, as_mapping(own) if own else None)
        if node is None:
            known = ", ".join(sorted(METHODS["samplers"]))
            fix = f"add sampler: {SAMPLER_EXAMPLE} here or at the top level"
            raise entry.error(f"it has no sampler; {fix}. Known: {known}.")
        _, built = points(
            node,
            functools.partial(equal_price.read, self.builder),
            _shrink_samplers,
            self.smoke,
        )
        return [
            Choosable(sampler, equal_price.params(point, sampler), tuned_keys("sampler", picks))
            for sampler, point, picks in built
        ]

    def samples(self, own: Node | None, entry: Node) -> list[Choosable]:
        node = merge(self.root.get("sample"), own) or dataclasses.replace(entry, value={})
        axes, built = points(node, functools.partial(self.builder.fields, Sample), _shrink_samples, self.smoke)
        return [Choosable(sample, axis_params("sample", axes, point, sample), {}) for sample, point, _ in built]

    def multiply(self, arm: str, entry: Node, networks: list[Network], sections: dict[str, Any]) -> None:
        """Add a cell for every combination of networks, samplers, guidance and sample settings."""
        total = len(self.cells) + math.prod(map(len, (networks, *sections.values())))
        if total > MAX_CELLS:
            raise entry.error(f"with this arm the sweep has {total:,} cells; at most {MAX_CELLS:,} are allowed.")
        samplers, samples = sections.pop("sampler"), sections.pop("sample")
        for metric, (sample, _, _) in itertools.product(self.scorers, samples):
            if sample.count < metric.least:
                place = entry.get("sample") or self.root.get("sample") or entry
                raise place.error(f"{name_of(metric)!r} needs a count of at least {metric.least}, got {sample.count}.")
        compose = self.compose(entry, [guidance for name in sections for guidance, _, _ in sections[name]])
        for network, sampler, guidance, sample in itertools.product(networks, samplers, combined(sections), samples):
            for references in self.references(guidance.method, network):
                steady = self.settled(sampler.method, arm, network, guidance.method, references, compose)
                check_sampler(network, steady, entry.get("sampler") or self.root.get("sampler") or entry)
                check_guidance(network, steady, guidance.method, compose, entry)
                check_references(network, guidance.method, references, entry)
                of_references, tuned = parameters_of(references, network)
                params = {
                    **{"network": network.name, **network.params, **of_references},
                    **sampler.params,
                    **guidance.params,
                    **({} if compose == "sum" else {"compose": compose}),
                    **sample.params,
                }
                tuned = {**network.tuned, **tuned, **sampler.tuned, **guidance.tuned}
                match = self.matches[arm].text() if arm in self.matches else None
                params |= {"cfg.scale": f"match {match}"} if match else {}
                methods = guidance.method, steady, sample.method
                self.cells.append(Cell(arm, network, *methods, params, references, compose, tuned, match))

    def compose(self, entry: Node, guidance: list[Any]) -> str:
        node = entry.get("compose")
        if node is None:
            return "sum"
        if node.text() not in COMPOSE:
            raise node.error(unknown("value of compose", node.value, COMPOSE))
        read_only = any(isinstance(each, StandIn) for each in guidance)
        if node.value == "nested" and not read_only and len({each.nests for each in guidance}) < 2:
            names = ", ".join(sorted({name_of(each) for each in guidance})) or "no guidance"
            raise node.error(
                "nested puts one guidance inside the branches of another, such as nag inside cfg; "
                f"this arm has {names}."
            )
        return node.value

    def check_reference(self, key: str, guidance: Any, node: Node) -> None:
        """Raise if the network that a guidance names is missing, of the wrong kind, or the estimator of `measure`."""
        if guidance.reference is None:
            return
        place = node.value.get("reference", node)
        able = [name for name, instances in self.networks.items() if instances[0].role == guidance.asks]
        if guidance.reference not in able:
            raise place.error(unknown(KIND_OF[guidance.asks], guidance.reference, able))
        if self.estimator_name == guidance.reference:
            fix = "train another network"
            raise place.error(f"{guidance.reference!r} measures the noise shift, so it cannot also guide; {fix}.")
        check_reference_taught(key, guidance, self.networks[guidance.reference], place)

    def references(self, guidance: tuple[Any, ...], network: Network) -> list[dict[str, Network]]:
        """Every choice of instances for the networks that guidance names, consistent with the cell's own lineage."""
        names = sorted({g.reference for g in guidance if g.reference is not None})
        own = {n.name: n for n in network.lineage}
        choices = itertools.product(*([own[name]] if name in own else self.networks[name] for name in names))
        return [
            dict(zip(names, chosen, strict=True))
            for chosen in choices
            if all(own.get(n.name, n) is n for other in chosen for n in other.lineage)
        ]


def _shrink_guidance(guidance: list[Any]) -> list[Any]:
    return [each if isinstance(each, StandIn) else each.smoke() for each in guidance]


def _shrink_samplers(samplers: list[Any]) -> list[Any]:
    return spread(spread(samplers, "steps", 2, 3), "nfe", 6, 9)


def _shrink_samples(samples: list[Sample]) -> list[Sample]:
    return spread(spread(samples, "count", 32, 48), "block", 16, 8)
