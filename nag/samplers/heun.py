"""Heun's method on the probability-flow ODE."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from nag.field import Field
from nag.interpolants import Interpolant, Prediction
from nag.registry import method
from nag.samplers.fixed_step import FixedStep, data, ode_levels, reaches_data, undetermined, velocity

if TYPE_CHECKING:
    import torch


@method
class Heun(FixedStep):
    """The explicit trapezoid (torchdiffeq's heun2) on `steps` equal steps from t = 1 to 0.

    Two network calls in each step, the last one too, where the second is at t = 0. On VP the last step is from
    t = 1/1000 and returns the predicted x_0, with one call: one less than `network_calls` says.
    """

    VERSION: ClassVar[int] = 1
    order: ClassVar[int] = 2

    def network_calls(self) -> int:
        return 2 * self.steps

    def refuses(self, interpolant: Interpolant, predicts: Prediction) -> str | None:
        at_data = undetermined(interpolant, predicts, 0.0) if reaches_data(interpolant) else None
        return undetermined(interpolant, predicts, 1.0) or at_data

    def grid(self, interpolant: Interpolant) -> list[float]:
        return ode_levels(self.steps, interpolant)

    def called_at(self, interpolant: Interpolant) -> list[float]:
        levels = [level for step in pairwise(self.grid(interpolant)) for level in step]
        return levels if reaches_data(interpolant) else levels[:-1]

    def step(
        self, field: Field, x: torch.Tensor, y: torch.Tensor, t: float, t_next: float, draw: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        if t_next == 0.0 and not reaches_data(field.interpolant):
            return data(field, x, y, t)
        h = t_next - t
        v = velocity(field, x, y, t)
        v_next = velocity(field, x + h * v, y, t_next)
        return x + h / 2 * (v + v_next)
