"""Noise Awareness Guidance (Zhong et al., arXiv 2510.12497, ICLR 2026): along the noise condition."""

from __future__ import annotations

from typing import Annotated, ClassVar

import pydantic

from nag.guidance.terms import Interval, Term
from nag.registry import method


@method
class NAG:
    """Classifier-free NAG, in the paper's notation: s_w(x|t) = (w + 1) s(x|t) - w s(x); w = `scale`, 0 is off.

    s(x) is the same network with its noise condition replaced by the learned null embedding, its class kept. The
    weights sum to 1, so the mix is the same for score, eps, x0 and velocity. Not "Normalized Attention Guidance".
    scale: 0 to 1000. interval: the levels t at which it acts.
    """

    scale: Annotated[float, pydantic.Field(ge=0, le=1000)]
    interval: Interval = Interval()

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"null_noise"})

    @property
    def off(self) -> bool:
        return self.scale == 0

    def terms(self) -> tuple[Term, ...]:
        w = self.scale
        return Term(False, False, w, interval=self.interval), Term(True, False, -w, interval=self.interval)
