"""DDPM's ancestral sampling (Ho, Jain and Abbeel, arXiv 2006.11239), as in the official DiT code."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from nag.field import Field
from nag.interpolants import LEVELS, VP, Interpolant, Prediction, convert, posterior
from nag.registry import Int, method
from nag.samplers.fixed_step import FixedStep, evaluate, respaced

if TYPE_CHECKING:
    import torch

NOT_VP = "its steps are those of trained betas (interpolant vp); ddim with eta 1 takes such steps on any path"


@method
class DDPM(FixedStep):
    """A draw of q(x_s | x_t, x_0) at the predicted x_0, not clipped, on DiT's respaced levels; one call a step.

    Where the network says a variance (2C channels), it lies between the two bounds as learned (Nichol and Dhariwal,
    arXiv 2102.09672, equation 15); else it is the lower one, that of q. The last step returns x_0 and draws nothing.
    """

    steps: Annotated[Int, pydantic.Field(ge=1, le=LEVELS)]

    VERSION: ClassVar[int] = 2
    order: ClassVar[int] = 1
    deterministic: ClassVar[bool] = False

    def refuses(self, interpolant: Interpolant, predicts: Prediction) -> str | None:
        return None if isinstance(interpolant, VP) else NOT_VP

    def grid(self, interpolant: Interpolant) -> list[float]:
        """Raises ValueError for a path that is not VP."""
        if not isinstance(interpolant, VP):
            raise ValueError(f"ddpm cannot sample this network: {NOT_VP}")
        return respaced(self.steps)

    def step(
        self, field: Field, x: torch.Tensor, y: torch.Tensor, t: float, t_next: float, draw: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        out, channels = evaluate(field, x, y, t), field.shape[0]
        x0 = convert(out[:, :channels], field.predicts, "x0", x, t, field.interpolant)
        if t_next == 0.0:
            return x0
        q, learned = posterior(field.interpolant, t, t_next), out[:, channels:]
        mean = q.from_x0 * x0 + q.from_x * x
        if not learned.shape[1]:
            return mean + math.sqrt(q.variance) * draw()
        low, high = math.log(q.variance), math.log(q.forward)
        return mean + (0.5 * (low + (learned + 1) / 2 * (high - low))).exp() * draw()
