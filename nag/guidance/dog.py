"""Domain Guidance (Zhong et al., arXiv 2504.01521, ICLR 2025): away from what a network was before its fine-tuning."""

from __future__ import annotations

from typing import ClassVar

from nag.guidance.scaled import Referenced
from nag.guidance.schedule import Schedule
from nag.guidance.terms import Channels, Term, away_from
from nag.registry import method


@method
class DoG(Referenced):
    """D_ref + s (D - D_ref) = D + (s - 1) (D - D_ref); s = `scale`, 1 is off.

    D is the guided, fine-tuned network; D_ref the pre-trained network `reference` with its own null class, so the two
    may have other classes. With the guided network as its own reference this is CFG. (The paper writes w = s.)
    scale: 0 to 1000. channels: how many of the first channels are guided. Its official code guides 3 of 4, its README
    says 4 ("all"). interval: the levels t at which it acts. schedule: a factor of s - 1, by the level.
    """

    channels: Channels = "all"
    schedule: Schedule = Schedule()

    VERSION: ClassVar[int] = 1
    OFF: ClassVar[float] = 1

    def terms(self) -> tuple[Term, ...]:
        return away_from(
            self.scale - 1,
            null_class=True,
            reference=self.reference,
            channels=None if self.channels == "all" else self.channels,
            interval=self.interval,
            schedule=self.schedule,
        )
