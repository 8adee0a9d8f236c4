"""The noise shift as a task, from YAML to report: labels, response, mode, and what finer steps leave of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nag.noise_shift import of_classes
from orchestrator.report.figures.colours import Colours
from orchestrator.report.figures.drawing import styled
from orchestrator.report.figures.shift import noise_shift, parts
from orchestrator.report.results import collect, shift_arrays
from orchestrator.store.arrays import pack
from orchestrator.store.layout import file_name
from orchestrator.store.store import Store
from orchestrator.tasks.context import Context
from orchestrator.tasks.measure_shift import READINGS
from orchestrator.tasks.outputs import read_block
from tests.orchestrator.conftest import Ran, run_here

SWEEP = """\
name: shift
networks:
  sit:
    data: {name: digits}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 30, batch: 16, lr: 1e-2, class_dropout: 0.2}
  meter:
    data: {name: digits}
    model: {name: noise_level, hidden: 32, depth: 1, heads: 2, patch: 2, bins: 20}
    train: {steps: 60, batch: 32, lr: 1e-2}
network: sit
sampler: {name: euler, steps: 5}
sample: {count: 40, block: 20}
measure: {name: noise_shift, estimator: meter, count: 30, finer: 2}
arms:
  plain: {}
  cfg: {cfg: {scale: 1.5}}
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("shift")
    (folder / "sweep.yaml").write_text(SWEEP)
    ran = run_here(folder / "sweep.yaml", folder / "store")
    assert not ran.failed
    return ran


def test_from_a_sweep_to_its_records(ran: Ran) -> None:
    for cell in ran.document()["cells"]:
        shift, score = cell["shift"], cell["metrics"]["shift_mean"]
        assert shift["t"] == shift["mode"]["t"] == shift["finer"]["t"] == pytest.approx([0.8, 0.6, 0.4, 0.2])
        assert score["low"] < score["value"] < score["high"]
        assert score["value"] == pytest.approx(np.mean(shift["delta"]))
        assert min(shift["response"]) > 0.1
        finer = shift["finer"]
        assert np.allclose(np.add(finer["delta"], finer["discretisation"]), shift["delta"])
        assert finer["times"] == 2
        arrays = shift_arrays(ran.store, shift["task"])
        assert arrays is not None
        assert {arrays[name].shape for name in ("sampled", "true", "response", "sampled_mode")} == {(4, 30)}
        delta = (arrays["sampled"] - arrays["true"]).mean(axis=1) / arrays["response"].mean(axis=1)
        assert shift["delta"] == pytest.approx(delta, abs=1e-5)
    assert READINGS == ("mean", "mode")


def test_true_states_have_the_labels_of_the_samples(ran: Ran) -> None:
    task = next(task for task in ran.plan.tasks.values() if task.kind == "measure")
    stored = [read_block(ran.store, task.params["stream"], number)[0]["labels"] for number in (0, 1)]
    labels = np.concatenate(stored)[:30]
    split = Context(ran.store).rebuild("datasets", task.params["data"]).open("train")
    assert np.array_equal(split.labels(of_classes(split, labels)), labels)


def test_it_is_drawn(ran: Ran) -> None:
    results, colours = collect(ran.plan, ran.store), Colours(("plain", "cfg"))
    with styled():
        whole, split = noise_shift(results, colours), parts(results, colours)
    assert whole is not None
    assert "by the mode of the posterior" in whole.caption
    assert split is not None
    assert "left with 2 times the steps" in split.caption


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: {"other": arrays.pop("sampled"), **arrays},
        lambda arrays: arrays | {"true": arrays["true"][:3]},
        lambda arrays: arrays | {"t": arrays["t"][:, None]},
    ],
)
def test_arrays_that_are_not_those_of_a_shift_are_none(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    store = Store(str(tmp_path / "store"))
    arrays = {name: np.zeros((4, 30), np.float32) for name in ("sampled", "true")} | {"t": np.zeros(4, np.float32)}
    for task, stored in {"whole": arrays, "changed": change(dict(arrays))}.items():
        store.create(file_name(task, "shift.safetensors"), pack(stored, {}))
    assert shift_arrays(store, "whole") is not None
    assert shift_arrays(store, "changed") is None
