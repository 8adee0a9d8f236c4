"""Heun's method on the probability-flow ODE."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from nag.field import Field
from nag.registry import Int, method
from nag.samplers.stepping import Draw, Observe, levels, march, velocity

if TYPE_CHECKING:
    import torch


@method
class Heun:
    """The explicit trapezoid (torchdiffeq's heun2) on `steps` equal steps from t = 1 to 0.

    Two network calls in each step, the last one too, where the second is at t = 0.
    """

    steps: Annotated[Int, pydantic.Field(ge=1)]

    VERSION: ClassVar[int] = 1
    order: ClassVar[int] = 2
    deterministic: ClassVar[bool] = True

    def network_calls(self) -> int:
        return 2 * self.steps

    def __call__(self, field: Field, y: torch.Tensor, noise: Draw, *, observe: Observe | None = None) -> torch.Tensor:
        return march(self, field, y, noise, levels(1.0, 0.0, self.steps), observe)

    def step(
        self, field: Field, x: torch.Tensor, y: torch.Tensor, t: float, t_next: float, draw: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        h = t_next - t
        v = velocity(field, x, y, t)
        v_next = velocity(field, x + h * v, y, t_next)
        return x + h / 2 * (v + v_next)
