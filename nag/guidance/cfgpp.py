"""CFG++ (Chung et al., arXiv 2406.08070): steps to the guided x_0, with noise added back along the null prediction."""

from __future__ import annotations

from typing import Annotated, ClassVar

import pydantic

from nag.guidance.schedule import Renoised
from nag.guidance.terms import Interval, Term, away_from
from nag.registry import method


@method
class CFGpp:
    """x' = alpha' x_0(eps) + sigma' eps_null, eps = eps_null + lambda (eps_c - eps_null); lambda = `scale` in [0, 1].

    It needs a sampler whose step is alpha' x_0 + sigma' eps of one prediction: ddim with eta 0, or euler on the linear
    path. There it is CFG with a scale that depends on the step (`nag.guidance.schedule.Renoised`), which is how it is
    computed. 0 is the null prediction alone; no value is off.
    interval: the levels t at which it acts; elsewhere the step is one without guidance.
    """

    scale: Annotated[float, pydantic.Field(ge=0, le=1)]
    interval: Interval = Interval()

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"null_class"})
    nests: ClassVar[bool] = False
    off: ClassVar[bool] = False
    reference: ClassVar[None] = None

    def terms(self) -> tuple[Term, ...]:
        return away_from(1.0, null_class=True, interval=self.interval, schedule=Renoised(self.scale))
