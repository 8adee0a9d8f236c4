"""Euler-Maruyama on the reverse SDE, as in the official SiT code (github.com/willisma/SiT)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import pydantic

from nag.field import Field
from nag.interpolants import Interpolant, Prediction, convert
from nag.registry import Int, method
from nag.samplers.fixed_step import FIRST_LEVEL, STEPS_AT_MOST, FixedStep, levels, predict, reaches_data

if TYPE_CHECKING:
    import torch

LAST_STEP_SIZE = 0.04  # 0.04 of SiT's published samples


@method
class EulerMaruyama(FixedStep):
    """dx = (v - D(t) s) dt + sqrt(2 D(t)) dw backwards in t (SiT, arXiv 2401.08740, section 2, with w = 2 D).

    As in SiT `steps` counts the points of the grid, `steps` of them from t = 1 to `last_step_size`: steps - 1
    stochastic steps, and a last one to t = 0 without noise, one network call each. `last_step`: "mean" follows the
    SDE's drift, "euler" the ODE's; with "none" the grid itself ends at t = 0 and only steps - 1 steps are taken, so the
    network is never asked at t = 0, where a velocity has no score. SiT's form SBDM is not offered: for the linear path
    it is t / (1 - t), infinite where sampling starts.
    steps: points of the grid. diffusion: the form of D(t). last_step, last_step_size: of the step to t = 0, as above.
    """

    steps: Annotated[Int, pydantic.Field(ge=2, le=STEPS_AT_MOST)]
    diffusion: Literal["sigma", "constant", "linear", "decreasing", "increasing-decreasing"] = "sigma"
    last_step: Literal["mean", "euler", "none"] = "mean"
    last_step_size: Annotated[float, pydantic.Field(gt=0, lt=1)] = LAST_STEP_SIZE

    VERSION: ClassVar[int] = 1
    order: ClassVar[int] = 1
    deterministic: ClassVar[bool] = False

    @pydantic.model_validator(mode="after")
    def _size_is_used(self) -> Self:
        if self.last_step == "none" and self.last_step_size != LAST_STEP_SIZE:
            raise ValueError("last_step_size changes nothing with last_step none: leave it out")
        return self

    def network_calls(self) -> int:
        return self.steps - (self.last_step == "none")

    def refuses(self, interpolant: Interpolant, predicts: Prediction) -> str | None:
        last = self.grid(interpolant)[-2]
        if not reaches_data(interpolant) and last < FIRST_LEVEL:
            return f"its last call is at t = {last:g}, and below t = {FIRST_LEVEL:g} the network was not trained"
        return super().refuses(interpolant, predicts)

    def grid(self, interpolant: Interpolant) -> list[float]:
        if self.last_step == "none":
            return levels(1.0, 0.0, self.steps - 1)
        return [*levels(1.0, self.last_step_size, self.steps - 1), 0.0]

    def step(
        self, field: Field, x: torch.Tensor, y: torch.Tensor, t: float, t_next: float, draw: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        """A step that ends at t = 0 is the last step, unless there is none."""
        prediction = predict(field, x, y, t)
        v = convert(prediction, field.predicts, "velocity", x, t, field.interpolant)
        is_last = t_next == 0.0 and self.last_step != "none"
        if is_last and self.last_step == "euler":
            return x + (t_next - t) * v
        s = convert(prediction, field.predicts, "score", x, t, field.interpolant)
        d = self._diffusion(field, t)
        mean = x + (t_next - t) * (v - d * s)
        return mean if is_last else mean + math.sqrt(2 * d * (t - t_next)) * draw()

    def _diffusion(self, field: Field, t: float) -> float:
        """D(t) of SiT's compute_diffusion with norm 1; its time is 1 - t, hence the signs."""
        match self.diffusion:
            case "sigma":
                return field.interpolant.sigma(t)
            case "constant":
                return 1.0
            case "linear":
                return t
            case "decreasing":
                return 0.25 * (math.cos(math.pi * (1 - t)) + 1) ** 2
            case "increasing-decreasing":
                return math.sin(math.pi * t) ** 2
