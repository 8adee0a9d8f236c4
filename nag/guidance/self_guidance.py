"""Self-Guidance (SG, Li et al., arXiv 2412.05827): away from the network's own prediction for a noisier level."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

import pydantic

from nag.guidance.scaled import Scaled
from nag.guidance.schedule import Schedule
from nag.guidance.terms import Altered, Interval, Term, away_from
from nag.registry import method

SHIFT = 0.01  # 10 of 1000 steps


@method
class SelfGuidance(Scaled):
    """D(t) + w (D(t) - D(t + d)) on one state; w = `scale`, 0 is off. d = `shift`, t + d is at most 1.

    The predictions are those of the network's own kind, mixed as they are. previous: SG-prev, with D of the step before
    in place of D(t + d): no evaluation more, and nothing in the first step. It needs a sampler with one network call a
    step, and no `shift`.
    scale: 0 to 1000. shift: 0 to 1, 0 is off. interval, schedule: the levels t at which it acts, a factor of w.
    """

    shift: Annotated[float, pydantic.Field(ge=0, le=1)] = SHIFT
    previous: bool = False
    interval: Interval = Interval()
    schedule: Schedule = Schedule()

    VERSION: ClassVar[int] = 1
    OFF: ClassVar[float] = 0
    reference: ClassVar[None] = None

    @pydantic.model_validator(mode="after")
    def _shift_is_used(self) -> Self:
        if self.previous and self.shift != SHIFT:
            raise ValueError("shift changes nothing with previous: leave one of the two out")
        return self

    @property
    def off(self) -> bool:
        return self.scale == self.OFF or (self.shift == 0 and not self.previous)

    def terms(self) -> tuple[Term, ...]:
        altered = Altered(previous=True) if self.previous else Altered(shift=self.shift)
        return away_from(self.scale, interval=self.interval, schedule=self.schedule, altered=altered)
