"""The train task: killed, warned, diverging, with damaged checkpoints, in several processes."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from nag import distributed
from nag.training import Training
from orchestrator.plan.make import plan
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from orchestrator.tasks import train
from orchestrator.tasks.checkpoints import COLUMNS, training_progress
from orchestrator.tasks.context import Context, HeldElsewhere, Options
from orchestrator.tasks.task import Task
from tests.nag.together import note, noted, together

SWEEP = """\
name: trained
networks:
  sit:
    data: {name: digits}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 40, batch: 16, lr: 1e-3, noise_dropout: 0.2, class_dropout: 0.2}
sampler: {name: euler, steps: 2}
sample: {count: 40, block: 20}
arms: {plain: {}}
"""
OFTEN = Options(checkpoint_s=0.0)
SELDOM = Options(checkpoint_s=1e9)


class Stop(Exception):
    """The training was interrupted."""


def task_of(folder: Path, text: str = SWEEP) -> Task:
    """The one training of a sweep."""
    (folder / "sweep.yaml").write_text(text)
    tasks = plan(read_sweep(folder / "sweep.yaml")).tasks.values()
    (found,) = [task for task in tasks if task.kind == "train"]
    return found


def opened(folder: Path) -> Store:
    store = Store(str(folder / "store"))
    store.open()
    return store


def stops_at(step: int) -> Callable[[str, int, int], None]:
    def tell(digest: str, done: int, of: int, loss: float) -> None:
        if done == step:
            raise Stop

    return tell


def interrupted(store: Store, task: Task, step: int, options: Options = OFTEN) -> list[str]:
    """The checkpoints of a training that was stopped after a step."""
    with pytest.raises(Stop):
        train.run(Context(store, options, tell=stops_at(step)), task)
    return names(store, task, "checkpoint")


def names(store: Store, task: Task, kind: str) -> list[str]:
    return [name for name in store.list(f"files/{task.digest}") if name.startswith(kind)]


def network(store: Store, task: Task) -> bytes:
    return store.read(f"files/{task.digest}/network.safetensors")


def record(store: Store, task: Task) -> dict[str, Any]:
    return store.read_record(task.record_name)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return task_of(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("undisturbed")
    store, task = opened(folder), task_of(folder)
    train.run(Context(store, SELDOM), task)
    assert record(store, task)["resumed_at"] == 0
    return network(store, task)


def test_interrupted_and_resumed(task: Task, tmp_path: Path, undisturbed: bytes) -> None:
    """At several steps, once with a damaged newest checkpoint: the same bytes, and curves without a gap."""
    store = opened(tmp_path)
    resumed = []
    for step in (13, 26, 35):
        found = interrupted(store, task, step)
        assert 1 <= len(found) <= 2
        resumed.append(int(found[-1].removeprefix("checkpoint-").removesuffix(".safetensors")))
        assert resumed[-1] < step
        points = training_progress(store, task.digest)
        assert [point["step"] for point in points] == list(range(1, resumed[-1] + 1))
    assert resumed == sorted(resumed)
    newest = Path(store.path(f"files/{task.digest}/{found[-1]}"))
    newest.write_bytes(newest.read_bytes()[:-100])
    train.run(Context(store, SELDOM), task)
    assert network(store, task) == undisturbed
    done = record(store, task)
    assert 0 < done["resumed_at"] < resumed[-1]
    assert len(store.list(f"quarantine/files/{task.digest}")) == 1
    assert [step for step, _ in done["loss"]] == list(range(1, 41))
    assert store.list(f"files/{task.digest}") == ["network.safetensors"]
    telemetry = [dict(zip(done["telemetry"]["columns"], row, strict=True)) for row in done["telemetry"]["rows"]]
    assert done["telemetry"]["columns"] == list(COLUMNS)
    for column in ("step", "time", "device_hours"):
        assert all(a[column] < b[column] for a, b in itertools.pairwise(telemetry)), column
    assert all(point["gradient_norm"] > 0 and point["memory_gb"] > 0.01 for point in telemetry)
    assert [[int(point["step"]), point["loss"]] for point in telemetry] == done["loss"]


def test_all_checkpoints_damaged(task: Task, tmp_path: Path, undisturbed: bytes) -> None:
    """It starts again, and the record says so; also with a checkpoint in an old format."""
    store = opened(tmp_path)
    for name in interrupted(store, task, 20):
        Path(store.path(f"files/{task.digest}/{name}")).write_bytes(b"nothing")
    store.create_arrays(f"files/{task.digest}/checkpoint-000000001.safetensors", {}, {"step": 1})
    train.run(Context(store, SELDOM), task)
    assert network(store, task) == undisturbed
    assert record(store, task)["resumed_at"] == 0


def test_each_warning_is_answered_once(task: Task, tmp_path: Path, undisturbed: bytes) -> None:
    store = opened(tmp_path)
    context, seen = Context(store, SELDOM), []

    def tell(digest: str, done: int, of: int, loss: float) -> None:
        if done in (10, 30):
            context.warned.append(time.monotonic())
        if done in (19, 39):
            time.sleep(0.2)
            seen.append(names(store, task, "checkpoint"))

    context.tell = tell
    train.run(context, task)
    assert seen == [
        ["checkpoint-000000010.safetensors"],
        ["checkpoint-000000010.safetensors", "checkpoint-000000030.safetensors"],
    ]
    assert network(store, task) == undisturbed


def test_steps_go_on_while_a_checkpoint_is_written(task: Task, tmp_path: Path, undisturbed: bytes) -> None:
    """The first write takes until step 30; no other starts meanwhile, and the checkpoint is of its own step."""
    going_on, begun = threading.Event(), []

    class Slow(Store):
        def create_arrays(self, name: str, arrays: Any, record: Mapping[str, Any]) -> bool:
            begun.append(record["step"])
            assert going_on.wait(60), "the training waits for its checkpoint"
            return super().create_arrays(name, arrays, record)

    opened(tmp_path)
    context = Context(Slow(str(tmp_path / "store")), OFTEN)

    def tell(digest: str, done: int, of: int, loss: float) -> None:
        if done == 30:
            going_on.set()
        if done == 30:
            raise Stop

    context.tell = tell
    with pytest.raises(Stop):
        train.run(context, task)
    assert begun == [1]
    store = Store(str(tmp_path / "store"))
    train.run(Context(store, SELDOM), task)
    assert record(store, task)["resumed_at"] == 1
    assert network(store, task) == undisturbed


def test_a_store_that_cannot_be_written_stops_the_training(task: Task, tmp_path: Path) -> None:
    """Although a thread writes, the training gets the error of the failed write."""
    from orchestrator.errors import EnvironmentProblem

    class Full(Store):
        def create_arrays(self, name: str, arrays: Any, record: Mapping[str, Any]) -> bool:
            raise EnvironmentProblem("no space left")

    opened(tmp_path)
    with pytest.raises(EnvironmentProblem, match="no space left"):
        train.run(Context(Full(str(tmp_path / "store")), OFTEN), task)


def test_a_training_that_diverges_names_its_checkpoint(tmp_path: Path) -> None:
    task = task_of(tmp_path, SWEEP.replace("lr: 1e-3", "lr: 1e30"))
    store = opened(tmp_path)
    with pytest.raises(FloatingPointError, match=r"at step 1 of 40, .*; there is no checkpoint yet$"):
        train.run(Context(store, SELDOM), task)
    last = f"the last checkpoint is files/{task.digest}/checkpoint-000000001.safetensors$"
    with pytest.raises(FloatingPointError, match=last):
        train.run(Context(store, OFTEN), task)
    assert store.list("leases/" + task.digest) == []


def test_classes(task: Task, tmp_path: Path) -> None:
    """Fine-tuning on as many classes keeps the class table, or starts a new one; with another number it must be new."""

    class Four:
        shape, num_classes = (1, 8, 8), 4

    class Ten(Four):
        num_classes = 10

    store = opened(tmp_path)
    context = Context(store, SELDOM)
    train.run(context, task)
    parent, table = load(network(store, task)), "y_embedder.embedding_table.weight"

    def start(data: Any, **fields: Any) -> dict[str, torch.Tensor]:
        training = Training(steps=1, seed=9, **fields)
        module, model, _, predicts = train._tuned(context, task.digest, data, training)
        assert predicts == "velocity"
        new = train._new(model, data, training).state_dict()
        found = module.state_dict()
        assert all(torch.equal(found[name], parent[name]) for name in found if name not in (table, "null_noise"))
        assert found[table].shape == (data.num_classes + 1, 16)
        return {"found": found[table], "new": new[table]}

    kept = start(Ten, noise_dropout=0.1)
    assert torch.equal(kept["found"], parent[table])
    for data in (Ten, Four):
        made = start(data, class_table="new")
        assert torch.equal(made["found"], made["new"])
    made = start(Four)
    assert torch.equal(made["found"], made["new"])
    with pytest.raises(ValueError, match="10 classes, the data 4: only: null_noise would leave them untrained"):
        start(Four, only="null_noise", noise_dropout=0.1)


class ReadOnly(Store):
    def create(self, name: str, data: bytes) -> bool:
        raise AssertionError(f"{name} was written by another process than the first")


def two_processes(folder: Path, task: Task) -> None:
    """Refused because another engine has the lease; interrupted; resumed; done before; undisturbed in another store."""
    here = distributed.world()

    def context(name: str, step: int = -1) -> Context:
        store = (ReadOnly if here.rank else Store)(str(folder / name))
        return Context(store, OFTEN, tell=stops_at(step))

    said = []
    for name, step in (("held", -1), ("store", 25), ("store", -1), ("store", -1), ("other", -1)):
        try:
            train.run(context(name, step), task)
            said.append("done")
        except (HeldElsewhere, Stop, distributed.PeerFailed) as error:
            said.append(type(error).__name__)
    note(folder, here.rank, " ".join(said))


def test_two_processes(task: Task, tmp_path: Path, undisturbed: bytes) -> None:
    """Only the first one holds the lease and writes; the weights agree with one process, and resume bit for bit."""
    stores = [Store(str(tmp_path / name)) for name in ("held", "store", "other")]
    for store in stores:
        store.open()
    stores[0].create_record(f"leases/{task.digest}/000001.json", {"until": time.time() + 100, "host": "elsewhere"})
    assert together(2, two_processes, tmp_path, task) == [0, 0]
    assert noted(tmp_path, 0) == "HeldElsewhere Stop done done done"
    assert noted(tmp_path, 1) == "done PeerFailed done done done"
    assert network(stores[1], task) == network(stores[2], task)
    assert record(stores[1], task)["resumed_at"] > 0
    assert record(stores[2], task)["processes"] == 2
    weights, alone = load(network(stores[2], task)), load(undisturbed)
    assert 0 < max(float((weights[name] - alone[name]).abs().max()) for name in alone) < 1e-4
    for store in stores[1:]:
        assert store.list(f"leases/{task.digest}") == []


def test_processes_that_do_not_divide_the_batch(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is reported at once, without waiting for the others."""
    for name, value in distributed.environment(1, 3, 9).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="a global batch of 16 cannot be divided equally among 3 processes"):
        train.run(Context(opened(tmp_path), SELDOM), task)
