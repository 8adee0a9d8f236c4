"""The bases of guidance with one `scale`: along a condition of the network, or against a reference network."""

from __future__ import annotations

from typing import Annotated, ClassVar

import pydantic

from nag.guidance.terms import Interval, Reference
from nag.registry import method


@method
class Scaled:
    """Guidance with a `scale`, which is off at `OFF`."""

    scale: Annotated[float, pydantic.Field(ge=0, le=1000)]

    OFF: ClassVar[float]
    needs: ClassVar[frozenset[str]] = frozenset()
    nests: ClassVar[bool] = False

    @property
    def off(self) -> bool:
        return self.scale == self.OFF


@method
class Referenced(Scaled):
    """Guidance with a `scale` and a network `reference`, at the levels of `interval`."""

    reference: Reference
    interval: Interval = Interval()
