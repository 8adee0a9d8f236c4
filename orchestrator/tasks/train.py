"""train: weights of a network (trained, fine-tuned, from a checkpoint), or of an extractor that the plan trains."""

from __future__ import annotations

import time
from typing import Any

from orchestrator.errors import CorruptFile
from orchestrator.identity import checksum
from orchestrator.tasks import ORIGINAL, Context, Task, file_name, finish, read_output
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
        elif "checkpoint" in task.params:
            _loaded(context, task)
        else:
            _network(context, task)


def _extractor(context: Context, task: Task) -> None:
    from safetensors.torch import save

    started = time.time()
    extractor = context.rebuild("features", task.params["extractor"])
    split = context.rebuild("datasets", task.params["data"]).open("train")
    state = extractor.train(split, lambda done, of: context.tell(task.digest, done, of))
    finish(context, task, {"extractor.safetensors": save(state)}, {}, started)


def _loaded(context: Context, task: Task) -> None:
    """A checkpoint of the user's, checked and written in our own form."""
    from nag.checkpoint import own_form

    started = time.time()
    data = context.store.read(file_name(task.digest, ORIGINAL))
    if checksum(data) != task.params["checkpoint"]:
        context.store.remove(file_name(task.digest, ORIGINAL))
        raise CorruptFile(
            "the copy of a checkpoint does not match its checksum; it was set aside and will be made again"
        )
    given = {key: task.params[key] for key in ("family", "heads") if key in task.params}
    network = own_form(data, **given)
    finish(context, task, {"network.safetensors": network}, {}, started)


def _network(context: Context, task: Task) -> None:
    from nag.checkpoint import dump_network
    from nag.training import Training, train

    started = time.time()
    params = task.params
    data, training = context.rebuild("datasets", params["data"]), Training(**params["train"]["fields"])
    null_noise = training.noise_dropout > 0
    if "init" in params:
        module, model, interpolant, predicts = _tuned(context, params["init"], data, null_noise, training.seed)
    else:
        model, predicts = context.rebuild("models", params["model"]), params["predicts"]
        interpolant = context.rebuild("interpolants", params["interpolant"])
        module = _new(model, data, null_noise, training.seed)
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
        loss=model.loss(interpolant, predicts),
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
        predicts=predicts,
        shape=data.shape,
        num_classes=data.num_classes,
        has_null_noise=null_noise,
        has_null_class=training.class_dropout > 0,
    )
    record: dict[str, Any] = {"steps": training.steps, "resumed_at": checkpoints.resumed_at, "loss": curve}
    finish(context, task, {"network.safetensors": network}, record, started)
    checkpoints.clear()


def _new(model: Any, data: Any, null_noise: bool, seed: int) -> Any:
    from nag.models import seeded

    with seeded(seed):
        return model.module(data.shape, data.num_classes, null_noise=null_noise, seed=seed)


def _tuned(context: Context, parent: str, data: Any, null_noise: bool, seed: int) -> tuple[Any, Any, Any, str]:
    """A new network with its parent's weights wherever they fit: module, model, interpolant, what it predicts.

    What the parent does not have starts as in a new network: a class table of another size, a null-noise embedding.
    """
    from nag.checkpoint import parse

    source = file_name(parent, "network.safetensors")
    old, model, interpolant, description = parse(
        read_output(context.store, "train", parent, "network.safetensors"),
        context.options.device,
        source,
        context.model,
    )
    if tuple(description["shape"]) != tuple(data.shape):
        raise ValueError(f"the images are {list(data.shape)}, {source} is of {description['shape']}")
    module = _new(model, data, null_noise, seed)
    found = old.state_dict()
    kept = {
        name: found[name]
        for name, new in module.state_dict().items()
        if name in found and found[name].shape == new.shape
    }
    module.load_state_dict(kept, strict=False)
    return module, model, interpolant, description["predicts"]


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
