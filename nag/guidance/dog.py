"""Domain Guidance (Zhong et al., arXiv 2504.01521, ICLR 2025): away from what a network was before its fine-tuning."""

from __future__ import annotations

from typing import Annotated, ClassVar

import pydantic

from nag.guidance.terms import Interval, Reference, Term
from nag.registry import method


@method
class DoG:
    """D_ref + s (D - D_ref) = D + (s - 1) (D - D_ref); s = `scale`, 1 is off.

    D is the guided, fine-tuned network; D_ref the pre-trained network `reference` with its own null class, so the two
    may have other classes. With the guided network as its own reference this is CFG. (The paper writes w = s.)
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
        s = self.scale
        return (
            Term(False, False, s - 1, interval=self.interval),
            Term(False, True, 1 - s, self.reference, interval=self.interval),
        )
