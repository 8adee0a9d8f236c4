"""Time-shift sampling (Li et al., arXiv 2305.15583): networks are told the level that the state seems to have."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pydantic

from nag.field import levels_of
from nag.guidance.mixing import single
from nag.guidance.terms import Call, Term
from nag.interpolants import LEVELS, Interpolant
from nag.registry import method

if TYPE_CHECKING:
    import torch


@method
class TimeShift:
    """Networks are told the level tau within t - window / 2 and t + window / 2 with sigma(tau)^2 closest to Var(x_t).

    The variance is that of a sample's own numbers; tau goes by thousandths, from 1/1000 to 1.
    Only for cutoff < t < 1: at t = 1 the state is exact. The steps stay at the level t; the paper's code also moves the
    end of each step.
    window: 0 to 1, 0 is off. cutoff: 0 to 1, 1 is off. The paper chooses both for each data set and sampler.
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

        x, known = call.x, levels_of(call.t)
        path: Any = call.interpolant  # frozen
        tables = [self._levels(t, path, call.t.dtype, x.device) for t in known]
        variance = x.flatten(1).var(dim=1, keepdim=True)
        if len(set(known)) == 1:  # as in a sampler
            levels, squares = tables[0]
            return levels[(squares - variance).abs().argmin(dim=1)]
        levels, squares = (torch.stack(each) for each in zip(*tables, strict=True))
        return levels.gather(1, (squares - variance).abs().argmin(dim=1, keepdim=True))[:, 0]

    @functools.lru_cache(maxsize=1000)  # noqa: B019  (tables of a few methods, the same in every batch)
    def _levels(self, t: float, path: Interpolant, dtype: Any, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The levels that may be told at t, (1000 window + 1,), and their sigma^2."""
        import torch

        half = round(self.window / 2 * LEVELS)
        levels = torch.tensor(t, dtype=dtype, device=device).expand(2 * half + 1)
        if single(self.cutoff) < t < 1:  # t is float32
            levels = (levels + torch.arange(-half, half + 1, device=device, dtype=dtype) / LEVELS).clamp(1 / LEVELS, 1)
        return levels, path.sigma(levels) ** 2
