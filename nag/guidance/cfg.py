"""Classifier-free guidance (Ho and Salimans, arXiv 2207.12598): along the class condition."""

from __future__ import annotations

from typing import Annotated, ClassVar

import pydantic

from nag.guidance import Term
from nag.registry import method


@method
class CFG:
    """D_null + s (D - D_null) = D + (s - 1) (D - D_null), D_null with the null class; s = `scale`, 1 is off.

    All channels are guided. (Ho and Salimans write w = s - 1.)
    """

    scale: Annotated[float, pydantic.Field(ge=0, le=1000)]

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"null_class"})

    @property
    def off(self) -> bool:
        return self.scale == 1

    def terms(self) -> tuple[Term, ...]:
        s = self.scale
        return Term(False, False, s - 1), Term(False, True, 1 - s)
