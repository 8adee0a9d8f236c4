"""Epsilon scaling (Ning et al., arXiv 2308.15321): the predicted noise scaled down, against exposure bias."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from nag.guidance.mixing import PURE_NOISE, has_slope
from nag.guidance.terms import Call, Term
from nag.interpolants import convert, known_level
from nag.registry import method

if TYPE_CHECKING:
    import torch


@method
class EpsilonScaling:
    """eps / (k t + b) in place of eps, after all guidance and at no evaluation more; b = 1, k = 0 is off.

    Other predictions are converted to eps and back, the state being as it is. t is our level in [0, 1]; the paper
    counts steps, so that its k is ours divided by their number. Left out where alpha_t = 0: there eps is the state.
    b: 0.5 to 2; 1.005 to 1.017 in the paper, whose uniform schedule has k = 0. k: -0.4 to 1.
    """

    b: Annotated[float, pydantic.Field(ge=0.5, le=2)] = 1.005
    k: Annotated[float, pydantic.Field(ge=-0.4, le=1)] = 0.0

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset()
    nests: ClassVar[bool] = False

    @property
    def off(self) -> bool:
        return self.b == 1 and self.k == 0

    def terms(self) -> tuple[Term, ...]:
        return ()

    def correct(self, prediction: torch.Tensor, call: Call) -> torch.Tensor:
        """(N, C, H, W)"""
        import torch

        x, t, path, predicts, _ = call
        one = known_level(t)
        if one is not None and not has_slope(one, path):
            return prediction
        level = (t if one is None else t[:1]).view(-1, 1, 1, 1)
        eps = convert(prediction, predicts, "eps", x, t, path) / (self.k * level + self.b)
        scaled = convert(eps, "eps", predicts, x, t, path)
        if one is not None:
            return scaled
        return torch.where((level >= 0) & (path.alpha(level) > PURE_NOISE), scaled, prediction)
