"""Classifier-free guidance (Ho and Salimans, arXiv 2207.12598): along the class condition."""

from __future__ import annotations

from typing import ClassVar

from nag.guidance.scaled import Scaled
from nag.guidance.schedule import Schedule
from nag.guidance.terms import Channels, Interval, Term, away_from
from nag.registry import method


@method
class CFG(Scaled):
    """D_null + s (D - D_null) = D + (s - 1) (D - D_null), D_null with the null class; s = `scale`, 1 is off.

    scale: 0 to 1000. (Ho and Salimans write w = s - 1.) channels: how many of the first channels are guided, "all" or,
    as in the official SiT and DiT, 3. interval: the levels t at which it acts. schedule: a factor of s - 1, by the
    level.
    """

    channels: Channels = "all"
    interval: Interval = Interval()
    schedule: Schedule = Schedule()

    VERSION: ClassVar[int] = 1
    OFF: ClassVar[float] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"null_class"})
    reference: ClassVar[None] = None

    def terms(self) -> tuple[Term, ...]:
        return away_from(
            self.scale - 1,
            null_class=True,
            channels=None if self.channels == "all" else self.channels,
            interval=self.interval,
            schedule=self.schedule,
        )
