"""Cells of one training seed share the noise of their samples, whatever their network and guidance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.plan.make import plan
from orchestrator.plan.model import Plan
from orchestrator.report.comparisons import compare
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from orchestrator.tasks.sample import seed_of
from tests.orchestrator.conftest import run_here
from tests.orchestrator.synthetic import made

SWEEP = """\
name: kin
networks:
  sit:
    data: {name: digits}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 2, batch: 16, noise_dropout: 0.2, seed: {grid: [0, 1, 2]}}
  other:
    data: {name: digits}
    model: {name: sit, hidden: 8, depth: 1, heads: 2, patch: 4}
    train: {steps: 2, batch: 16, noise_dropout: 0.2, seed: {grid: [0, 1, 2]}}
  weak:
    data: {name: digits}
    model: {name: sit, hidden: 8, depth: 1, heads: 1, patch: 4}
    train: {steps: 1, batch: 16, seed: 7}
  inherits:
    init: sit
    data: {name: digits}
    train: {steps: 1, batch: 16, noise_dropout: 0.2}
  fixed:
    init: sit
    data: {name: digits}
    train: {steps: 1, batch: 16, seed: 5}
  one:
    data: {name: digits}
    model: {name: sit, hidden: 8, depth: 1, heads: 1, patch: 4}
    train: {steps: 1, batch: 16}
  tuned:
    init: one
    data: {name: digits}
    train: {steps: 1, batch: 16, seed: {grid: [0, 1, 2]}}
network: sit
sampler: {name: euler, steps: 2}
sample: {count: 40, block: 20, seed: {grid: [3, 4]}}
arms:
  plain: {}
  nag: {nag: {scale: {grid: [1.0, 2.0]}}}
  steps: {sampler: {name: euler, steps: 3}}
  other: {network: other}
  auto: {autoguidance: {scale: 1.5, reference: weak}}
  inherits: {network: inherits}
  fixed: {network: fixed}
  one: {network: one}
  tuned: {network: tuned}
"""


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    path = tmp_path_factory.mktemp("kin") / "sweep.yaml"
    path.write_text(SWEEP)
    return plan(read_sweep(path))


def seeds(planned: Plan, arm: str, sample_seed: int) -> dict[int | None, int]:
    """The noise seeds of an arm, by training seed."""
    found = {}
    for one in planned.cells:
        params = one.cell.params
        if one.cell.arm == arm and params["sample.seed"] == sample_seed:
            training = next((int(v) for k, v in params.items() if k.endswith("train.seed")), None)
            found.setdefault(training, set()).add(seed_of(planned.tasks[one.stream]))
    assert all(len(several) == 1 for several in found.values()), "cells of one arm and seed differ"
    return {training: next(iter(several)) for training, several in found.items()}


def test_arms_share_noise_within_a_training_seed_and_trainings_do_not(planned: Plan) -> None:
    plain = {k: seeds(planned, "plain", k) for k in (3, 4)}
    assert len({seed for found in plain.values() for seed in found.values()}) == 6
    for arm in ("nag", "steps", "other", "auto", "inherits", "tuned"):
        assert {k: seeds(planned, arm, k) for k in (3, 4)} == plain, arm


def test_without_a_training_seed_or_with_seed_0_it_is_the_sample_seed(planned: Plan) -> None:
    assert seeds(planned, "one", 3) == {None: 3}
    assert seeds(planned, "plain", 4)[0] == 4


def test_a_seed_of_its_own_on_a_seed_of_its_parent_is_another_replicate(planned: Plan) -> None:
    fixed, plain = seeds(planned, "fixed", 3), seeds(planned, "plain", 3)
    assert len({*fixed.values(), *plain.values()}) == 6


def test_a_seed_on_an_axis_or_written_alone_is_the_same_stream(planned: Plan, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP.replace("seed: {grid: [0, 1, 2]}", "seed: 2").replace("seed: {grid: [3, 4]}", "seed: 4"))
    alone = {one.stream for one in plan(read_sweep(path)).cells if one.cell.arm == "plain"}
    assert alone < {one.stream for one in planned.cells}


def test_a_checkpoint_shares_noise_with_seed_0(tmp_path: Path, write: Callable[..., Path]) -> None:
    score = "score: {features: [pixels, {name: digits, steps: 5}], metrics: [fid, precision_recall, class_accuracy]}\n"
    ran = run_here(write(score, ""), tmp_path / "store")
    trained = next(digest for digest, task in ran.plan.tasks.items() if task.kind == "train")
    (tmp_path / "net.safetensors").write_bytes(ran.store.read(f"files/{trained}/network.safetensors"))
    text = """\
name: loaded
networks: {net: {checkpoint: net.safetensors, data: {name: digits}}}
sampler: {name: euler, steps: 2}
sample: {count: 40, block: 20, seed: 9}
arms: {plain: {}}
"""
    (tmp_path / "loaded.yaml").write_text(text)
    loaded = plan(read_sweep(tmp_path / "loaded.yaml"))
    assert seed_of(loaded.tasks[loaded.cells[0].stream]) == 9


def test_partners_in_a_report_sample_from_the_same_noise(tmp_path: Path) -> None:
    """In each pair of a comparison both have the same noise seed, and no two pairs share one."""
    results, store = made(tmp_path)
    assert isinstance(store, Store)
    for row in compare(results, store):
        assert row.interval == "t"
    by_pair: dict[object, set[int]] = {}
    for one in results.plan.cells:
        by_pair.setdefault(one.cell.params["train.seed"], set()).add(seed_of(results.plan.tasks[one.stream]))
    assert [len(found) for found in by_pair.values()] == [1, 1, 1]
    assert len(set.union(*by_pair.values())) == 3
