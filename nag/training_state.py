"""The state of a training as tensors: what a checkpoint holds, and how it is restored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from nag.distributed import World

    State = dict[str, torch.Tensor]  # on the CPU, by name
    Weights = dict[str, torch.Tensor]

MOMENTS = ("exp_avg", "exp_avg_sq")


def copied(
    step: int, module: torch.nn.Module, weights: Weights, ema: Weights, optimizer: torch.optim.Optimizer
) -> State:
    """A copy of everything that the steps from `step` on depend on."""
    import torch

    held = {"step": torch.tensor(step)} | {f"buffer.{name}": buffer for name, buffer in module.named_buffers()}
    for name, weight in weights.items():
        held[f"weight.{name}"], held[f"ema.{name}"] = weight.detach(), ema[name]
        # a weight that no loss has reached yet has no moments
        held |= {f"{part}.{name}": value for part, value in optimizer.state.get(weight, {}).items()}
    return {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in held.items()}


def restored(
    state: State | None,
    world: World,
    module: torch.nn.Module,
    weights: Weights,
    ema: Weights,
    optimizer: torch.optim.Optimizer,
) -> int:
    """Restore a state, that of the first process in all; returns the step from which to continue.

    Of what the module had only the weights that are not trained stay. Raises ValueError if it is of another network.
    """
    import torch

    step = _put_back(state, module, weights, ema, optimizer) if state is not None and world.rank == 0 else 0
    if world.size == 1:
        return step
    from nag.distributed import broadcast

    device = next(iter(weights.values())).device
    taken = [int(optimizer.state[weight]["step"]) if optimizer.state.get(weight) else 0 for weight in weights.values()]
    step, *taken = broadcast(world, torch.tensor([step, *taken], device=device)).tolist()
    if step:  # what the modules begin with, DistributedDataParallel sees to
        for buffer in module.buffers():
            broadcast(world, buffer)
        for weight, steps in zip(weights.values(), taken, strict=True):
            broadcast(world, weight.detach())
            if steps:
                moments: dict[str, Any] = optimizer.state.get(weight) or {"step": _steps(optimizer, weight, steps)}
                for part in MOMENTS:
                    moments[part] = broadcast(world, moments.get(part, torch.empty_like(weight)))
                optimizer.state[weight] = moments
    return step


def _put_back(
    state: State, module: torch.nn.Module, weights: Weights, ema: Weights, optimizer: torch.optim.Optimizer
) -> int:
    import torch

    buffers = dict(module.named_buffers())
    wanted = {"step"} | {f"buffer.{name}" for name in buffers}
    wanted |= {f"{part}.{name}" for part in ("weight", "ema") for name in weights}
    allowed = wanted | {f"{part}.{name}" for part in ("step", *MOMENTS) for name in weights}
    names = set(state)
    if not wanted <= names <= allowed:
        raise ValueError(
            f"a training checkpoint of another network: {sorted((wanted - names) | (names - allowed))[:3]}"
        )
    with torch.no_grad():
        for name, buffer in buffers.items():
            buffer.copy_(state[f"buffer.{name}"])
        for name, weight in weights.items():
            weight.copy_(state[f"weight.{name}"])
            ema[name].copy_(state[f"ema.{name}"])
            if f"step.{name}" in state:
                moments = {part: state[f"{part}.{name}"].to(weight.device, copy=True) for part in MOMENTS}
                optimizer.state[weight] = {"step": _steps(optimizer, weight, float(state[f"step.{name}"])), **moments}
    return int(state["step"])


def _steps(optimizer: torch.optim.Optimizer, weight: torch.Tensor, taken: float) -> torch.Tensor:
    """A weight's number of steps, where the optimiser keeps it: a fused one with the weight."""
    import torch

    fused = optimizer.param_groups[0].get("fused")
    return torch.tensor(float(taken), device=weight.device if fused else "cpu")
