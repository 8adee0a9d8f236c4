"""train: the weights of a network (trained, fine-tuned, or from a checkpoint), or of an extractor.

Several processes may train a network together (nag.distributed). `run` is called in all of them; the first one holds
the lease and writes, the others only take part in the steps.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nag import distributed
from nag.distributed import World
from nag.weights.stored import File
from orchestrator.errors import CorruptFile
from orchestrator.identity import checksum, content
from orchestrator.store.folders import exposed
from orchestrator.store.layout import file_name
from orchestrator.tasks.checkpoints import Checkpoints
from orchestrator.tasks.context import Context, HeldElsewhere, finish
from orchestrator.tasks.lease import lease
from orchestrator.tasks.outputs import read_output
from orchestrator.tasks.task import ORIGINAL, Costs, Kind, Task

if TYPE_CHECKING:
    from nag.training import Training

BACKWARD = 3  # cost of a training step, in evaluations of its images
TO_DO, DONE, HELD = range(3)


def run(context: Context, task: Task) -> None:
    world = distributed.world()
    if task.trains == "network":
        _train_network(context, task, world)
        return
    if world.rank:
        return
    with lease(context.store, task.digest):
        if context.store.exists(task.record_name):  # another engine was faster
            return
        if task.trains == "extractor":
            _train_extractor(context, task)
        else:
            _convert(context, task)


def _train_extractor(context: Context, task: Task) -> None:
    from safetensors.torch import save

    from nag.numerics import exact

    started = time.time()
    extractor = context.rebuild("features", task.params["extractor"])
    split = context.rebuild("datasets", task.params["data"]).open("train")
    train = exact(extractor.train, context.options.device)
    state = train(split, lambda done, of: context.tell(task.digest, done, of))
    finish(context, task, {"extractor.safetensors": save(state)}, {}, started)


def _convert(context: Context, task: Task) -> None:
    """Convert a checkpoint of the user's to our own form."""
    from nag.checkpoint import own_form

    started = time.time()
    file = _original(context, task)
    if "model" in task.params:
        network = _foreign(context, task, file)
    else:
        given = {
            key: task.params[key] for key in ("family", "key", "heads", "shape", "num_classes") if key in task.params
        }
        network = own_form(file, source="checkpoint", **given)
    finish(context, task, {"network.safetensors": network}, {}, started)


def _original(context: Context, task: Task) -> File:
    """The copy of a user's checkpoint: a file, a folder, or the content of a file that others could still change.
    Raises CorruptFile if it is another one.
    """
    store, name, wanted = context.store, file_name(task.digest, ORIGINAL), task.params["checkpoint"]
    if wanted.endswith("/"):
        return Path(context.asset(wanted))
    path = Path(store.path(name))
    here = store.local and path.exists() and not exposed(path)
    file: File = path if here else store.read(name)
    if (checksum(file) if isinstance(file, bytes) else content(str(file))) != wanted:
        store.remove(name)
        raise CorruptFile(
            "the copy of a checkpoint does not match its checksum; it was set aside and will be made again"
        )
    return file


def _foreign(context: Context, task: Task, file: File) -> bytes:
    """A checkpoint of other code in our own form."""
    from nag.checkpoint import foreign_form
    from nag.foreign_checkpoints import Foreign

    model, interpolant, predicts = _described(context, task.params)
    channels, height, width = task.params["shape"]
    foreign = Foreign(
        model.model,
        shape=(channels, height, width),
        num_classes=task.params["num_classes"],
        predicts=predicts,
        interpolant=interpolant,
        time=model.convention.time,
        precondition=model.convention.precondition,
        key=task.params.get("key", ()),
    )
    return foreign_form(file, foreign)


def _train_network(context: Context, task: Task, world: World) -> None:
    from nag.training import Training

    started = time.time()
    training = Training(**task.params["train"]["fields"])
    world.part(training.batch)  # raises ValueError, before anything starts, if the processes do not divide it
    with contextlib.ExitStack() as kept:
        with distributed.group(world, context.options.device):
            status = _take_lease(context, task, world, kept)
            if status == TO_DO:
                network, record, checkpoints = _trained(context, task, training, world)
        if status == HELD and world.rank == 0:
            raise HeldElsewhere(task.digest)
        if status == TO_DO and checkpoints is not None:
            finish(context, task, {"network.safetensors": network}, record, started)
            checkpoints.clear()


def _take_lease(context: Context, task: Task, world: World, kept: contextlib.ExitStack) -> int:
    """TO_DO, DONE or HELD. The first process takes the lease, until `kept` closes, and sends the status to all."""
    import torch

    status = TO_DO
    if world.rank == 0:
        try:
            kept.enter_context(lease(context.store, task.digest))
            status = DONE if context.store.exists(task.record_name) else TO_DO  # done if another engine was faster
        except HeldElsewhere:
            status = HELD
    return int(distributed.broadcast(world, torch.tensor(status, device=world.device(context.options.device))))


def _trained(
    context: Context, task: Task, training: Training, world: World
) -> tuple[bytes, dict[str, Any], Checkpoints | None]:
    """The file of the network, its record, and its checkpoints; empty except in the first process."""
    import torch

    from nag.checkpoint import dump_network
    from nag.training import train

    params, device = task.params, context.options.device
    checkpoints = None if world.rank else Checkpoints(context, task.digest)
    state = checkpoints.latest() if checkpoints else None
    resumed = bool(distributed.broadcast(world, torch.tensor(int(state is not None), device=world.device(device))))
    data, null_noise = context.rebuild("datasets", params["data"]), training.noise_dropout > 0
    if "init" in params:
        module, model, interpolant, predicts = _tuned(context, params["init"], data, training, resumed)
    else:
        model, interpolant, predicts = _described(context, params)
        module = _new(model, data, training, resumed)
    given: dict[str, Any] = {
        "loss": model.loss(interpolant, predicts),
        "num_classes": data.num_classes,
        "device": device,
        "world": world,
        "micro_batch": context.options.micro_batch,
        "recompute": context.options.recompute,
        "resume": state,
    }
    if checkpoints is None:
        train(module, data.open("train"), training, **given)
        return b"", {}, None
    with checkpoints:
        telemetry = checkpoints.resume_telemetry(training, world.size, world.device(device))

        def report(step: int, loss: float, gradient: float) -> None:
            telemetry.add(step, loss, gradient)
            context.tell(task.digest, step, training.steps, loss)

        given |= {"due": checkpoints.due, "save": checkpoints.save, "report": report}
        try:
            weights = train(module, data.open("train"), training, **given)
        except FloatingPointError as error:
            checkpoints.wait()
            raise FloatingPointError(f"{error}; {checkpoints.newest()}") from error
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
    record = {
        "steps": training.steps,
        "resumed_at": checkpoints.resumed_at,
        "processes": world.size,
        "micro_batch": min(given["micro_batch"], training.batch // world.size),
        "loss": [[int(row[0]), row[2]] for row in telemetry.rows],
        "telemetry": telemetry.record(),
        **({"trains_variance": True} if _trains_variance(model, training) else {}),
    }
    return network, record, checkpoints


def _trains_variance(model: Any, training: Training) -> bool:
    """Whether the loss had the bound of a learned variance, as in DiT, and the weights that predict it were trained."""
    return training.only == "all" and bool(getattr(model, "predicts_variance", False))


def _described(context: Context, params: Mapping[str, Any]) -> tuple[Any, Any, str]:
    """Model, interpolant and prediction of a network that is not fine-tuned from another."""
    from nag.models.adapted import Adapted
    from nag.models.convention import Convention

    model, interpolant = (context.rebuild(f"{key}s", params[key]) for key in ("model", "interpolant"))
    if "convention" in params:
        given = params["convention"]
        pre = context.rebuild("preconditions", given["precondition"]) if "precondition" in given else None
        model = Adapted(model, Convention(given["time"], pre), interpolant, params["predicts"])
    return model, interpolant, params["predicts"]


def _new(model: Any, data: Any, training: Training, resumed: bool = False) -> Any:
    """A new module. Its initial weights are not drawn if a checkpoint has them all; for XL that saves half a minute."""
    import torch

    from nag.models.adapted import built_on_cpu
    from nag.seeding import seeded

    null_noise = training.noise_dropout > 0
    if resumed and training.only == "all" and not built_on_cpu(model):
        with torch.device("meta"):
            return model.module(data.shape, data.num_classes, null_noise=null_noise).to_empty(device="cpu")
    with seeded(training.seed):
        return model.module(data.shape, data.num_classes, null_noise=null_noise, seed=training.seed)


def _tuned(
    context: Context, parent: str, data: Any, training: Training, resumed: bool = False
) -> tuple[Any, Any, Any, str]:
    """A new network with its parent's weights wherever they fit: module, model, interpolant, what it predicts.

    The rest starts as in a new network: a null-noise embedding, a class table of another size or with class_table: new.
    """
    from nag.checkpoint import parse

    source = file_name(parent, "network.safetensors")
    old, model, interpolant, description = parse(
        read_output(context.store, "train", parent, "network.safetensors"), "cpu", source, context.model_of(parent)
    )
    if description.state != tuple(data.shape):
        raise ValueError(f"the images are {list(data.shape)}, {source} is of {description.shape}")
    module = _new(model, data, training, resumed)
    parents, new = old.state_dict(), module.state_dict()
    kept = {name: parents[name] for name in new if name in parents and parents[name].shape == new[name].shape}
    if training.only != "all" and description.num_classes != data.num_classes:
        classes = f"{description.num_classes} classes, the data {data.num_classes}"
        raise ValueError(
            f"{source} has {classes}: only: {training.only} would leave them untrained, so train all of it"
        )
    if training.class_table == "new":
        for name in _class_tables(model, data, module):
            kept.pop(name, None)
    module.load_state_dict(kept, strict=False)
    return module, model, interpolant, description.predicts


def _class_tables(model: Any, data: Any, module: Any) -> list[str]:
    """The weights whose shape depends on the number of classes."""
    import torch

    from nag.models.adapted import built_on_cpu
    from nag.seeding import seeded

    # As in nag.checkpoint: a user's module may have state outside state_dict, so it is built on the CPU.
    with torch.device("cpu" if built_on_cpu(model) else "meta"), seeded(0):
        other = model.module(data.shape, data.num_classes + 1, null_noise=False).state_dict()
    return [name for name, weight in module.state_dict().items() if name in other and other[name].shape != weight.shape]


def _cost_class(task: Task, costs: Costs) -> Any:
    return {key: value for key, value in task.params.items() if key not in ("train", "init")}


def _steps(task: Task, costs: Costs, record: Mapping[str, Any] | None = None) -> float:
    steps = task.params["train"]["fields"].get("steps", 1) if task.trains == "network" else 1
    return float(steps - (record or {}).get("resumed_at", 0))


def _guess_s(task: Task, costs: Costs) -> float:
    from nag.training import Training

    if task.trains != "network":
        return 120.0
    batch = task.params["train"]["fields"].get("batch", Training(steps=1).batch)
    return _steps(task, costs) * batch * BACKWARD * costs.evaluation_s(task.digest)


KIND = Kind(
    version=1,
    run=run,
    guess_s=_guess_s,
    distributed=True,
    resumes=True,
    column="networks",
    cost_class=_cost_class,
    cost_units=_steps,
)
