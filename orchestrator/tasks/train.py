"""train: the weights of a network, or of an extractor that the plan trains itself."""

from __future__ import annotations

import time
from typing import Any

from orchestrator.errors import CorruptFile
from orchestrator.tasks import Context, Task, file_name, finish, rebuild
from orchestrator.tasks.lease import lease

VERSION = 1
KEPT = 2  # training checkpoints that stay while a training runs
CURVE = 200  # points of the loss curve in the record


def run(context: Context, task: Task) -> None:
    with lease(context.store, task.digest):
        if context.store.exists(task.record_name):  # done by another engine while this one waited
            return
        if "extractor" in task.params:
            _extractor(context, task)
        else:
            _network(context, task)


def _extractor(context: Context, task: Task) -> None:
    from safetensors.torch import save

    started = time.time()
    extractor = rebuild("features", task.params["extractor"])
    split = rebuild("datasets", task.params["data"]).open("train")
    state = extractor.train(split, lambda done, of: context.tell(task.digest, done, of))
    finish(context, task, {"extractor.safetensors": save(state)}, {}, started)


def _network(context: Context, task: Task) -> None:
    from nag.checkpoint import dump_network
    from nag.training import Training, train

    started = time.time()
    params = task.params
    data, model = rebuild("datasets", params["data"]), rebuild("models", params["model"])
    interpolant = rebuild("interpolants", params["interpolant"])
    training = Training(**params["train"]["fields"])
    module = model.module(data.shape, data.num_classes, null_noise=training.noise_dropout > 0, seed=training.seed)
    checkpoints = Checkpoints(context, task.digest)
    curve: list[list[float]] = []
    every = max(1, training.steps // CURVE)

    def report(step: int, loss: float) -> None:
        if step % every == 0 or step == training.steps:
            curve.append([step, loss])
        context.tell(task.digest, step, training.steps)

    weights = train(
        module,
        data.open("train"),
        training,
        loss=model.loss(interpolant, params["predicts"]),
        num_classes=data.num_classes,
        device=context.options.device,
        resume=checkpoints.latest(),
        due=checkpoints.due,
        save=checkpoints.save,
        report=report,
    )
    network = dump_network(
        weights,
        model=model,
        interpolant=interpolant,
        predicts=params["predicts"],
        shape=data.shape,
        num_classes=data.num_classes,
        has_null_noise=training.noise_dropout > 0,
        has_null_class=training.class_dropout > 0,
    )
    record: dict[str, Any] = {"steps": training.steps, "resumed_at": checkpoints.resumed_at, "loss": curve}
    finish(context, task, {"network.safetensors": network}, record, started)
    checkpoints.clear()


class Checkpoints:
    """Numbered files of a training under way. The newest that is whole is resumed from; others are passed over."""

    def __init__(self, context: Context, digest: str) -> None:
        self.store, self.digest, self.every_s = context.store, digest, context.options.checkpoint_s
        self.written = time.monotonic()
        self.resumed_at = 0

    def _names(self) -> list[str]:
        return [name for name in self.store.list(f"files/{self.digest}") if name.startswith("checkpoint-")]

    def latest(self) -> bytes | None:
        for name in reversed(self._names()):
            path = file_name(self.digest, name)
            try:
                arrays, record = self.store.read_arrays(path)
            except CorruptFile:
                continue
            self.resumed_at = record["step"]
            return arrays["state"].tobytes()
        return None

    def due(self) -> bool:
        return time.monotonic() - self.written >= self.every_s

    def save(self, step: int, state: bytes) -> None:
        import numpy as np

        path = file_name(self.digest, f"checkpoint-{step:09d}.safetensors")
        self.store.create_arrays(path, {"state": np.frombuffer(state, dtype=np.uint8)}, {"step": step})
        for name in self._names()[:-KEPT]:
            self.store.delete(file_name(self.digest, name))
        self.written = time.monotonic()

    def clear(self) -> None:
        for name in self._names():
            self.store.delete(file_name(self.digest, name))
