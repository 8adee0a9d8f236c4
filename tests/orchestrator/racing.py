"""A sweep of seconds whose arm `nag` is tuned and whose arm `matched` follows it, and what a store has of the race."""

from __future__ import annotations

from typing import Any

import numpy as np

from orchestrator.plan.choices import Choices
from orchestrator.plan.model import Choice, StoredPlan
from orchestrator.plan.progress import Done
from orchestrator.report.document import document
from orchestrator.report.results import collect
from orchestrator.store.store import Store
from tests.orchestrator.conftest import Ran, changed, metrics

# At 50, 100 and 200 samples: eight candidates, then at most four, then two.
RACE = """\
name: race
networks:
  sit:
    data: {name: digits}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 30, batch: 64, lr: 2e-3, noise_dropout: 0.15, class_dropout: 0.1}
sampler: {name: euler, steps: 4}
sample: {count: 100, block: 50, seed: 0}
tune: {metric: fid, seed: 1, count: 200}
score: {features: [pixels], metrics: [fid]}
arms:
  plain:   {}
  nag:     {nag: {scale: {tune: [1, 3, 3.5, 4, 4.5, 5, 5.5, 6]}}}
  matched: {cfg: {scale: {match: nag}}, against: nag}
"""
MATCHED = "  matched: {cfg: {scale: {match: nag}}, against: nag}\n"
BLOCK = 50
OF_A_RUN = ("started", "seconds", "host", "device", "used", "checksum")  # what two runs do not share


def few(*changes: str, values: str = "[1, 2, 4]") -> str:
    """The sweep with few candidates."""
    return changed(RACE, "[1, 3, 3.5, 4, 4.5, 5, 5.5, 6]", values, *changes)


def choice_in(plan: StoredPlan, store: Store) -> Choice:
    """The only choice of a plan, as reports tell it."""
    (choice,) = Choices(plan, store).told(Done(store))
    return choice


def choice_of(ran: Ran) -> Choice:
    return choice_in(ran.plan, ran.store)


def steps(store: Store) -> dict[str, dict[str, Any]]:
    """The records of all steps of races, without what belongs to a run."""
    names = sorted(store.list("records/select"))
    read = {name: store.read_record(f"records/select/{name}") for name in names}
    return {name: {k: v for k, v in record.items() if k not in OF_A_RUN} for name, record in read.items()}


def blocks(store: Store) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of every block of samples and features."""
    names = [f"blocks/{digest}/{name}" for digest in store.list("blocks") for name in store.list(f"blocks/{digest}")]
    return {name: store.read_arrays(name)[0] for name in names}


def result(plan: StoredPlan, store: Store) -> Any:
    """All that runs of a race must agree in: the choice, its steps, every bit of every block, and the scores."""
    bits = {
        name: {key: (str(array.dtype), array.shape, array.tobytes()) for key, array in arrays.items()}
        for name, arrays in blocks(store).items()
    }
    return choice_in(plan, store), steps(store), bits, metrics(document(collect(plan, store), store))


def result_of(ran: Ran) -> Any:
    return result(ran.plan, ran.store)
