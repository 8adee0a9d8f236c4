"""Rescaled guidance (Lin et al., arXiv 2305.08891, section 3.4): the standard deviation of D, whatever guides it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from nag.guidance.terms import Call, Term
from nag.registry import method

if TYPE_CHECKING:
    import torch


@method
class Rescale:
    """phi M std(D) / std(M) + (1 - phi) M for the mix M of all guidance, std over (C, H, W) of each sample.

    It acts on what the network predicts, beside any guidance that adds to D, and needs one.
    phi: 0 to 1, 0 is off; 0.7 in the paper.
    """

    phi: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.7

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset()
    nests: ClassVar[bool] = False

    @property
    def off(self) -> bool:
        return self.phi == 0

    def terms(self) -> tuple[Term, ...]:
        return ()

    def output(self, mix: torch.Tensor, D: torch.Tensor, call: Call) -> torch.Tensor:
        """(N, C, H, W)"""
        dims = tuple(range(1, mix.ndim))
        ratio = D.std(dims, keepdim=True) / mix.std(dims, keepdim=True)
        return self.phi * mix * ratio + (1 - self.phi) * mix
