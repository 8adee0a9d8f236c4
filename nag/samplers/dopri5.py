"""Dormand and Prince's adaptive method on the probability-flow ODE, as torchdiffeq has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from nag.field import Field
from nag.interpolants import Interpolant, Prediction
from nag.registry import method
from nag.samplers.fixed_step import FIRST_LEVEL, Draw, Observe, data, reaches_data, undetermined, velocity

if TYPE_CHECKING:
    import torch


@method
class Dopri5:
    """From t = 1 to 0 in steps of its own choice: the error of each, over the whole batch, is below atol + rtol |x|.

    So a sample depends on its batch: a block is integrated whole. The defaults are those of the official SiT, and as
    there the last step runs past the end, where the state is interpolated; but the network is never asked beyond t = 0.
    On VP the end is t = 1/1000, and the predicted x_0 is returned. `observe` sees that only, as k = 1. Needs
    torchdiffeq.
    atol, rtol: largest absolute and relative error of a step.
    """

    atol: Annotated[float, pydantic.Field(gt=0, lt=1)] = 1e-6
    rtol: Annotated[float, pydantic.Field(gt=0, lt=1)] = 1e-3

    VERSION: ClassVar[int] = 1
    order: ClassVar[int] = 5
    deterministic: ClassVar[bool] = True
    adaptive: ClassVar[bool] = True
    steps: ClassVar[None] = None

    def network_calls(self) -> None:
        """Known only afterwards: count them with `nag.field.Calls`."""

    def refuses(self, interpolant: Interpolant, predicts: Prediction) -> str | None:
        at_data = undetermined(interpolant, predicts, 0.0) if reaches_data(interpolant) else None
        return undetermined(interpolant, predicts, 1.0) or at_data

    def __call__(self, field: Field, y: torch.Tensor, noise: Draw, *, observe: Observe | None = None) -> torch.Tensor:
        """Raises ArithmeticError where the solver gives up: a state that is not finite, or tolerances out of reach."""
        import torch

        try:
            from torchdiffeq import odeint
        except ImportError as error:
            raise ImportError("the sampler dopri5 needs torchdiffeq: pip install torchdiffeq") from error
        x = noise(0)
        y = y.to(x.device)
        end = 0.0 if reaches_data(field.interpolant) else FIRST_LEVEL
        span = torch.tensor([1.0, end], dtype=torch.float64, device=x.device)

        def dxdt(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return velocity(field, x, y, max(float(t), end))

        try:
            x = odeint(dxdt, x, span, rtol=self.rtol, atol=self.atol, method="dopri5")[1]
        except AssertionError as error:
            raise ArithmeticError(f"dopri5 gave up: {error}") from error
        if end:
            x = data(field, x, y, end)
        if observe is not None:
            observe(1, 0.0, x)
        return x
