"""Independent condition guidance (ICG, Sadat et al., arXiv 2407.02687): away from a random class, without training."""

from __future__ import annotations

from typing import ClassVar

from nag.guidance.scaled import Scaled
from nag.guidance.schedule import Schedule
from nag.guidance.terms import Altered, Interval, Term, away_from
from nag.registry import method


@method
class ICG(Scaled):
    """D' + w (D - D') = D + (w - 1) (D - D'), D' under a random other class; w = `scale`, 1 is off.

    The class is drawn anew for each sample and call, uniformly among those that are not the sample's own. It stands for
    the null class, so it needs no training with one. w = 1.4 for DiT in the paper.
    scale: 0 to 1000. interval, schedule: the levels t at which it acts, a factor of w - 1.
    """

    interval: Interval = Interval()
    schedule: Schedule = Schedule()

    VERSION: ClassVar[int] = 1
    OFF: ClassVar[float] = 1
    reference: ClassVar[None] = None

    def terms(self) -> tuple[Term, ...]:
        altered = Altered(other_class=True)
        return away_from(self.scale - 1, interval=self.interval, schedule=self.schedule, altered=altered)
