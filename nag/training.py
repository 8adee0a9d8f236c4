"""Training a network on exact or perturbed x_t, with noise-condition dropout (arXiv 2510.12497) and class dropout,
independent of it.

Every random number is a function of (seed, step, index in the global batch), so a training that is killed and resumed
from a checkpoint ends, on the same kind of device and number of threads and processes, in the same weights bit for bit;
with another number of processes, or of images at once, in the same weights up to rounding.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from nag import distributed
from nag.distributed import ALONE, World
from nag.losses import Batch
from nag.losses import prediction_loss as prediction_loss  # networks of users import it from here
from nag.numerics import Precision, arithmetic, compiled, same_bits
from nag.registry import Int, method
from nag.seeding import seeded
from nag.step_numbers import Guard, StepNumbers, late, sent

if TYPE_CHECKING:
    import numpy as np
    import torch

    from nag.datasets.dataset import Split
    from nag.losses import Loss
    from nag.training_state import State, Weights

# Published recipes: fields of Training, which a sweep may override.
PRESETS: dict[str, dict[str, Any]] = {
    "dog_sft": {  # fine-tuning on other classes, of Domain Guidance and of arXiv 2510.12497 after it
        "steps": 24_000,
        "batch": 32,
        "lr": 1e-4,
        "weight_decay": 0.0,
        "ema": 0.9999,
        "ema_warmup": False,
        "class_dropout": 0.1,
        "class_table": "new",
    }
}


def _precision(value: Any) -> Any:
    """Identities hold a mapping of the fields that are not at their default."""
    return Precision(**value) if isinstance(value, dict) else value


@method
class Training:
    """AdamW on the loss of the network's model, levels uniform in (0, 1), EMA weights as the result.

    steps: optimiser steps. batch: images a step, of all processes together. warmup: steps over which lr rises linearly
    from lr / warmup. ema: decay of the weights' moving average; with ema_warmup it is min(ema, (1 + step) / (10 +
    step)), so that a short training does not average over its initial weights. noise_dropout, class_dropout:
    probability, per image, that the noise condition (the class) is replaced by its learned null embedding.
    input_perturbation: gamma of Ning et al. (arXiv 2301.11706), 0.1 there: the network sees alpha x_0 + sigma (eps +
    gamma xi), xi standard normal, and the target is that of eps: the states are as noisy as those of sampling.
    level_error: the noise of each image is (1 + eta) eps, eta uniform between - level_error and level_error, for
    networks that learn to tell eta; 0.5 in the code of arXiv 2412.05488. clip: largest gradient norm, 0 is off. only:
    which weights are trained; null_noise is the learned embedding of the null noise condition alone. class_table:
    whether a fine-tuning keeps its parent's embeddings of classes, which it can where there are as many, or starts new
    ones. precision: of the forward pass; weights, moments and loss are float32. lr: learning rate. weight_decay:
    AdamW's. ema_warmup: whether the average starts short, as above. seed: of initial weights, order of images, levels
    and noise.
    """

    steps: Annotated[Int, Field(ge=1)]
    batch: Annotated[Int, Field(ge=1)] = 256
    lr: Annotated[float, Field(gt=0)] = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup: Annotated[Int, Field(ge=0)] = 0
    clip: Annotated[float, Field(ge=0)] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    ema_warmup: bool = True
    noise_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    class_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    input_perturbation: Annotated[float, Field(ge=0, le=1)] = 0.0
    level_error: Annotated[float, Field(ge=0, lt=1)] = 0.0
    seed: Annotated[Int, Field(ge=0, lt=2**63)] = 0
    only: Literal["all", "null_noise"] = "all"
    class_table: Literal["keep", "new"] = "keep"
    precision: Annotated[Precision, BeforeValidator(_precision)] = Precision()

    VERSION: ClassVar[int] = 1

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.class_table == "new" and self.only != "all":
            raise ValueError(f"class_table: new would never be trained, with only: {self.only}")
        if self.level_error and self.input_perturbation:
            raise ValueError("level_error and input_perturbation both change the noise: leave one of the two out")
        return self

    def smoke(self) -> Training:
        """The same training with a few steps, to see that everything connects; not compiled, which takes longest."""
        precision = dataclasses.replace(self.precision, compile=False)
        return dataclasses.replace(self, steps=min(self.steps, 4), batch=min(self.batch, 16), precision=precision)

    def ema_decay(self, step: int) -> float:
        return min(self.ema, (1 + step) / (10 + step)) if self.ema_warmup else self.ema


class Batches:
    """The batch of step k: x_0, labels, levels, noise and the two dropouts, all keyed by (seed, step, index
    in the global batch). part: first and end of the indices that this process takes; all by default. A split whose
    images are random has `draw(positions, seed, step, indices in the global batch)`.

    While a device other than the CPU is at work on a batch, the next one is made in a thread.
    """

    def __init__(
        self,
        split: Split,
        training: Training,
        num_classes: int,
        device: str,
        part: tuple[int, int] | None = None,
        prefetch: bool | None = None,
    ) -> None:
        import numpy as np

        self.split, self.training, self.num_classes, self.device = split, training, num_classes, device
        self.place = np.arange(*(part or (0, training.batch)))
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)
        wanted = device != "cpu" if prefetch is None else prefetch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches") if wanted else None
        self._made: dict[int, Future[list[torch.Tensor]]] = {}

    def indices(self, step: int) -> Any:
        """Positions of the batch's images in the split: each epoch is a permutation keyed by its number."""
        import numpy as np

        from nag.noise import permutation

        size = len(self.split)
        place = step * self.training.batch + self.place
        picked = np.empty_like(place)
        for epoch in np.unique(place // size):
            if epoch != self._epoch:
                self._epoch, self._order = int(epoch), permutation(self.training.seed, int(epoch), size)
            inside = place // size == epoch
            picked[inside] = self._order[place[inside] % size]
        return picked

    def __call__(self, step: int) -> Batch:
        made = self._made.pop(step, None)
        tensors = self._tensors(step) if made is None else made.result()
        if self._thread is not None and step + 1 < self.training.steps:
            self._made = {step + 1: self._thread.submit(self._tensors, step + 1)}
        return Batch(*(tensor.to(self.device, non_blocking=tensor.is_pinned()) for tensor in tensors))

    def _tensors(self, step: int) -> list[torch.Tensor]:
        """On the CPU; pinned for a GPU, so that the copy waits for nothing."""
        import torch

        tensors = [torch.from_numpy(array) for array in self._arrays(step)]
        return [tensor.pin_memory() for tensor in tensors] if self.device.startswith("cuda") else tensors

    def _arrays(self, step: int) -> list[np.ndarray]:
        import numpy as np

        from nag import noise
        from nag.datasets.dataset import drawn

        training, place = self.training, self.place
        picked = self.indices(step)
        x0 = drawn(self.split, picked, training.seed, step, place)
        normal = noise.normal if self._thread is None else noise.spread
        eps = normal(training.seed, place, step, x0.shape[1:], purpose=noise.TRAIN_NOISE)
        t = noise.uniform(training.seed, place, step, (), purpose=noise.TRAIN_LEVEL).astype(np.float32)
        drop_noise = noise.uniform(training.seed, place, step, (), purpose=noise.TRAIN_NULL_NOISE)
        drop_class = noise.uniform(training.seed, place, step, (), purpose=noise.TRAIN_NULL_CLASS)
        told = np.where(drop_noise < training.noise_dropout, np.float32(-1), t)
        y = np.where(drop_class < training.class_dropout, self.num_classes, self.split.labels(picked))
        if training.input_perturbation:
            xi = noise.normal(training.seed, place, step, x0.shape[1:], purpose=noise.TRAIN_PERTURBATION)
            return [x0, eps, t, told, y, eps + np.float32(training.input_perturbation) * xi]
        if training.level_error:
            u = noise.uniform(training.seed, place, step, (1, 1, 1), purpose=noise.TRAIN_LEVEL_ERROR)
            return [x0, eps, t, told, y, (1 + training.level_error * (2 * u - 1)).astype(np.float32) * eps]
        return [x0, eps, t, told, y]


def train(
    module: torch.nn.Module,
    split: Split,
    training: Training,
    *,
    loss: Loss,
    num_classes: int,
    device: str = "cpu",
    world: World = ALONE,
    micro_batch: int | None = None,
    recompute: bool = False,
    resume: State | None = None,
    due: Callable[[], bool] = lambda: False,
    save: Callable[[int, State], None] = lambda step, state: None,
    report: Callable[[int, float, float], None] = lambda step, loss, gradient: None,
) -> dict[str, torch.Tensor]:
    """Train `module` in place and return the EMA weights (on the CPU, by name).

    world: this process among those that train together, in a `distributed.group`; all give the same arguments, the
    first one's `resume` counts, it alone saves, and it alone gets the weights. micro_batch: images that a process has
    in the network at once, all of its part by default. recompute: activation checkpointing
    in a transformer's blocks; the same bits, for less memory.

    `resume`: what `save(step, state)` was given, from which the training goes on. `due()` is asked after every step
    whether a checkpoint is wanted. `report(step, loss, gradient norm)` after every step. Raises ValueError where the
    processes do not divide the batch, FloatingPointError where loss or gradient is not finite.
    """
    import torch

    from nag.training_state import copied, restored

    part, device = world.part(training.batch), world.device(device)
    module.to(device).train()
    if training.only != "all":
        for name, weight in module.named_parameters():
            weight.requires_grad_(name == training.only)
    if recompute:
        from nag.models.transformer import checkpoint_activations

        checkpoint_activations(module)
    weights: Weights = {name: p for name, p in module.named_parameters() if p.requires_grad}
    ema = {name: p.detach().clone() for name, p in weights.items()} if world.rank == 0 else {}
    kind, strict = torch.device(device).type, hasattr(module, "repeated")  # ours have no operation without an order
    reads_late = late(kind)
    optimizer = torch.optim.AdamW(
        weights.values(), lr=training.lr, weight_decay=training.weight_decay, fused=reads_late or None
    )
    guard = Guard(optimizer, device) if reads_late else None
    first = restored(resume, world, module, weights, ema, optimizer)
    batches = Batches(split, training, num_classes, device, part)
    called, together = _called(module, training.precision, world, device)
    before: tuple[float, float] | None = None

    def checked(made: StepNumbers) -> tuple[float, float]:
        value, gradient = made.read()
        if not (math.isfinite(value) and math.isfinite(gradient)):
            worst = _worst(loss, module, made.batch, part[0], world)
            raise FloatingPointError(
                f"the training loss is {value:.6g} at step {made.step} of {training.steps}, "
                f"its gradient norm {gradient:.6g}"
                + (f" (a step before, {before[0]:.6g} and {before[1]:.6g})" if before else "")
                + f"; {worst}; a lower lr, a warmup or clip: 1 may help"
            )
        return value, gradient

    def told(made: StepNumbers) -> tuple[float, float]:
        value, gradient = checked(made)
        if world.rank == 0:
            report(made.step + 1, value, gradient)
            if made.state is not None:
                save(made.step + 1, made.state)
        return value, gradient

    waiting: StepNumbers | None = None
    for step in range(first, training.steps):
        batch, losses = batches(step), []
        optimizer.zero_grad(set_to_none=True)
        for place, piece in _pieces(batch, micro_batch):
            more = place + len(piece.t) < len(batch.t)  # gradients are exchanged once a step, after the last piece
            alone = together.no_sync() if together is not None and more else contextlib.nullcontext()
            with alone, same_bits(kind, strict), training.precision.arithmetic(kind, forward=False):
                with seeded(training.seed, step, *([part[0] + place] if part[0] + place else [])):
                    error = loss(called, piece)
                if len(piece.t) < len(batch.t):
                    error = error * (len(piece.t) / len(batch.t))
                error.backward()
            losses.append(error.detach())
        total = distributed.mean(world, torch.stack(losses).sum())
        norm = _clipped(list(weights.values()), training.clip)
        made = sent(step, batch, total, norm)
        if guard is None:
            checked(made)
        else:
            guard.see(total, norm)
        for group in optimizer.param_groups:
            group["lr"] = training.lr * min(1.0, (step + 1) / max(1, training.warmup))
        optimizer.step()
        if world.rank == 0:
            with torch.no_grad():
                torch._foreach_lerp_(list(ema.values()), list(weights.values()), 1 - training.ema_decay(step))
        if (finished := waiting if reads_late else made) is not None:
            before = told(finished)
        if world.rank == 0 and step + 1 < training.steps and due():
            state = copied(step + 1, module, weights, ema, optimizer)
            if reads_late:
                made.state = state
            else:
                save(step + 1, state)
        waiting = made if reads_late else None
    if waiting is not None:
        told(waiting)
    distributed.barrier(world)  # no process leaves while another still waits for it
    if world.rank:
        return {}
    result = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
    result.update({name: tensor.cpu() for name, tensor in ema.items()})
    return result


def _pieces(batch: Batch, micro_batch: int | None) -> Iterator[tuple[int, Batch]]:
    """The batch in micro-batches, each with the position of its first image."""
    size = len(batch.t)
    if micro_batch is None or micro_batch >= size:
        yield 0, batch
        return
    for place in range(0, size, micro_batch):
        yield place, batch.rows(slice(place, place + micro_batch))


def _called(module: torch.nn.Module, precision: Precision, world: World, device: str) -> tuple[Any, Any]:
    """The module that the loss calls; with several processes also the DistributedDataParallel in it."""
    import torch

    called: Any = compiled(module) if precision.compile else module
    together = None
    if world.size > 1:
        wrapper: Any = torch.nn.parallel.DistributedDataParallel
        buffers = "forward_sync_buffers"  # older versions know only the name that newer ones deprecate
        called = together = wrapper(
            called,
            device_ids=[torch.device(device)] if device.startswith("cuda") else None,
            # Otherwise DDP rebuilds its buckets after the first step, so sums would round differently after a resume;
            # and weights that a module never uses would be an error.
            find_unused_parameters=True,
            **{buffers if buffers in inspect.signature(wrapper).parameters else "broadcast_buffers": False},
        )
    return _forward(called, torch.device(device).type, precision), together


def _forward(called: Any, device: str, precision: Precision) -> Any:
    """The module at this precision, its output in float32."""
    if precision.dtype == "float32":
        return called

    def forward(*inputs: torch.Tensor) -> torch.Tensor:
        with precision.arithmetic(device):
            return called(*inputs).float()

    return forward


def _clipped(weights: list[torch.Tensor], clip: float) -> torch.Tensor:
    """The norm of all gradients together, before they are scaled down to `clip`."""
    import torch

    if clip:
        return torch.nn.utils.clip_grad_norm_(weights, clip)
    norms = torch._foreach_norm([weight.grad for weight in weights if weight.grad is not None])
    return torch.linalg.vector_norm(torch.stack(norms))


def _worst(loss: Loss, module: torch.nn.Module, batch: Batch, first: int, world: World) -> str:
    """The image of the global batch with the highest, or a non-finite, loss; `first`: position of this part's first."""
    import torch

    module.eval()
    worst = [-math.inf, 0.0, 0.0]  # loss, place, level
    for i in range(len(batch.t)):
        with torch.no_grad(), arithmetic(batch.t.device.type):
            alone = loss(module, batch.rows(slice(i, i + 1))).item()
        if not alone <= worst[0]:  # NaN compares false
            worst = [alone, first + i, batch.t[i].item()]
        if not math.isfinite(alone):
            break
    every = distributed.gather(world, torch.tensor(worst, dtype=torch.float64, device=batch.t.device))
    value, place, level = max((one.tolist() for one in every), key=lambda one: (not math.isfinite(one[0]), one[0]))
    return f"the worst image is number {place:.0f} of the batch, at t = {level:.4f}, with loss {value:.6g}"
