"""The `measure` section: one measure or a list, and the mistakes in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import yaml

from nag.effective_scale import EffectiveScale
from nag.noise_shift import NoiseShift
from orchestrator.errors import BadInput
from orchestrator.spec.measure_section import check_measured
from orchestrator.spec.reader import read_sweep
from orchestrator.spec.template import schema
from orchestrator.spec.yaml_nodes import parse
from tests.orchestrator.conftest import changed

SWEEP = """\
name: measures
networks:
  sit:
    data: {name: digits}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 8, batch: 16, lr: 0.01, noise_dropout: 0.2, class_dropout: 0.2}
  meter:
    data: {name: digits}
    model: {name: noise_level, hidden: 16, depth: 1, heads: 2, patch: 4, bins: 8}
    train: {steps: 4, batch: 16}
network: sit
sampler: {name: euler, steps: 2}
sample: {count: 40, block: 20}
score: {features: [pixels], metrics: [fid]}
measure: MEASURE
arms:
  plain: {}
  nag: {nag: {scale: 1.0}}
"""
SHIFT = "{name: noise_shift, estimator: meter, count: 30}"
FORMS = {
    SHIFT: (NoiseShift("meter", 30),),
    "effective_scale": (EffectiveScale(),),
    "{name: effective_scale, count: 30}": (EffectiveScale(30),),
    "[effective_scale]": (EffectiveScale(),),
    f"[{SHIFT}, {{name: effective_scale, count: 20}}]": (NoiseShift("meter", 30), EffectiveScale(20)),
}


@pytest.mark.parametrize("text", FORMS)
def test_one_or_a_list(tmp_path: Path, text: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(changed(SWEEP, "MEASURE", text))
    sweep = read_sweep(path)
    assert sweep.measures == FORMS[text]
    assert (sweep.estimator is not None) == ("noise_shift" in text)
    jsonschema.validate(yaml.safe_load(path.read_text()), schema())
    assert all(measure.count <= 16 for measure in read_sweep(path, smoke=True).measures)


LEARNED = "'effective_scale' needs a network that has learned the null class condition: "
MISTAKES = [
    (("MEASURE", "[]"), "15: measure: expected a list such as [{name: noise_shift"),
    (("MEASURE", "effective_scal"), "15: measure: unknown name 'effective_scal'. Did you mean 'effective_scale'?"),
    (("MEASURE", "[effective_scale, noise]"), "15: measure[1]: unknown name 'noise'."),
    (
        ("MEASURE", "[effective_scale, {name: effective_scale, count: 30}]"),
        "15: measure[1]: 'effective_scale' is in the list already; remove one of the two.",
    ),
    (
        ("MEASURE", "{name: effective_scale, count: 1}"),
        "15: measure.count: expected a whole number from 2 to 10000, got 1",
    ),
    (("MEASURE", "{name: effective_scale, estimator: meter}"), "15: measure: unknown key 'estimator'. Known: count."),
    (
        (
            "sampler: {name: euler, steps: 2}",
            "sampler: {name: ddim, steps: 300}",
            "MEASURE",
            SHIFT[:-1] + ", finer: 4}",
        ),
        "15: measure: finer: 4 is 1,200 steps of 'ddim', which cannot take so many.",
    ),
    (("MEASURE", SHIFT[:-1] + ", finer: 0}"), "15: measure.finer: expected a whole number from 1 to 100, got 0."),
    (("MEASURE", "noise_shift"), "15: measure: 'estimator' is missing"),
    (("MEASURE", "{grid: [effective_scale]}"), "15: measure: an axis is not possible here"),
    (("MEASURE", "{use: ./mine.py:Mine}"), "15: measure.use: your own code is not possible here"),
    (
        ("MEASURE", "effective_scale", ", class_dropout: 0.2", ", class_dropout: 0.0"),
        f"15: measure: {LEARNED}set networks.sit.train.class_dropout above 0 (it is 0), such as 0.1.",
    ),
    (
        ("MEASURE", "effective_scale\ntune: {metric: effective_scale}"),
        "16: tune.metric: unknown metric 'effective_scale'.",
    ),
    (
        ("MEASURE", "effective_scale\ncompare: {agree: [effective_scale]}"),
        "16: compare.agree[0]: unknown metric 'effective_scale'.",
    ),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_mistakes(tmp_path: Path, changes: tuple[str, ...], message: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(changed(SWEEP, *changes))
    with pytest.raises(BadInput) as caught:
        read_sweep(path)
    assert str(caught.value).startswith(f"{path}:{message}"), caught.value


def test_what_only_the_weights_tell_is_checked_when_they_are_loaded(tmp_path: Path) -> None:
    """A checkpoint without a description may have a null class. One with a description that has none needs a
    fine-tune.
    """
    path = tmp_path / "sweep.yaml"
    path.write_text(changed(SWEEP, "MEASURE", "effective_scale"))
    sweep = read_sweep(path)
    node = parse(path.read_text(), str(path)).value["measure"]

    def cells(**fields: object) -> list[object]:
        return [replace(cell, network=replace(cell.network, checkpoint="net.pt", **fields)) for cell in sweep.cells]

    check_measured(sweep.measures, cells(learned=None), node)
    with pytest.raises(
        BadInput, match=r"its checkpoint has not; fine-tune it first: \{init: sit, .*class_dropout: 0.1"
    ):
        check_measured(sweep.measures, cells(learned=frozenset()), node)
