"""Euler's method on the probability-flow ODE."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from nag.field import Field
from nag.interpolants import Interpolant, Prediction
from nag.registry import Int, method
from nag.samplers.fixed_step import (
    STEPS_AT_MOST,
    Draw,
    Observe,
    data,
    march,
    ode_levels,
    reaches_data,
    undetermined,
    velocity,
)

if TYPE_CHECKING:
    import torch


@method
class Euler:
    """x(t') = x + (t' - t) v(x, t) on `steps` equal steps from t = 1 to 0; one network call a step.

    On VP the last step is from t = 1/1000 and returns the predicted x_0.
    """

    steps: Annotated[Int, pydantic.Field(ge=1, le=STEPS_AT_MOST)]

    VERSION: ClassVar[int] = 1
    order: ClassVar[int] = 1
    deterministic: ClassVar[bool] = True

    def network_calls(self) -> int:
        return self.steps

    def refuses(self, interpolant: Interpolant, predicts: Prediction) -> str | None:
        return undetermined(interpolant, predicts, 1.0)

    def __call__(self, field: Field, y: torch.Tensor, noise: Draw, *, observe: Observe | None = None) -> torch.Tensor:
        return march(self, field, y, noise, ode_levels(self.steps, field.interpolant), observe)

    def step(
        self, field: Field, x: torch.Tensor, y: torch.Tensor, t: float, t_next: float, draw: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        if t_next == 0.0 and not reaches_data(field.interpolant):
            return data(field, x, y, t)
        return x + (t_next - t) * velocity(field, x, y, t)
