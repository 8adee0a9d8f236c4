"""Classifier-free guidance (Ho and Salimans, arXiv 2207.12598): along the class condition."""

from __future__ import annotations

from typing import Annotated, ClassVar

import pydantic

from nag.guidance.terms import Channels, Interval, Term
from nag.registry import method


@method
class CFG:
    """D_null + s (D - D_null) = D + (s - 1) (D - D_null), D_null with the null class; s = `scale`, 1 is off.

    scale: 0 to 1000. (Ho and Salimans write w = s - 1.) channels: how many of the first channels are guided, "all" or,
    as in the official SiT and DiT, 3. interval: the levels t at which it acts.
    """

    scale: Annotated[float, pydantic.Field(ge=0, le=1000)]
    channels: Channels = "all"
    interval: Interval = Interval()

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"null_class"})

    @property
    def off(self) -> bool:
        return self.scale == 1

    def terms(self) -> tuple[Term, ...]:
        s, first = self.scale, None if self.channels == "all" else self.channels
        return (
            Term(False, False, s - 1, channels=first, interval=self.interval),
            Term(False, True, 1 - s, channels=first, interval=self.interval),
        )
