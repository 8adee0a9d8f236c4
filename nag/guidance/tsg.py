"""Time-step guidance (TSG, Sadat et al., arXiv 2407.02687): away from a prediction for a perturbed level."""

from __future__ import annotations

from typing import Annotated, ClassVar

import pydantic

from nag.guidance.scaled import Scaled
from nag.guidance.schedule import Schedule
from nag.guidance.terms import Altered, Interval, Term, away_from
from nag.registry import method


@method
class TSG(Scaled):
    """D' + w (D - D') = D + (w - 1) (D - D'); w = `scale`, 1 is off. The level's embedding in D' is e(t) + s t^a n.

    s = `noise`, a = `power`, n standard normal, drawn anew for each sample and call; t is our level in [0, 1]. The
    defaults are the paper's for DiT, with w = 2.5 there.
    scale: 0 to 1000. noise: 0 to 1000, 0 is off. power: 0 to 10. interval, schedule: the levels t at which it acts, a
    factor of w - 1.
    """

    noise: Annotated[float, pydantic.Field(ge=0, le=1000)] = 2.0
    power: Annotated[float, pydantic.Field(ge=0, le=10)] = 1.0
    interval: Interval = Interval()
    schedule: Schedule = Schedule()

    VERSION: ClassVar[int] = 1
    OFF: ClassVar[float] = 1
    reference: ClassVar[None] = None

    @property
    def off(self) -> bool:
        return self.scale == self.OFF or self.noise == 0

    def terms(self) -> tuple[Term, ...]:
        altered = Altered(embedding_noise=(self.noise, self.power))
        return away_from(self.scale - 1, interval=self.interval, schedule=self.schedule, altered=altered)
