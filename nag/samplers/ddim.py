"""DDIM (Song, Meng and Ermon, arXiv 2010.02502), on any interpolant."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from nag.field import Field
from nag.interpolants import LEVELS, VP, Interpolant, convert, posterior
from nag.registry import Int, method
from nag.samplers.fixed_step import FixedStep, predict, respaced

if TYPE_CHECKING:
    import torch


@method
class DDIM(FixedStep):
    """x_s = alpha_s x_0 + sqrt(sigma_s^2 - d^2) eps + d z (equation 12), d^2 = eta^2 times the variance of
    q(x_s | x_t, x_0); eta 0 draws no noise, eta 1 is the ancestral step.

    x_0 and eps are the network's prediction, not clipped; one call a step. On VP the levels are DiT's respaced ones, on
    other paths `steps` equal steps from t = 1 to 0.
    eta: share of the ancestral step's noise.
    """

    steps: Annotated[Int, pydantic.Field(ge=1, le=LEVELS)]
    eta: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.0

    VERSION: ClassVar[int] = 2
    order: ClassVar[int] = 1

    @property
    def deterministic(self) -> bool:
        return self.eta == 0

    def grid(self, interpolant: Interpolant) -> list[float]:
        return respaced(self.steps) if isinstance(interpolant, VP) else super().grid(interpolant)

    def renoises(self, interpolant: Interpolant) -> bool:
        return self.eta == 0

    def step(
        self, field: Field, x: torch.Tensor, y: torch.Tensor, t: float, t_next: float, draw: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        prediction = predict(field, x, y, t)
        x0, eps = (convert(prediction, field.predicts, kind, x, t, field.interpolant) for kind in ("x0", "eps"))
        alpha, sigma = field.interpolant.alpha(t_next), field.interpolant.sigma(t_next)
        variance = self.eta**2 * posterior(field.interpolant, t, t_next).variance
        mean = alpha * x0 + math.sqrt(max(sigma**2 - variance, 0.0)) * eps
        return mean + math.sqrt(variance) * draw() if variance else mean
