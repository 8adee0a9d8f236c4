"""The `tune` and `compare` sections of a sweep: how settings are chosen, and when an arm beats its baseline."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from nag.training import Training
from orchestrator.errors import unknown
from orchestrator.spec.construct import MethodBuilder
from orchestrator.spec.grid import TUNE, tuned_below
from orchestrator.spec.model import Compare, Sample, Tune
from orchestrator.spec.yaml_nodes import Node, is_number, show

SMOKE_COUNT = 32
COMPARE_KEYS = ("margin", "agree")
EXAMPLE = "a number in the metric's unit, or a percentage of the baseline's value such as 1.3 %"
PERCENTAGE = re.compile(r"(.+?)\s*%")


def check_tuned(root: Node) -> None:
    """Raise for a tuned value in a sweep that does not say how to choose, or where nothing is chosen."""
    for key in ("networks", "sampler", "arms", "sample"):
        for tuned in tuned_below(root.value[key]) if root.get(key) else ():
            if key == "sample" or ".sample." in f".{tuned.path}.":
                raise tuned.error("sample settings are not tuned; write a number, or {grid: [..., ...]}.")
            if _is_seed(tuned):
                raise tuned.error("a training seed is not tuned, its spread is noise; write {grid: [..., ...]}.")
            if root.get("tune") is not None:
                continue
            raise tuned.error(
                "how to choose is missing: add a section such as tune: {metric: fid, seed: 1, count: 5000}."
            )


def _is_seed(tuned: Node) -> bool:
    """Whether a tuned value is a training seed, or trainings of several seeds."""
    values = tuned.value[TUNE].value
    trainings = [one for one in values if isinstance(one.value, dict)] if isinstance(values, list) else []
    seeds = {one.value["seed"].value if "seed" in one.value else Training.seed for one in trainings}
    return tuned.path.endswith(".train.seed") or (tuned.path.endswith(".train") and len(seeds) > 1)


def read_tune(
    node: Node, builder: MethodBuilder, metrics: Mapping[str, Any], samples: Sequence[Sample], smoke: bool = False
) -> Tune:
    """metrics: by reported name. samples: those of all arms, whose seeds are for the comparison alone."""
    from nag.search import rungs

    tune: Tune = builder.fields(Tune, node)
    if not metrics:
        raise node.error("a sweep without a score section chooses nothing; add score, or remove this section.")
    if tune.metric and tune.metric not in metrics:
        raise node.value["metric"].error(unknown("metric", tune.metric, metrics))
    if any(tune.seed == sample.seed for sample in samples):
        place = node.value.get("seed", node)
        raise place.error(
            f"the seed {tune.seed} is also a sample.seed, but settings must not be chosen on the samples that compare "
            "them. Give another seed."
        )
    tune = dataclasses.replace(tune, metric=tune.metric or next(iter(metrics)))
    least, few = metrics[tune.metric].least, min(rungs(tune.count, sample.block)[0] for sample in samples)
    if least > few:
        raise node.value.get("count", node).error(
            f"{tune.metric!r} needs at least {least:,} samples, but a race begins with {few:,} of {tune.count:,}; "
            "raise the count."
        )
    return dataclasses.replace(tune, count=min(tune.count, SMOKE_COUNT)) if smoke else tune


def read_compare(node: Node | None, metrics: Sequence[str], deciding: str | None) -> Compare:
    """metrics: the reported names. deciding: the one that verdicts are by."""
    compare = Compare()
    if node is None:
        return compare
    node.mapping("{margin: 1.3 %}")
    node.only(COMPARE_KEYS)
    if (given := node.get("margin")) is not None:
        margin, relative = _margin(given)
        compare = dataclasses.replace(compare, margin=margin, relative=relative)
    if (listed := node.get("agree")) is None:
        return compare
    names: list[str] = []
    for item in listed.entries("[fid_dinov2, recall]"):
        if item.text() not in metrics:
            raise item.error(unknown("metric", item.value, metrics))
        if item.value in names:
            raise item.error(f"{item.value!r} is in the list already.")
        if item.value == deciding:
            raise item.error(
                f"verdicts are by {deciding!r} itself, so it cannot object to one; remove it, or list other metrics."
            )
        names.append(item.value)
    return dataclasses.replace(compare, agree=tuple(names))


def _margin(node: Node) -> tuple[float, bool]:
    """The margin, and whether it is a share of the baseline's value."""
    value = node.value
    matched = PERCENTAGE.fullmatch(value) if isinstance(value, str) else None
    if matched and is_number(matched[1]):
        value = float(matched[1])
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise node.error(f"expected {EXAMPLE}, got {show(node)}.")
    if not (math.isfinite(value) and value > 0):
        raise node.error(f"expected {EXAMPLE}, above 0, got {show(node)}.")
    return (float(Decimal(str(value)) / 100), True) if matched else (float(value), False)
