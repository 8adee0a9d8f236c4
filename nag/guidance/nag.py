"""Noise Awareness Guidance (Zhong et al., arXiv 2510.12497, ICLR 2026): along the noise condition."""

from __future__ import annotations

from typing import ClassVar

from nag.guidance.scaled import Scaled
from nag.guidance.schedule import Schedule
from nag.guidance.terms import Interval, Term, away_from
from nag.registry import method


@method
class NAG(Scaled):
    """Classifier-free NAG, in the paper's notation: s_w(x|t) = (w + 1) s(x|t) - w s(x); w = `scale`, 0 is off.

    s(x) is the same network with its noise condition replaced by the learned null embedding, its class kept. The
    weights sum to 1, so the mix is the same for score, eps, x0 and velocity. Not "Normalized Attention Guidance".
    scale: 0 to 1000. interval: the levels t at which it acts. schedule: a factor of w, by the level.
    """

    interval: Interval = Interval()
    schedule: Schedule = Schedule()

    VERSION: ClassVar[int] = 1
    OFF: ClassVar[float] = 0
    needs: ClassVar[frozenset[str]] = frozenset({"null_noise"})
    nests: ClassVar[bool] = True
    reference: ClassVar[None] = None

    def terms(self) -> tuple[Term, ...]:
        return away_from(self.scale, null_noise=True, interval=self.interval, schedule=self.schedule)
