"""Training a network on exact x_t, with noise-condition dropout (arXiv 2510.12497) and class dropout, independent of
it.

Every random number is a function of (seed, step, index in the batch), so a training that is killed and resumed from a
checkpoint ends, on the same kind of device and number of threads, in the same weights bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from nag.models import seeded
from nag.registry import Int, method

if TYPE_CHECKING:
    import torch

    from nag.datasets import Split


@method
class Training:
    """AdamW on the loss of the network's model, levels uniform in (0, 1), EMA weights as the result.

    steps: optimiser steps. batch: images a step. warmup: steps over which lr rises linearly from lr / warmup.
    ema: decay of the weights' moving average; with ema_warmup it is min(ema, (1 + step) / (10 + step)), so that a short
    training does not average over its initial weights. noise_dropout, class_dropout: probability, per image, that the
    noise condition (the class) is replaced by its learned null embedding. clip: largest gradient norm, 0 is off.
    only: which weights are trained; null_noise is the learned embedding of the null noise condition alone.
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
    seed: Annotated[Int, Field(ge=0, lt=2**63)] = 0
    only: Literal["all", "null_noise"] = "all"

    VERSION: ClassVar[int] = 1

    def smoke(self) -> Training:
        """The same training, cut to a few steps: to see that everything connects."""
        return dataclasses.replace(self, steps=min(self.steps, 4), batch=min(self.batch, 16))

    def ema_decay(self, step: int) -> float:
        return min(self.ema, (1 + step) / (10 + step)) if self.ema_warmup else self.ema


class Batch(NamedTuple):
    x0: torch.Tensor  # (N, C, H, W)
    eps: torch.Tensor  # (N, C, H, W)
    t: torch.Tensor  # (N,) in (0, 1)
    told: torch.Tensor  # (N,) the t that the network is told; -1 where its noise condition is dropped
    y: torch.Tensor  # (N,) the class that it is told; num_classes where it is dropped

    def states(self, interpolant: Any) -> torch.Tensor:
        """x_t = alpha_t x_0 + sigma_t eps."""
        level = self.t.view(-1, 1, 1, 1)
        return interpolant.alpha(level) * self.x0 + interpolant.sigma(level) * self.eps


Loss = Callable[["torch.nn.Module", Batch], "torch.Tensor"]


def prediction_loss(interpolant: Any, predicts: str) -> Loss:
    """Mean squared error of a generator's prediction at x_t."""
    from nag.interpolants import target

    def loss(module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        wanted = target(predicts, batch.x0, batch.eps, batch.t.view(-1, 1, 1, 1), interpolant)
        return (module(batch.states(interpolant), batch.told, batch.y) - wanted).square().mean()

    return loss


class Batches:
    """What step k of a training sees: x_0, labels, levels, noise and the two dropouts, all keyed by (seed, step,
    index).
    """

    def __init__(self, split: Split, training: Training, num_classes: int, device: str) -> None:
        import numpy as np

        self.split, self.training, self.num_classes, self.device = split, training, num_classes, device
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def indices(self, step: int) -> Any:
        """Positions of the batch's images in the split: epoch after epoch, each a permutation keyed by its number."""
        import numpy as np

        from nag.noise import permutation

        size = len(self.split)
        place = step * self.training.batch + np.arange(self.training.batch)
        picked = np.empty_like(place)
        for epoch in np.unique(place // size):
            if epoch != self._epoch:
                self._epoch, self._order = int(epoch), permutation(self.training.seed, int(epoch), size)
            inside = place // size == epoch
            picked[inside] = self._order[place[inside] % size]
        return picked

    def __call__(self, step: int) -> Batch:
        import numpy as np
        import torch

        from nag import noise

        training = self.training
        place = np.arange(training.batch)
        picked = self.indices(step)
        x0 = self.split.images(picked)
        eps = noise.normal(training.seed, place, step, x0.shape[1:], purpose=noise.TRAIN_NOISE)
        t = noise.uniform(training.seed, place, step, (), purpose=noise.TRAIN_LEVEL).astype(np.float32)
        drop_noise = noise.uniform(training.seed, place, step, (), purpose=noise.TRAIN_NULL_NOISE)
        drop_class = noise.uniform(training.seed, place, step, (), purpose=noise.TRAIN_NULL_CLASS)
        told = np.where(drop_noise < training.noise_dropout, np.float32(-1), t)
        y = np.where(drop_class < training.class_dropout, self.num_classes, self.split.labels(picked))
        return Batch(*(torch.from_numpy(array).to(self.device) for array in (x0, eps, t, told, y)))


def train(
    module: torch.nn.Module,
    split: Split,
    training: Training,
    *,
    loss: Loss,
    num_classes: int,
    device: str = "cpu",
    resume: bytes | None = None,
    due: Callable[[], bool] = lambda: False,
    save: Callable[[int, bytes], None] = lambda step, state: None,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> dict[str, torch.Tensor]:
    """Train `module` in place and return the EMA weights (on the CPU, by name).

    `resume`: what `save(step, state)` was given, from which the training goes on. `due()` is asked after every step
    whether a checkpoint is wanted. `report(step, loss)` after every step. Raises FloatingPointError where the loss is
    not finite.
    """
    import torch

    module.to(device).train()
    if training.only != "all":
        for name, weight in module.named_parameters():
            weight.requires_grad_(name == training.only)
    weights = {name: p for name, p in module.named_parameters() if p.requires_grad}
    ema = {name: p.detach().clone() for name, p in weights.items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=training.lr, weight_decay=training.weight_decay)
    first = _restore(resume, weights, ema, optimizer) if resume else 0
    batches = Batches(split, training, num_classes, device)
    for step in range(first, training.steps):
        with seeded(training.seed, step):
            error = loss(module, batches(step))
        value = error.item()
        if not value < float("inf"):  # NaN compares false
            raise FloatingPointError(f"the training loss is {value} at step {step} of {training.steps}")
        optimizer.zero_grad(set_to_none=True)
        error.backward()
        if training.clip:
            torch.nn.utils.clip_grad_norm_(weights.values(), training.clip)
        for group in optimizer.param_groups:
            group["lr"] = training.lr * min(1.0, (step + 1) / max(1, training.warmup))
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.values()), list(weights.values()), 1 - training.ema_decay(step))
        report(step + 1, value)
        if step + 1 < training.steps and due():
            save(step + 1, _state(step + 1, weights, ema, optimizer))
    result = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
    result.update({name: tensor.cpu() for name, tensor in ema.items()})
    return result


_MOMENTS = ("exp_avg", "exp_avg_sq")


def _state(step: int, weights: dict[str, Any], ema: dict[str, Any], optimizer: torch.optim.Optimizer) -> bytes:
    from safetensors.torch import save

    tensors = {}
    for name, weight in weights.items():
        tensors[f"weight.{name}"], tensors[f"ema.{name}"] = weight.detach(), ema[name]
        tensors |= {f"{moment}.{name}": optimizer.state[weight][moment] for moment in _MOMENTS}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    return save(tensors, metadata={"step": str(step)})


def _restore(state: bytes, weights: dict[str, Any], ema: dict[str, Any], optimizer: torch.optim.Optimizer) -> int:
    """Put a saved state back; the step from which to go on. Raises ValueError if the state is of another network."""
    import torch
    from safetensors.torch import load

    from nag.checkpoint import metadata

    step, tensors = int(metadata(state)["step"]), load(state)
    wanted = {f"{part}.{name}" for part in ("weight", "ema", *_MOMENTS) for name in weights}
    if wanted != set(tensors):
        raise ValueError(f"a training checkpoint of another network: {sorted(wanted ^ set(tensors))[:3]} differ")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(tensors[f"weight.{name}"])
            ema[name].copy_(tensors[f"ema.{name}"])
            optimizer.state[weight] = {"step": torch.tensor(float(step))} | {
                moment: tensors[f"{moment}.{name}"].to(weight.device) for moment in _MOMENTS
            }
    return step
