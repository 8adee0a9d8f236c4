"""DPM-Solver++(2M) (Lu et al., arXiv 2211.01095): a multistep solver of the probability-flow ODE for few steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from nag.field import Field
from nag.interpolants import Interpolant, Prediction
from nag.registry import method
from nag.samplers.fixed_step import FixedStep, data, half_log_snr, not_by_log_snr

if TYPE_CHECKING:
    import torch


@method
class DPMpp2M(FixedStep):
    """Algorithm 2 of the paper on `steps` equal steps from t = 1 to 0; one network call a step, at the state's level.

    With h the step in lambda = log(alpha / sigma) and m the predicted x_0:
    x(t') = sigma' / sigma x + alpha' (1 - e^-h) D, D = m + h / (2 h_before) (m - m_before), which is diffusers'
    DPMSolverMultistepScheduler (midpoint) but on levels of our own, none of them rounded or clipped. The first step,
    and the last, which returns x_0, use m alone.

    These two are of order 1, so that few steps fall short of order 2: on the linear path the error falls as steps^-1.2
    between 10 and 40 steps, and as steps^-1.6 to ^-1.8 from there to 320.
    """

    VERSION: ClassVar[int] = 1
    order: ClassVar[int] = 2

    def refuses(self, interpolant: Interpolant, predicts: Prediction) -> str | None:
        return not_by_log_snr(interpolant, predicts, self.steps)

    def solver(self) -> Solver:
        return Solver()


class Solver:
    """The solver of one batch: its steps use the prediction before."""

    def __init__(self) -> None:
        self._before: tuple[float, torch.Tensor] | None = None  # lambda and m

    def step(
        self, field: Field, x: torch.Tensor, y: torch.Tensor, t: float, t_next: float, draw: Callable[[], torch.Tensor]
    ) -> torch.Tensor:
        path, m = field.interpolant, data(field, x, y, t)
        now, to = half_log_snr(path, t), half_log_snr(path, t_next)
        h, d = to - now, m
        if self._before is not None and math.isfinite(h):
            before, m_before = self._before
            d = m + h / (2 * (now - before)) * (m - m_before)  # from lambda = -inf (t = 1) the slope is 0
        self._before = (now, m)
        return path.sigma(t_next) / path.sigma(t) * x - path.alpha(t_next) * math.expm1(-h) * d
