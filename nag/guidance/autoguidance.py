"""Autoguidance (Karras et al., arXiv 2406.02507): away from a worse version of the network."""

from __future__ import annotations

from typing import Annotated, ClassVar

import pydantic

from nag.guidance.terms import Interval, Reference, Term
from nag.registry import method


@method
class Autoguidance:
    """D_0 + w (D - D_0) = D + (w - 1) (D - D_0), in the paper's notation; w = `scale`, 1 is off.

    D_0 is the network `reference`, smaller or less trained, under the same class and level as D; it must know the same
    classes. With the guided network as its own reference nothing changes.
    scale: 0 to 1000. interval: the levels t at which it acts.
    """

    scale: Annotated[float, pydantic.Field(ge=0, le=1000)]
    reference: Reference
    interval: Interval = Interval()

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset()

    @property
    def off(self) -> bool:
        return self.scale == 1

    def terms(self) -> tuple[Term, ...]:
        w = self.scale
        return (
            Term(False, False, w - 1, interval=self.interval),
            Term(False, False, 1 - w, self.reference, interval=self.interval),
        )
