"""Time-shift sampling (Li et al., arXiv 2305.15583): networks are told the level that the state seems to have."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from nag.guidance.mixing import single
from nag.guidance.terms import Call, Term
from nag.interpolants import LEVELS, Interpolant, known_level
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
        t, level = call.t, known_level(call.t)
        if level is None:
            levels, variances = _window(t[:, None], half, call.interpolant)
        elif single(self.cutoff) < level < 1:
            levels, variances = _window_at(level, half, call.interpolant, t.dtype, t.device)
        else:
            return t
        nearest = (variances - call.x.flatten(1).var(dim=1, keepdim=True)).abs().argmin(dim=1)
        if level is not None:
            return levels[0].take(nearest)
        told = levels.gather(1, nearest[:, None])[:, 0]
        return torch.where((t > self.cutoff) & (t < 1), told, t)


def _window(t: torch.Tensor, half: int, path: Interpolant) -> tuple[torch.Tensor, torch.Tensor]:
    """The levels within `half` thousandths of t (N, 1), and sigma^2 at each, both (N, 2 half + 1)."""
    import torch

    offsets = torch.arange(-half, half + 1, device=t.device, dtype=t.dtype) / LEVELS
    levels = (t + offsets).clamp(1 / LEVELS, 1)
    return levels, path.sigma(levels) ** 2


@functools.lru_cache(maxsize=256)
def _window_at(
    level: float, half: int, path: Interpolant, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_window` of one level; the batches of a run meet the same levels again."""
    import torch

    with torch.inference_mode(False):
        return _window(torch.full((1, 1), level, dtype=dtype, device=device), half, path)
