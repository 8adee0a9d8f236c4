"""Euler's method on the probability-flow ODE."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from nag.field import Field
from nag.interpolants import Interpolant, Linear
from nag.registry import method
from nag.samplers.fixed_step import FixedStep, data, ode_levels, reaches_data, velocity

if TYPE_CHECKING:
    import torch


@method
class Euler(FixedStep):
    """x(t') = x + (t' - t) v(x, t) on `steps` equal steps from t = 1 to 0; one network call a step.

    On VP the last step is from t = 1/1000 and returns the predicted x_0.
    """

    VERSION: ClassVar[int] = 1
    order: ClassVar[int] = 1

    def grid(self, interpolant: Interpolant) -> list[float]:
        return ode_levels(self.steps, interpolant)

    def renoises(self, interpolant: Interpolant) -> bool:
        """On the linear path it is DDIM."""
        return isinstance(interpolant, Linear)

    def step(
        self, field: Field, x: torch.Tensor, y: torch.Tensor, t: float, t_next: float, draw: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        if t_next == 0.0 and not reaches_data(field.interpolant):
            return data(field, x, y, t)
        return x + (t_next - t) * velocity(field, x, y, t)
