"""Time-shift sampling (Li et al., arXiv 2305.15583): networks are told the level that the state seems to have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from nag.guidance.terms import Call, Term
from nag.interpolants import LEVELS
from nag.registry import method

if TYPE_CHECKING:
    import torch


@method
class TimeShift:
    """Networks are told the level tau within t - window / 2 and t + window / 2 with sigma(tau)^2 closest to Var(x_t).

    The variance is that of a sample's own numbers; tau goes by thousandths, from 1/1000 to 1.
    Only for cutoff < t < 1: at t = 1 the state is exact. The steps stay at the level t; the paper's code also moves the
    end of each step.
    window: 0 to 1, 0 is off. cutoff: 0 to 1, 1 is off. The paper chooses both for each data set and sampler, so there
    is no default; its release has, for CIFAR-10, window 0.01 and cutoff 0.55 with F-PNDM and 100 steps, 0.06 and 0.3
    with DPM-Solver and 5, 0.02 and 0.9 with DEIS and 5 (its --window_size is half of `window`, in thousandths).
    """

    window: Annotated[float, pydantic.Field(ge=0, le=1)]
    cutoff: Annotated[float, pydantic.Field(ge=0, le=1)]

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset()
    nests: ClassVar[bool] = False

    @property
    def off(self) -> bool:
        return round(self.window / 2 * LEVELS) == 0 or self.cutoff == 1

    def terms(self) -> tuple[Term, ...]:
        return ()

    def told(self, call: Call) -> torch.Tensor:
        """(N,)"""
        import torch

        half = round(self.window / 2 * LEVELS)
        offsets = torch.arange(-half, half + 1, device=call.t.device, dtype=call.t.dtype) / LEVELS
        levels = (call.t[:, None] + offsets).clamp(1 / LEVELS, 1)
        apart = (call.interpolant.sigma(levels) ** 2 - call.x.flatten(1).var(dim=1, keepdim=True)).abs()
        nearest = levels.gather(1, apart.argmin(dim=1, keepdim=True))[:, 0]
        return torch.where((call.t > self.cutoff) & (call.t < 1), nearest, call.t)
