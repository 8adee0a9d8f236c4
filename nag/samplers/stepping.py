"""What fixed-step samplers share: the grid, the loop, and the velocity of a field at one level."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Protocol

from nag.field import Field
from nag.interpolants import convert

if TYPE_CHECKING:
    import torch

Draw = Callable[[int], "torch.Tensor"]  # k -> (N, C, H, W)
Observe = Callable[[int, float, "torch.Tensor"], None]  # (k, t, x)


class Sampler(Protocol):
    order: ClassVar[int]  # of convergence; for a stochastic sampler the weak order
    deterministic: ClassVar[bool]  # asks only for noise(0)

    def network_calls(self) -> int:
        """Evaluations of the field for one sample."""
        ...

    def __call__(self, field: Field, y: torch.Tensor, noise: Draw, *, observe: Observe | None = None) -> torch.Tensor:
        """Samples (N, C, H, W). `noise(0)` is the initial state, `noise(k)` the draw of step k, asked for if used.

        `observe(k, t, x)` sees the state x at level t before step k = 1, 2, ..., and once more after the last.
        """
        ...


class FixedStep(Protocol):
    def step(
        self, field: Field, x: torch.Tensor, y: torch.Tensor, t: float, t_next: float, draw: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        """The state at `t_next` from the state x at `t` > `t_next`; `draw()` is the noise of this step."""
        ...


def march(
    sampler: FixedStep, field: Field, y: torch.Tensor, noise: Draw, grid: list[float], observe: Observe | None = None
) -> torch.Tensor:
    """Take the sampler's steps along the falling levels of `grid`, from `noise(0)` at grid[0]."""
    x = noise(0)
    y = y.to(x.device)
    for k, (t, t_next) in enumerate(pairwise(grid), start=1):
        if observe is not None:
            observe(k, t, x)
        x = sampler.step(field, x, y, t, t_next, lambda k=k: noise(k))  # type: ignore[misc]
    if observe is not None:
        observe(len(grid), grid[-1], x)
    return x


def levels(start: float, end: float, steps: int) -> list[float]:
    """steps + 1 evenly spaced levels, both ends exact."""
    return [start + (end - start) * k / steps for k in range(steps)] + [end]


def predict(field: Field, x: torch.Tensor, y: torch.Tensor, t: float) -> torch.Tensor:
    """The field's own prediction (N, C, H, W) with all samples at one level, without a variance it may add."""
    import torch

    return field(x, torch.full((len(x),), t, dtype=x.dtype, device=x.device), y)[:, : field.shape[0]]


def velocity(field: Field, x: torch.Tensor, y: torch.Tensor, t: float) -> torch.Tensor:
    """The probability-flow velocity dx/dt, (N, C, H, W), with all samples at one level."""
    return convert(predict(field, x, y, t), field.predicts, "velocity", x, t, field.interpolant)
