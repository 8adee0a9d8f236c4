"""Autoguidance (Karras et al., arXiv 2406.02507): away from a worse version of the network."""

from __future__ import annotations

from typing import ClassVar

from nag.guidance.scaled import Referenced
from nag.guidance.schedule import Schedule
from nag.guidance.terms import Term, away_from
from nag.registry import method


@method
class Autoguidance(Referenced):
    """D_0 + w (D - D_0) = D + (w - 1) (D - D_0), in the paper's notation; w = `scale`, 1 is off.

    D_0 is the network `reference`, smaller or less trained, under the same class and level as D; it must know the same
    classes. With the guided network as its own reference nothing changes, unless null_noise: then the reference is
    asked under its null noise condition, and with the guided network as reference that is NAG with w - 1.
    scale: 0 to 1000. interval: the levels t at which it acts. schedule: a factor of w - 1, by the level.
    """

    schedule: Schedule = Schedule()
    null_noise: bool = False

    VERSION: ClassVar[int] = 1
    OFF: ClassVar[float] = 1

    def terms(self) -> tuple[Term, ...]:
        return away_from(
            self.scale - 1,
            null_noise=self.null_noise,
            reference=self.reference,
            interval=self.interval,
            schedule=self.schedule,
        )
